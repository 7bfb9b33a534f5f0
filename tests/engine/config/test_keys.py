"""Keys that nothing reads: misspelled ones are found, and no right one is taken for misspelled."""

from functools import cache
from pathlib import Path

import mmdet
import mmpretrain
import mmseg
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch.optim import AdamW

from convnextv2_mm.engine.config.keys import (
    accepted_arguments,
    check_keys,
    check_options,
    keys_of_a_run,
)
from convnextv2_mm.engine.config.reading import check_model, read_config

ROOT = Path(__file__).parents[3]
PRETRAIN = 'configs/demo/fcmae_convnextv2-a_shapes.py'
DETECTION = 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'
SEGMENTATION = 'configs/demo/upernet_convnextv2-a_shapes.py'
PROBE = 'configs/classification/convnextv2-a_linear-probe_8xb512-accum4-90e-fcmae_in1k-224px.py'


@cache
def read(path: str) -> Config:
    return read_config(str(ROOT / path))


def changed(path: str, **options) -> Config:
    """A shipped config with changes, written with ``__`` for a dot."""
    config = Config(read(path).to_dict())
    init_default_scope(config.default_scope)
    config.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return config


def foreign_configs() -> list[Path]:
    """Every 40th config that the three libraries ship."""
    found = []
    for library in (mmdet, mmseg, mmpretrain):
        folder = Path(library.__file__).parent / '.mim' / 'configs'
        paths = sorted(p for p in folder.rglob('*.py') if '_base_' not in p.parts)
        found += paths[::40]
    return found


@pytest.mark.long
def test_configs_of_other_libraries_pass():
    checked = 0
    for path in foreign_configs():
        try:
            config = Config.fromfile(path)
        except RuntimeError:  # two kinds of configs in one
            continue
        if 'model' in config:
            DefaultScope._instance_dict.clear()
            init_default_scope(config.get('default_scope', 'mmengine'))
            check_keys(config)
            checked += 1
    assert checked > 40


SLIPS = [
    (PRETRAIN, 'param_schedulers', [], 'param_schedulers .*: did you mean param_scheduler?'),
    (PRETRAIN, 'load_form', 'x.pth', 'load_form .*: did you mean load_from?'),
    (PRETRAIN, 'custom_import', {}, 'did you mean custom_imports?'),
    (PRETRAIN, 'default_hook', {}, 'did you mean default_hooks?'),
    (PRETRAIN, 'optim_wrapper__clip_gard', {}, 'did you mean optim_wrapper.clip_grad?'),
    (PRETRAIN, 'optim_wrapper__optimizer__wd', 0.1, 'optim_wrapper.optimizer.wd is not a key'),
    (
        PRETRAIN,
        'optim_wrapper__optimizer__weight_decy',
        0.1,
        'did you mean optim_wrapper.optimizer.weight_decay?',
    ),
    (PRETRAIN, 'optim_wrapper__acumulative_counts', 4, 'did you mean .*accumulative_counts?'),
    (PRETRAIN, 'optim_wrapper__paramwise_cfg__decay_rat', 0.9, 'did you mean .*decay_rate?'),
    (PROBE, 'optim_wrapper__paramwise_cfg__custom_key', {}, 'did you mean .*custom_keys?'),
    (PRETRAIN, 'train_cfg__max_epoch', 3, 'did you mean train_cfg.max_epochs?'),
    (SEGMENTATION, 'train_cfg__max_iter', 3, 'did you mean train_cfg.max_iters?'),
    (SEGMENTATION, 'train_cfg__max_epochs', 3, 'train_cfg.max_epochs is not a key'),
    (
        PRETRAIN,
        'train_cfg',
        dict(_delete_=True, max_epochs=3),
        'train_cfg has neither type nor by_epoch',
    ),
    (PRETRAIN, 'train_dataloader__batchsize', 4, 'did you mean train_dataloader.batch_size?'),
    (PRETRAIN, 'val_dataloader__num_worker', 4, 'did you mean val_dataloader.num_workers?'),
    (PRETRAIN, 'train_dataloader__sampler__shufle', True, 'did you mean .*sampler.shuffle?'),
    (PRETRAIN, 'train_dataloader__sampler__type', 'DefaultSamplr', 'did you mean DefaultSampler?'),
    (DETECTION, 'train_dataloader__batch_sampler__drop_lst', True, 'did you mean .*drop_last?'),
    (DETECTION, 'train_dataloader__dataset__ann_fil', '', 'did you mean .*dataset.ann_file?'),
    (DETECTION, 'train_dataloader__dataset__skip_bad', True, 'did you mean .*skip_bad_data?'),
    (DETECTION, 'train_dataloader__dataset__pipeline__5__prop', 1, 'pipeline.5.prop is not a key'),
    (DETECTION, 'val_evaluator__metrics_item', [], 'did you mean val_evaluator.metric_items?'),
    (DETECTION, 'param_scheduler__1__milestone', [3], 'did you mean .*1.milestones?'),
    (DETECTION, 'auto_scale_lr__enabel', True, 'did you mean auto_scale_lr.enable?'),
    (PRETRAIN, 'randomness__sed', 1, 'did you mean randomness.seed?'),
    (PRETRAIN, 'default_hooks__checkpoint__intervall', 1, 'did you mean .*checkpoint.interval?'),
    (PRETRAIN, 'default_hooks__chekpoint__interval', 1, 'did you mean default_hooks.checkpoint?'),
    (PRETRAIN, 'custom_hooks__0__intervals', 1, 'did you mean custom_hooks.0.interval?'),
]


