"""Every config parses, builds, and has the sizes and the recipe that its name stands for."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import modelindex
import numpy as np
import pytest
import torch
import yaml
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from timm.utils import ModelEmaV2
from torch import nn

from convnextv2_mm.checkpoints.model_zoo import MODEL_ZOO, SCHEME
from convnextv2_mm.engine.config.checks import check_fcmae, check_num_classes, check_same_classes
from convnextv2_mm.engine.config.keys import SPLITS, check_keys
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.engine.optimizers.layer_decay import LayerDecayOptimWrapperConstructor
from convnextv2_mm.models import ConvNeXtV2
from convnextv2_mm.models.layers.block import ConvNeXtV2Block

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / 'configs').glob('[!_]*/*.py')
    if path.parent.name != 'own'  # filled in from data: tests/engine/config/test_own_data.py
)
# Not in the paper's tables: they have no metafile and no recipe of the paper. Ablations and linear
# probes have tests of their own, test_ablations.py and tests/tools/test_frozen_features.py.
WITHOUT_RECIPE = ('ablations/', 'demo/', '_linear-probe_')
RECIPES = [path for path in CONFIGS if not any(part in path for part in WITHOUT_RECIPE)]


class Size(NamedTuple):
    """A row of the paper's table of sizes; parameters as printed, with a classifier."""

    name: str
    width: int
    blocks: list[int]
    params: str


V2 = {
    'a': Size('atto', 40, [2, 2, 6, 2], '3.7'),
    'f': Size('femto', 48, [2, 2, 6, 2], '5.2'),
    'p': Size('pico', 64, [2, 2, 6, 2], '9.1'),
    'n': Size('nano', 80, [2, 2, 8, 2], '15.6'),
    't': Size('tiny', 96, [3, 3, 9, 3], '28.6'),
    'b': Size('base', 128, [3, 3, 27, 3], '89'),
    'l': Size('large', 192, [3, 3, 27, 3], '198'),
    'h': Size('huge', 352, [3, 3, 27, 3], '660'),
}
V1 = {
    't': Size('tiny', 96, [3, 3, 9, 3], '29'),
    's': Size('small', 96, [3, 3, 27, 3], '50'),
    'b': Size('base', 128, [3, 3, 27, 3], '89'),
    'l': Size('large', 192, [3, 3, 27, 3], '198'),
}


def test_the_sizes_of_configs_are_those_of_the_backbone():
    files = sorted((ROOT / 'configs/_base_/sizes').glob('*.py'))
    sizes = {path.stem: Config.fromfile(path).to_dict() for path in files}
    settings = ConvNeXtV2.arch_settings.items()
    expected = {arch: dict(arch=arch, channels=size['channels']) for arch, size in settings}
    assert sizes == expected


class Recipe(NamedTuple):
    """A column of the paper's tables of recipes; ``base_lr`` is for a batch of 256."""

    base_lr: float
    batch: int
    weight_decay: float
    warmup: int  # epochs, or iterations where the paper counts those
    length: int
    decay_rate: float
    decay_type: str
    drop_path: float
    betas: tuple[float, float] = (0.9, 0.999)
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    head_scale: float = 1.0


@cache
def read(path: str) -> Config:
    """A config of the repository, parsed once for all tests, which leave it as it is."""
    return read_config(str(ROOT / path))


