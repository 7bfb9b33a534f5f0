"""Every config parses and builds, and says what its name says."""

from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.structures.mask import PolygonMasks
from mmengine.dataset import Compose

from convnextv2_mm.engine.layer_decay import LayerDecayOptimWrapperConstructor
from convnextv2_mm.engine.run_setup import check_model, read_config
from convnextv2_mm.models import ConvNeXtV2

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('[!_]*/*.py'))
# Those train no backbone: tests/tools/test_frozen_features.py.
CONFIGS = [path for path in CONFIGS if '_linear-probe_' not in path]
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


def test_segmentation_recipe():
    path = 'configs/segmentation/upernet_convnextv2-b_4xb4-160k-fcmae_ade20k-512px.py'
    config = read_config(str(ROOT / path))
    assert config.train_cfg.max_iters == config.param_scheduler[-1].end == 160000
    assert 4 * config.train_dataloader.batch_size == 16
    resizes = config.tta_pipeline[1].transforms[0]
    assert [resize.scale[1] / 512 for resize in resizes] == [0.75, 0.875, 1, 1.125, 1.25]
