"""Every config parses and builds, and says what its name says."""

from pathlib import Path

import pytest

from convnextv2_mm.engine.layer_decay import LayerDecayOptimWrapperConstructor
from convnextv2_mm.engine.run_setup import check_model, read_config
from convnextv2_mm.models import ConvNeXtV2

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('[!_]*/*.py'))
SIZES = {'a': 'atto', 'b': 'base'}


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds(path):
    config = read_config(str(ROOT / path))
    config.model.backbone.pop('init_cfg', None)
    model = check_model(config.model)
    size = SIZES[Path(path).stem.split('convnextv2-')[1][0]]
    assert model.backbone.channels == ConvNeXtV2.arch_settings[size]['channels']
    assert all(parameter.is_meta for parameter in model.parameters())
    wrapper = config.optim_wrapper
    assert wrapper.constructor == 'convnextv2_mm.LayerDecayOptimWrapperConstructor'
    constructor = LayerDecayOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=wrapper.optimizer), wrapper.paramwise_cfg
    )
    assert len(constructor(model).param_groups) >= 2


@pytest.mark.parametrize('path', [p for p in CONFIGS if 'pretrain/' in p])
def test_pretraining_batch_is_4096(path):
    config = read_config(str(ROOT / path))
    gpus = 8
    batch = config.train_dataloader.batch_size
    accumulation = config.optim_wrapper.get('accumulative_counts', 1)
    assert gpus * batch * accumulation == 4096
    name = Path(path).stem
    assert f'_{gpus}xb{batch}-' in name
    assert (f'-accum{accumulation}-' in name) == (accumulation > 1)
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert config.train_cfg.max_epochs == config.param_scheduler[-1].end == 800


def test_detection_recipe():
    path = 'configs/detection/mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
    config = read_config(str(ROOT / path))
    assert config.train_cfg.max_epochs == 36
    assert 8 * config.train_dataloader.batch_size == config.auto_scale_lr.base_batch_size == 32
    assert config.model.test_cfg.rcnn.nms.type == 'soft_nms'
    assert config.optim_wrapper.optimizer.lr == 1e-4
    assert config.optim_wrapper.optimizer.weight_decay == 0.05


def test_segmentation_recipe():
    path = 'configs/segmentation/upernet_convnextv2-b_4xb4-160k-fcmae_ade20k-512px.py'
    config = read_config(str(ROOT / path))
    assert config.train_cfg.max_iters == config.param_scheduler[-1].end == 160000
    assert 4 * config.train_dataloader.batch_size == 16
    resizes = config.tta_pipeline[1].transforms[0]
    assert [resize.scale[1] / 512 for resize in resizes] == [0.75, 0.875, 1, 1.125, 1.25]