def recipe_of(stem: str) -> Recipe:
    """The recipe that the name of a config stands for."""
    size = re.search(r'convnext(?:v2)?-(\w)_', stem)[1]
    small, large = size in 'afpn', size in 'blh'
    layers, groups = (0.9, 'layer_wise'), (0.6, 'group_wise')
    mixed = dict(smoothing=0.1, mixup=0.8, cutmix=1.0)
    tuned = dict(ema=0.9999, head_scale=0.001)
    if stem.startswith('fcmae'):
        epochs = 1600 if '1600e' in stem else 800
        return Recipe(1.5e-4, 4096, 0.05, 40, epochs, 1.0, 'layer_wise', 0.0, betas=(0.9, 0.95))
    if stem.startswith(('mask-rcnn', 'cascade')):
        decay = (0.95, 'layer_wise' if small else 'group_wise')
        drop_path = 0.1 if small else dict(t=0.4, b=0.4, l=0.5, h=0.5)[size]
        if 'ms-1x' in stem:
            drop_path = dict(a=0.1, t=0.2)[size]
            return Recipe(1e-4 * 256 / 16, 16, 0.05, 500, 12, *decay, drop_path)
        return Recipe(1e-4 * 256 / 32, 32, 0.05, 1000, 36, *decay, drop_path)
    if stem.startswith('upernet'):
        decay, drop_path = ((0.9, 'layer_wise'), 0.1) if small else ((0.9, 'group_wise'), 0.4)
        return Recipe(1e-4 * 256 / 16, 16, 0.05, 1500, 160000, *decay, drop_path)
    if '-300e_in1k' in stem:
        drop_path = dict(t=0.1, s=0.4, b=0.5, l=0.5)[size]
        decay = (1.0, 'layer_wise')
        return Recipe(2.5e-4, 4096, 0.05, 20, 300, *decay, drop_path, **mixed, ema=0.9999)
    if '-fcmae_in22k' in stem:
        drop_path = 0.2 if size == 'h' else 0.1
        decay = groups if large else layers
        return Recipe(2.5e-4, 4096, 0.05, 5, 90, *decay, drop_path, **mixed, head_scale=0.001)
    if '-fcmae-in22k_in1k' in stem:
        drop_path = dict(n=0.1, t=0.1, b=0.2, l=0.3, h=0.4)[size]
        decay = (0.8, 'group_wise') if large else layers
        return Recipe(2.5e-5, 512, 1e-8, 0, 30, *decay, drop_path, smoothing=0.1, **tuned)
    assert '-fcmae_in1k' in stem
    if small:
        return Recipe(2e-4, 1024, 0.3, 0, 600, *layers, 0.1, smoothing=0.2, **tuned)
    if size == 't':
        return Recipe(8e-4, 1024, 0.05, 40, 300, *layers, 0.2, **mixed, **tuned)
    epochs, drop_path = dict(b=(100, 0.1), l=(100, 0.2), h=(50, 0.3))[size]
    return Recipe(6.25e-4, 1024, 0.05, 20, epochs, *groups, drop_path, **mixed, **tuned)


