"""Maps that say which patches FCMAE masks: they move with their image."""

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from convnextv2_mm.datasets import LoadMaskMap, MaskPatches
from convnextv2_mm.errors import BadData

CROPS = {
    'train': [
        dict(type='convnextv2_mm.LoadMaskMap'),
        dict(type='convnextv2_mm.RandomResizedCrop', scale=96, crop_ratio_range=(0.3, 0.6)),
        dict(type='RandomFlip', prob=0.5),
    ],
    'test': [
        dict(type='ResizeEdge', scale=96, edge='short'),
        dict(type='convnextv2_mm.LoadMaskMap'),
        dict(type='CenterCrop', crop_size=96),
    ],
}


def mean_colour(image: np.ndarray) -> np.ndarray:
    return image.mean(2)


@pytest.fixture
def folders(tmp_path) -> dict:
    """An image, and a map of the same values: smooth, so that resizing changes little."""
    values = np.add.outer(np.linspace(0, 100, 150), np.linspace(0, 120, 200)).astype(np.uint8)
    for name, content in (('images', np.dstack([values] * 3)), ('masks', values)):
        (tmp_path / name / 'a').mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name / 'a/1.png'), content)
    return dict(images=str(tmp_path / 'images'), masks=str(tmp_path / 'masks'))


@pytest.mark.parametrize('crops', CROPS)
def test_the_map_moves_with_its_image(crops, folders):
    init_default_scope('mmpretrain')
    steps = [dict(step, **folders) if 'Mask' in step['type'] else step for step in CROPS[crops]]
    steps = [
        dict(type='convnextv2_mm.LoadImageFromFile'),
        *steps,
        dict(type='convnextv2_mm.MaskPatches'),
        dict(type='PackInputs', algorithm_keys=('gt_seg_map',)),
    ]
    pipeline, path = Compose(steps), f'{folders["images"]}/a/1.png'
    for seed in range(10):
        np.random.seed(seed)
        packed = pipeline(dict(img_path=path))
        image, sample = packed['inputs'][0].float(), packed['data_samples']
        assert (
            np.abs(image.numpy() - sample.gt_seg_map).max() < 2
        )  # one is rounded to whole numbers
        expected = image.view(3, 32, 3, 32).mean((1, 3))
        assert sample.mask.shape == (3, 3)
        assert abs(sample.mask - expected).max() < 1


def test_a_function_gives_the_map():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    step = MaskPatches(f'{__name__}.mean_colour')
    found = step.transform(dict(img=image))['mask']
    assert found == pytest.approx(image.reshape(2, 32, 3, 32, 3).mean((1, 3, 4)), rel=1e-5)


def test_maps_that_cannot_be_used(folders):
    with pytest.raises(ValueError, match='function nowhere.at_all is not found'):
        MaskPatches('nowhere.at_all')
    with pytest.raises(ValueError, match='shape .* is not allowed .* a finite number for each'):
        MaskPatches(f'{__name__}.mean_colour').transform(dict(img=np.full((32, 32, 3), np.nan)))
    entry = dict(img_path=f'{folders["images"]}/a/1.png', img=np.zeros((99, 99, 3), np.uint8))
    with pytest.raises(BadData, match='1.png is 200x150 pixels, but its image is 99x99'):
        LoadMaskMap(**folders).transform(entry | dict(ori_shape=(99, 99)))
    with pytest.raises(ValueError, match='needs LoadImageFromFile, not LoadEncodedJPEG'):
        LoadMaskMap(**folders).transform(entry | dict(img=np.zeros(99, np.uint8)))
    with pytest.raises(BadData, match='1_mask.png does not exist'):
        LoadMaskMap(**folders, suffix='_mask.png').transform(entry | dict(ori_shape=(150, 200)))
