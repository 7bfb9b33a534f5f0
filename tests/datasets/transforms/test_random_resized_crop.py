"""The crop against MMPreTrain's, which crops with NumPy and resizes with Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from mmpretrain.datasets import transforms as mmpretrain_transforms
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from convnextv2_mm.datasets import RandomResizedCrop
from convnextv2_mm.datasets.shapes.drawing import draw

CONFIG = Path(__file__).parents[3] / 'configs/_base_/fcmae_in1k-224px.py'
OPTIONS = dict(scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic')


def images() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    return {
        'drawing': draw(0, 'train', 1, 500).image[:375],
        'small': draw(0, 'train', 2, 160).image[:, :100],
        'noise': noise,
        'flipped': noise[:, ::-1],
        'other channel order': noise[..., ::-1],
        'grey': noise[..., 0],
        'one row': noise[:1],
    }


def assert_same_pixels(result: np.ndarray, expected: np.ndarray) -> None:
    """Within a tenth of a grey level in the mean, and one in a hundred values two levels away.

    Both round and clip after the first direction: PyTorch's is always along the rows, Pillow's the
    one that leaves less to do for the second.
    """
    difference = np.abs(np.asarray(result, float) - np.asarray(expected, float))
    assert difference.mean() < 0.1
    assert (difference > 1).mean() < 1e-2


@pytest.mark.parametrize('kind', images())
@pytest.mark.parametrize(
    'options',
    [OPTIONS, OPTIONS | dict(scale=(96, 64)), OPTIONS | dict(interpolation='bilinear')],
    ids=['224', '96x64', 'bilinear'],
)
def test_equals_mmpretrains_with_pillow(kind, options):
    crop = RandomResizedCrop(**options)
    stock = mmpretrain_transforms.RandomResizedCrop(**options, backend='pillow')
    image = images()[kind]
    size = stock.scale
    results, expected = [], []
    for seed in range(5):
        np.random.seed(seed)
        result = crop(dict(img=image))
        next_number = np.random.random()
        np.random.seed(seed)
        expected.append(stock(dict(img=image))['img'])
        assert np.random.random() == next_number
        assert result['img_shape'] == size
        assert result['img'].shape == (*size, np.atleast_3d(image).shape[2])
        assert result['img'].dtype == np.uint8
        results.append(result['img'].reshape(expected[-1].shape))
    assert_same_pixels(results, expected)


def test_float_images_are_resized_without_rounding():
    image = images()['noise'].astype(np.float32)
    crop = RandomResizedCrop(**OPTIONS)
    np.random.seed(0)
    exact = crop(dict(img=image))['img']
    np.random.seed(0)
    rounded = crop(dict(img=image.astype(np.uint8)))['img']
    assert exact.dtype == np.float32
    assert np.abs(exact.clip(0, 255) - rounded).mean() < 0.5


@pytest.mark.parametrize('size', [(375, 500), (500, 100)])
def test_boxes_are_distributed_as_torchvisions(size):
    crop = RandomResizedCrop(224, crop_ratio_range=(0.2, 1.0))
    array, tensor = np.zeros((*size, 3), np.uint8), torch.zeros(3, *size)
    np.random.seed(0)
    torch.manual_seed(0)
    ours = [crop.rand_crop_params(array) for _ in range(2000)]
    theirs = [
        TorchvisionCrop.get_params(tensor, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
        for _ in range(2000)
    ]
    for index in range(4):  # top, left, height, width
        sides = [[box[index] for box in boxes] for boxes in (ours, theirs)]
        assert ks_2samp(*sides).pvalue > 0.01


def test_pipeline_of_the_configs_equals_mmpretrains(image_files):
    init_default_scope('mmpretrain')
    stock_config = "_base_ = 'mmpretrain::_base_/datasets/imagenet_bs512_mae.py'"
    ours, stock = (
        config.train_dataloader.dataset.pipeline
        for config in (Config.fromfile(CONFIG), Config.fromstring(stock_config, '.py'))
    )
    assert [step.type for step in ours] == [
        f'convnextv2_mm.{step.type}'
        if step.type in ('LoadImageFromFile', 'RandomResizedCrop')
        else step.type
        for step in stock
    ]
    batches = []
    for pipeline in (ours, stock):
        np.random.seed(1)
        run = Compose(pipeline)
        batches.append(default_collate([run(dict(img_path=str(p))) for p in image_files.values()]))
    result, expected = batches
    assert result['inputs'].dtype == torch.uint8
    assert result['inputs'].shape == (len(image_files), 3, 224, 224)
    assert result['inputs'].is_contiguous()
    assert_same_pixels(result['inputs'], expected['inputs'])
    for sample, stock_sample in zip(result['data_samples'], expected['data_samples'], strict=True):
        assert sample.img_path == stock_sample.img_path
        assert sample.ori_shape == stock_sample.ori_shape
        assert sample.flip == stock_sample.flip
    assert {sample.flip for sample in result['data_samples']} == {True, False}


def test_unknown_interpolation_is_named():
    with pytest.raises(ValueError, match="interpolation 'lanczos' is not allowed: .*bicubic"):
        RandomResizedCrop(224, interpolation='lanczos')
