"""Child registries of MMEngine's: everything here is found under the scope ``convnextv2_mm``."""

from mmengine import registry
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=registry.MODELS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.models', 'convnextv2_mm.checkpoints'],
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=registry.WEIGHT_INITIALIZERS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.checkpoints.pretrained'],
)
DATASETS = Registry(
    'dataset',
    parent=registry.DATASETS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.datasets'],
)
TRANSFORMS = Registry(
    'transform',
    parent=registry.TRANSFORMS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.datasets'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=registry.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.engine'],
)
METRICS = Registry(
    'metric',
    parent=registry.METRICS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.evaluation'],
)
LOOPS = Registry(
    'loop',
    parent=registry.LOOPS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.engine'],
)
STRATEGIES = Registry(
    'strategy',
    parent=registry.STRATEGIES,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.engine.runner.fsdp'],
)
FUNCTIONS = Registry(
    'function',
    parent=registry.FUNCTIONS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.engine.runner.fsdp'],
)
HOOKS = Registry(
    'hook',
    parent=registry.HOOKS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.engine', 'convnextv2_mm.engine.hooks.class_count_hook'],
)
TASK_UTILS = Registry(
    'task util',
    parent=registry.TASK_UTILS,
    scope='convnextv2_mm',
    locations=['convnextv2_mm.models.task_modules'],
)
