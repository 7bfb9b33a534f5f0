"""Decoding on the device, here the CPU, against the stock loader and preprocessor on the host."""

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import init_default_scope
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.structures import DataSample

from convnextv2_mm.datasets import LoadEncodedJPEG
from convnextv2_mm.models import JPEGDataPreprocessor

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


@pytest.fixture
def batch(image_files):
    """All kinds of files, as the loader with this preprocessor gives them."""
    init_default_scope('mmpretrain')
    pipeline = Compose([LoadEncodedJPEG(), dict(type='PackInputs')])
    return pseudo_collate([pipeline(dict(img_path=str(p))) for p in image_files.values()])


@pytest.mark.parametrize('flip_prob', [0, 1])
def test_equals_the_host(flip_prob, batch, image_files):
    # No box of this shape but the whole image fits: what is compared does not depend on chance.
    preprocessor = JPEGDataPreprocessor(96, (1.0, 1.0), flip_prob, **NORM)
    result = preprocessor(batch, training=True)
    assert result['inputs'].dtype == torch.float32
    assert [s.img_path for s in result['data_samples']] == [str(p) for p in image_files.values()]

    crop = dict(scale=96, crop_ratio_range=(1.0, 1.0), interpolation='bicubic', backend='pillow')
    pipeline = Compose(
        [
            LoadImageFromFile(),
            dict(type='RandomResizedCrop', **crop),
            dict(type='RandomFlip', prob=float(flip_prob)),
            dict(type='PackInputs'),
        ]
    )
    host = default_collate([pipeline(dict(img_path=str(p))) for p in image_files.values()])
    expected = SelfSupDataPreprocessor(**NORM)(host)['inputs']
    levels = (result['inputs'] - expected).abs() * torch.tensor(NORM['std']).view(3, 1, 1)
    # Grey levels: two versions of libjpeg, two resizes.
    assert levels.mean((1, 2, 3)).max() < 0.5
    assert levels.max() < 8


def test_training_draws_from_the_seed(batch):
    preprocessor = JPEGDataPreprocessor(64, (0.2, 1.0), 0.5, **NORM)

    def inputs(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return preprocessor(batch, training=True)['inputs']

    assert inputs(0).shape == (len(batch['inputs']), 3, 64, 64)
    assert torch.equal(inputs(0), inputs(0))
    changed = (inputs(0) - inputs(1)).abs().mean((1, 2, 3))
    assert (changed > 0.05).all()  # each image has a box of its own


def test_an_image_draws_from_the_seed_of_its_sample(batch):
    """Whatever the rest of the batch, and the generator, which is left as it was."""
    preprocessor = JPEGDataPreprocessor(64, (0.2, 1.0), 0.5, **NORM)
    samples = [DataSample(metainfo=dict(seed=2**62 + i)) for i in range(len(batch['inputs']))]

    def inputs(indices: list[int]) -> torch.Tensor:
        part = dict(inputs=[batch['inputs'][i] for i in indices])
        part['data_samples'] = [samples[i] for i in indices]
        return preprocessor(part, training=True)['inputs']

    state = torch.get_rng_state()
    whole = inputs(list(range(len(samples))))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(inputs([3, 1]), whole[[3, 1]])
    samples[1].set_metainfo(dict(seed=0))
    assert not torch.equal(inputs([1]), whole[[1]])


def test_batch_without_jpegs(batch):
    pixels = [x for x in batch['inputs'] if x.ndim == 3]
    data = dict(inputs=pixels, data_samples=[None] * len(pixels))
    result = JPEGDataPreprocessor(64, **NORM)(data, training=True)
    assert result['inputs'].shape == (len(pixels), 3, 64, 64)


def test_evaluation_is_only_normalised():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 96, 64), np.uint8))
    data = dict(inputs=images, data_samples=[None, None])
    result = JPEGDataPreprocessor(32, **NORM)(data)['inputs']
    assert torch.equal(result, SelfSupDataPreprocessor(**NORM)(data)['inputs'])