def images_of_a_step(config, stem: str) -> int:
    """Images of an optimizer step, as the name of a config says it, if it does."""
    per_gpu = config.train_dataloader.batch_size
    steps = config.optim_wrapper.get('accumulative_counts', 1)
    name = re.search(r'_(\d+)xb(\d+)(?:-accum(\d+))?-', stem)
    if name is None:
        assert steps == 1
        return 8 * per_gpu
    assert int(name[2]) == per_gpu
    assert int(name[3] or 1) == steps
    return int(name[1]) * per_gpu * steps


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds(path):
    config = read(path)
    init_default_scope(config.default_scope)
    model = deepcopy(config.model)
    model.backbone.pop('init_cfg', None)
    model = check_model(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    wrapper = config.optim_wrapper
    if '_linear-probe_' not in path:
        assert wrapper.constructor == 'convnextv2_mm.LayerDecayOptimWrapperConstructor'
        constructor = LayerDecayOptimWrapperConstructor(
            dict(type='OptimWrapper', optimizer=wrapper.optimizer), wrapper.paramwise_cfg
        )
        assert len(constructor(model).param_groups) >= 2
    check_keys(config)
    check_same_classes(config)
    check_num_classes(model, config, SPLITS)
    check_fcmae(model, config, SPLITS)
    if path in RECIPES:
        check_sizes(model, Path(path).stem)
        check_metafile(model, path)


def check_sizes(model, stem: str) -> None:
    """Widths, depths and parameters of a built model against the paper's table."""
    version, letter = re.search(r'convnext(v2)?-(\w)_', stem).groups()
    size = (V2 if version else V1)[letter]
    backbone = model.backbone
    widths = [size.width * 2**i for i in range(4)]
    assert backbone.channels == widths
    assert backbone.depths == size.blocks
    blocks = [m for m in backbone.modules() if isinstance(m, ConvNeXtV2Block)]
    assert all((block.grn is not None) == bool(version) for block in blocks)
    assert all((block.gamma is None) == bool(version) for block in blocks)
    # The table counts the norm and the classifier of ImageNet-1K after the last stage.
    inner = {k: v for k, v in backbone.named_parameters() if not k.startswith('norm')}
    millions = (sum(v.numel() for v in inner.values()) + (2 + 1000) * widths[-1] + 1000) / 1e6
    decimals = len(size.params.partition('.')[2])
    assert abs(millions - float(size.params)) <= 0.5 * 10**-decimals + 0.05 * (not decimals)


def check_metafile(model, path: str) -> None:
    metafile = yaml.safe_load((ROOT / path).with_name('metafile.yml').read_text())
    entry = next(entry for entry in metafile['Models'] if entry['Config'] == path)
    assert entry['Metadata']['Parameters'] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('path', RECIPES)
def test_recipe_is_that_of_the_paper(path):
    config, stem = read(path), Path(path).stem
    recipe = recipe_of(stem)
    assert images_of_a_step(config, stem) == config.auto_scale_lr.base_batch_size == recipe.batch

    wrapper = config.optim_wrapper
    lr = recipe.base_lr * recipe.batch / 256
    assert wrapper.optimizer.type == 'AdamW'
    assert wrapper.optimizer.lr == pytest.approx(lr)
    assert wrapper.optimizer.weight_decay == recipe.weight_decay
    assert tuple(wrapper.optimizer.betas) == recipe.betas
    decay = wrapper.paramwise_cfg
    assert decay.decay_rate == recipe.decay_rate
    assert recipe.decay_rate == 1 or decay.decay_type == recipe.decay_type

    epochs = re.search(r'-(\d+)e[_-]', stem)
    assert epochs is None or int(epochs[1]) == recipe.length
    assert config.train_cfg.get('max_epochs', config.train_cfg.get('max_iters')) == recipe.length
    *warmup, schedule = config.param_scheduler
    assert [step.end for step in warmup] == [recipe.warmup] * (recipe.warmup > 0)
    assert schedule.end == recipe.length
    if 'coco' not in stem:
        assert schedule.get('begin', 0) == recipe.warmup
    if 'classification' in path:
        last = schedule.get('eta_min', schedule.get('eta_min_ratio', 0) * lr)
        assert last == pytest.approx(1e-6)
        assert 'eta_min_ratio' in schedule or recipe.decay_rate == 1

    assert config.model.backbone.get('drop_path_rate', 0) == recipe.drop_path
    ema = [hook for hook in config.get('custom_hooks', []) if hook.type == 'EMAHook']
    assert len(ema) == (recipe.ema > 0)
    for hook in ema:
        assert 1 - hook.momentum == pytest.approx(recipe.ema)
        assert hook.get('interval', 1) == wrapper.get('accumulative_counts', 1)


@pytest.mark.parametrize('path', [p for p in RECIPES if 'classification/' in p])
def test_classification_head_and_augmentation(path):
    config, stem = read(path), Path(path).stem
    recipe, head = recipe_of(stem), config.model.head
    classes = 21841 if '_in22k' in stem else 1000
    assert head.num_classes == config.model.data_preprocessor.num_classes == classes
    assert head.loss.label_smooth_val == recipe.smoothing
    assert head.init_cfg.std == pytest.approx(0.02 * recipe.head_scale)
    augments = config.model.get('train_cfg', {}).get('augments', [])
    alphas = {augment.type: augment.alpha for augment in augments}
    assert alphas == ({'Mixup': recipe.mixup, 'CutMix': recipe.cutmix} if recipe.mixup else {})

    pixels = int(re.search(r'-(\d+)px', stem)[1])
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert steps['convnextv2_mm.RandomResizedCrop'].scale == pixels
    augment, erase = steps['RandAugment'], steps['RandomErasing']
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (erase.erase_prob, erase.mode) == (0.25, 'rand')
    assert config.train_dataloader.collate_fn.type == 'default_collate'
    if '_in22k' in stem:
        assert config.val_dataloader is None
        assert config.test_dataloader is None
        return
    assert config.train_cfg.val_interval == 1
    for loader in (config.val_dataloader, config.test_dataloader):
        _, *resize, _ = loader.dataset.pipeline
        assert resize[0].interpolation == 'bicubic'
        if pixels == 224:
            assert (resize[0].type, resize[0].scale, resize[0].edge) == ('ResizeEdge', 256, 'short')
            assert (resize[1].type, resize[1].crop_size) == ('CenterCrop', 224)
        else:
            assert [(step.type, step.scale) for step in resize] == [('Resize', pixels)]


@pytest.mark.parametrize('path', [p for p in RECIPES if 'pretrain/' not in p])
def test_initial_weights_are_of_the_stage_before(path):
    """The default checkpoint is published, or is what another config leaves."""
    config, stem = read(path), Path(path).stem
    version, letter = re.search(r'convnext(v2)?-(\w)_', stem).groups()
    init = config.model.backbone.get('init_cfg')
    if '-300e_in1k' in stem:
        assert init is None
        return
    name = init.checkpoint
    if name.startswith(SCHEME):
        weights = MODEL_ZOO[name.removeprefix(SCHEME)]
        assert weights.version == (2 if version else 1)
        assert weights.size == (V2 if version else V1)[letter].name
        if 'classification/' in path:
            assert weights.stage == 'fcmae_in1k'
        elif '-fcmae' in stem:
            assert weights.stage == ('fcmae_ft_in22k_in1k' if 'in22k' in stem else 'fcmae_ft_in1k')
        else:
            assert weights.stage == 'in1k'
        return
    folder, file = Path(name).parent.name, Path(name).name
    before = read(f'configs/classification/{folder}.py')
    assert file == f'epoch_{before.train_cfg.max_epochs}.pth'
    assert f'convnextv2-{letter}_' in folder
    assert ('_in22k' in folder) == ('-in22k_' in stem)
    assert ('-fcmae' in folder) == ('-fcmae' in stem)


@pytest.mark.parametrize('path', CONFIGS)
def test_sharding_is_in_the_name(path):
    config = read(path)
    is_sharded = config.get('strategy', {}).get('type') == 'convnextv2_mm.FSDPStrategy'
    assert is_sharded == ('-fsdp_' in path) == (config.get('runner_type') == 'FlexibleRunner')
    if is_sharded:  # nothing else has changed
        other = read(path.replace('-fsdp_', '_').replace('8xb512', '8xb128-accum4'))
        for key in ('model', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
            assert config[key] == other[key]
        assert config.optim_wrapper.optimizer == other.optim_wrapper.optimizer


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, inputs, mode='loss', **_):
        return dict(loss=(self.layer(inputs.double()) - 1).square().mean())


class OfficialAverage(Hook):
    """timm's average, updated where the official code does: after each step of the optimizer."""

    priority = 'VERY_LOW'

    def __init__(self, steps, decay):
        self.steps, self.decay, self.seen = steps, decay, []

    def before_train(self, runner):
        self.average = ModelEmaV2(runner.model, self.decay)

    def after_train_iter(self, runner, batch_idx, **_):
        hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
        ours, theirs = hook.ema_model.module.layer.weight, self.average.module.layer.weight
        # MMEngine's hook counts batches from 1 and so sees a step with the batch after it.
        if batch_idx > 0 and batch_idx % self.steps == 0:
            self.seen.append((ours - theirs).abs().max().item())
        if (batch_idx + 1) % self.steps == 0:
            self.average.update(runner.model)
            self.last = (theirs - runner.model.layer.weight).abs().max().item()


def test_average_of_weights_counts_steps_of_the_optimizer(tmp_path):
    """With gradients summed over batches, MMEngine's EMA is timm's of the official code."""
    path = 'configs/classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'
    config = read(path)
    (ema,) = config.custom_hooks
    steps = config.optim_wrapper.accumulative_counts
    official = OfficialAverage(steps, 1 - ema.momentum)
    torch.manual_seed(0)
    data = [dict(inputs=torch.rand(3)) for _ in range(40)]
    runner = Runner(
        Line(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=data,
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=steps),
        custom_hooks=[dict(ema), official],
        default_hooks=dict(checkpoint=None),
        default_scope='mmengine',
        experiment_name=tmp_path.name,
    )
    runner.train()
    assert len(official.seen) == 9
    assert max(official.seen) < 1e-12
    assert official.last > 0.1  # the weights themselves are far from it


def test_detection_boxes_follow_the_outlines(tmp_path):
    """Large-scale jitter of an image with polygons of one and two parts, and a crowd region."""
    cv2.imwrite(str(tmp_path / 'image.png'), np.zeros((400, 600, 3), np.uint8))
    objects = [
        [[10.2, 20.3, 90.9, 35.5, 50.4, 120.8]],
        [[300.5, 200.25, 420.75, 210.5, 350.1, 330.9], [250.3, 180.1, 280.6, 190.2, 260.5, 260.7]],
        dict(size=[400, 600], counts=[0, 1000, 239000]),
    ]
    instances = [
        dict(bbox=[0, 0, 600, 400], bbox_label=i, mask=mask, ignore_flag=int(i == 2))
        for i, mask in enumerate(objects)
    ]
    path = 'configs/detection/mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
    *steps, pack = read_config(str(ROOT / path)).train_pipeline
    pipeline, pack = Compose(steps), Compose([pack])
    seen = 0
    for seed in range(20):
        np.random.seed(seed)
        data = dict(img_path=str(tmp_path / 'image.png'), height=400, width=600)
        data = pipeline(data | dict(instances=deepcopy(instances), img_id=0))
        if data is None:  # nothing of the objects was in the crop
            continue
        height, width = data['img_shape']
        matrix = data['homography_matrix']
        for label, box in zip(data['gt_bboxes_labels'], data['gt_bboxes'].tensor, strict=True):
            outline = np.concatenate([np.reshape(part, (-1, 2)) for part in objects[label]])
            outline = outline @ matrix[:2, :2].T + matrix[:2, 2]
            expected = np.concatenate([outline.min(0), outline.max(0)])
            if (expected >= 0).all() and (expected <= [width, height] * 2).all():
                seen += 1
                assert box.numpy() == pytest.approx(expected, abs=0.01)
        sample = pack(data)['data_samples']
        assert isinstance(sample.gt_instances.masks, PolygonMasks)
        assert len(sample.gt_instances) == len(data['gt_bboxes_labels']) <= 2
    assert seen > 10


@pytest.mark.parametrize('path', [p for p in RECIPES if 'detection/' in p])
def test_detection_input_and_test(path):
    config, stem = read(path), Path(path).stem
    nms = config.model.test_cfg.rcnn.nms
    assert nms.type == ('nms' if 'ms-1x' in stem else 'soft_nms')
    assert nms.iou_threshold == 0.5
    assert config.model.type == ('CascadeRCNN' if stem.startswith('cascade') else 'MaskRCNN')
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    if 'ms-1x' in stem:
        scales = steps['RandomChoiceResize'].scales
        assert [min(scale) for scale in scales] == list(range(480, 801, 32))
        assert {max(scale) for scale in scales} == {1333}
        return
    assert tuple(steps['RandomResize'].scale) == (1024, 1024)
    assert tuple(steps['RandomResize'].ratio_range) == (0.1, 2.0)
    assert tuple(steps['RandomCrop'].crop_size) == (1024, 1024)
    (pad,) = config.model.data_preprocessor.batch_augments
    assert tuple(pad.size) == (1024, 1024)


@pytest.mark.parametrize('path', [p for p in RECIPES if 'segmentation/' in p])
def test_segmentation_sizes_and_multi_scale_test(path):
    config, stem = read(path), Path(path).stem
    pixels = int(re.search(r'-(\d+)px', stem)[1])
    assert pixels == (640 if 'in22k' in stem else 512)
    assert tuple(config.model.data_preprocessor.size) == (pixels, pixels)
    assert tuple(config.model.test_cfg.crop_size) == (pixels, pixels)
    assert config.model.test_cfg.mode == 'slide'
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert tuple(steps['RandomResize'].scale) == (4 * pixels, pixels)
    assert tuple(steps['RandomCrop'].crop_size) == (pixels, pixels)
    for loader in filter(None, (config.val_dataloader, config.test_dataloader)):
        assert tuple(loader.dataset.pipeline[1].scale) == (4 * pixels, pixels)
    resizes, flips, *_ = config.tta_pipeline[1].transforms
    ratios = [0.75, 0.875, 1, 1.125, 1.25]
    assert [resize.scale[1] / pixels for resize in resizes] == ratios
    assert [resize.scale[0] / (4 * pixels) for resize in resizes] == ratios
    assert [flip.prob for flip in flips] == [0, 1]


def test_index_and_readmes_list_every_config():
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert sorted(model.config for model in index.models) == RECIPES
    names = [model.name for model in index.models]
    assert names == [Path(model.config).stem for model in index.models]
    for model in index.models:
        table = (ROOT / model.config).with_name('README.md').read_text()
        assert f'| [`{model.name}`]({model.name}.py) |' in table
        raw = yaml.safe_load((ROOT / model.config).with_name('metafile.yml').read_text())
        assert model.in_collection in [collection['Name'] for collection in raw['Collections']]


def test_index_links_the_published_weights():
    files = {url for weights in MODEL_ZOO.values() for url in weights.urls}
    linked = 0
    for folder in {Path(path).parent for path in RECIPES}:
        for entry in yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())['Models']:
            if 'Weights' in entry:
                linked += 1
                assert {entry['Weights'], entry['Converted From']['Weights']} <= files
    # FCMAE and fine-tuning of eight sizes, ten after ImageNet-22K, four of V1
    assert linked == 8 + 8 + 10 + 4