@pytest.mark.parametrize(('path', 'key', 'value', 'message'), SLIPS)
def test_misspelled_key_is_named_with_the_nearest(path, key, value, message):
    config = changed(path, **{key: value})
    with pytest.raises(ValueError, match=message.replace('?', r'\?')) as error:
        check_keys(config)
    assert key.replace('__', '.').removesuffix('.interval') in str(error.value)


def test_keys_within_wrapped_data_sets_are_looked_at():
    config = changed(DETECTION)
    inner = config.train_dataloader.dataset
    inner.filter_cf = {}
    repeated = ConfigDict(type='RepeatDataset', times=2, dataset=inner)
    config.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[repeated])
    with pytest.raises(ValueError, match=r'datasets\.0\.dataset\.filter_cf .*dataset\.filter_cfg'):
        check_keys(config)


def test_variables_of_a_config_are_free():
    config = changed(PRETRAIN, lr=1, epochs=3, load=None, test_pipeline=[], dataset_type='x')
    check_keys(config)


OPTIONS = [
    ('modle.mask_ratio', 'modle is not a key that is read: did you mean model?'),
    ('param_schedulers', 'did you mean param_scheduler?'),
    ('cudnn_benchmark', 'cudnn_benchmark is not a key that is read'),
    ('epochs', '--cfg-options epochs changes nothing: epochs is a variable of the config'),
    ('data_preprocessor.mean', 'data_preprocessor.mean changes nothing'),
]


@pytest.mark.parametrize(('option', 'message'), OPTIONS)
def test_options_that_change_nothing_are_refused(option, message):
    with pytest.raises(ValueError, match=message.replace('?', r'\?')):
        read_config(str(ROOT / PRETRAIN), {option: 1})


def test_options_may_add_what_a_run_reads():
    added = ['find_unused_parameters', 'sync_bn', 'compile', 'resume', 'env_cfg.cudnn_benchmark']
    check_options(read(PRETRAIN), dict.fromkeys(added))


def test_argument_that_the_model_does_not_take_is_named():
    model = changed(PRETRAIN, model__backbone__drop_paht_rate=0.1).model
    with pytest.raises(ValueError, match=r'did you mean model\.backbone\.drop_path_rate\?'):
        check_model(model)


def test_type_error_of_another_cause_stays():
    with pytest.raises(TypeError, match='mask_ratio|not supported'):
        check_model(changed(PRETRAIN, model__mask_ratio='much').model)


def test_accepted_arguments_follow_the_bases():
    class Base:
        def __init__(self, a, *, b=1):
            pass

    class Own(Base):
        def __init__(self, c, **kwargs):
            super().__init__(**kwargs)

    class Greedy:
        def __init__(self, **kwargs):
            self.options = kwargs

    def function(d, **kwargs):
        pass

    assert accepted_arguments(Own) == (frozenset('abc'), False)
    assert accepted_arguments(Greedy) == (frozenset(), True)
    assert accepted_arguments(function) == (frozenset('d'), True)
    assert accepted_arguments(AdamW).names >= {'lr', 'fused'}
    assert not accepted_arguments(AdamW).others


def test_keys_of_a_run_are_those_that_the_runner_asks_for(monkeypatch):
    """What Runner.from_cfg asks of a config, watched."""
    asked = set()

    class Watched(dict):
        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

    monkeypatch.setattr(Runner, '__init__', lambda self, **arguments: None)
    Runner.from_cfg(Watched(model={}, work_dir=''))
    assert len(asked) > 20
    assert asked <= keys_of_a_run()
