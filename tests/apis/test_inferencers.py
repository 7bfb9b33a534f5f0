"""OpenMMLab's own inferencers take our configs, and find what ``predict`` finds."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.registry import MODELS
from mmpretrain.apis import FeatureExtractor, ImageClassificationInferencer
from mmseg.apis import MMSegInferencer

from convnextv2_mm import load_model, predict
from convnextv2_mm.datasets.shapes.drawing import draw
from convnextv2_mm.engine.config.reading import read_config

CONFIGS = [
    'detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py',
    'segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py',
    'segmentation/upernet_convnextv2-n_4xb4-160k-fcmae-in22k_ade20k-640px.py',
    'classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py',
]


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('image') / 'image.png'
    assert cv2.imwrite(str(path), draw(0, 'val', 0, 128).image[:96, :, ::-1])
    return str(path)


def prepare(name, tmp_path):
    """The config with smaller images, random weights, and what ``predict`` needs."""
    options = {'test_dataloader.dataset.pipeline.1.scale': (128, 96)}
    if 'classification' in name:
        options = {}
    elif 'detection' in name:
        options |= {'model.test_cfg.rcnn.score_thr': 0.0, 'model.test_cfg.rcnn.max_per_img': 5}
    else:
        options |= {'model.test_cfg.mode': 'whole'}
    config = read_config(f'convnextv2_mm::{name}', options)
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    checkpoint = str(tmp_path / 'random.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
    return config, checkpoint


@pytest.mark.filterwarnings('ignore')  # theirs, on names and losses
@pytest.mark.parametrize('name', CONFIGS)
def test_inferencers_find_what_predict_finds(name, image, tmp_path):
    config, checkpoint = prepare(name, tmp_path)
    (expected,) = predict(load_model(config, checkpoint), image)
    if 'detection' in name:
        inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
        (found,) = inferencer(image, no_save_vis=True)['predictions']
        np.testing.assert_allclose(found['scores'], expected.pred_instances.scores, rtol=1e-5)
        assert found['labels'] == expected.pred_instances.labels.tolist()
    elif 'segmentation' in name:
        found = MMSegInferencer(config, checkpoint, device='cpu')(image)['predictions']
        assert (found == expected.pred_sem_seg.data[0].numpy()).all()
    else:
        (found,) = ImageClassificationInferencer(config, checkpoint, device='cpu')(image)
        np.testing.assert_allclose(found['pred_scores'], expected.pred_score, rtol=1e-5)
        (features,) = FeatureExtractor(config, checkpoint, device='cpu')(image)
        assert features[-1].shape == (320,)
