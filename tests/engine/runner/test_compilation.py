"""Compiling the network and nothing else."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch._dynamo.utils import counters

from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.engine.runner.compilation import compile_network
from convnextv2_mm.models import FCMAE

SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def steps(model: FCMAE, number: int) -> list[tuple[float, torch.Tensor]]:
    """Loss, and gradient of the first layer, of steps with other images and masks each."""
    results = []
    for i in range(number):
        images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(i))
        samples = [BaseDataElement(seed=2 * i + n) for n in range(2)]
        model.zero_grad()
        loss = model(images, samples, mode='loss')['loss']
        loss.backward()
        results.append((loss.item(), model.backbone.downsample_layers[0][0].weight.grad.clone()))
    return results


@pytest.mark.long
def test_a_compiled_step_is_the_same_and_compiled_once():
    torch.manual_seed(0)
    model = FCMAE(
        backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch=SMALL),
        neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=40, embed_dims=32),
        head=dict(type='convnextv2_mm.FCMAEHead'),
    )
    names, expected = list(model.state_dict()), steps(model, 4)
    config = Config(dict(compile=dict(backend='aot_eager')))
    assert compile_network(model, config) == ['backbone', 'neck', 'head']
    assert 'compile' not in config  # MMEngine would compile the optimizer too
    found = steps(model, 4)
    for (loss, grad), (expected_loss, expected_grad) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert (grad - expected_grad).norm() <= 1e-5 * expected_grad.norm()
    assert counters['stats']['unique_graphs'] == 3 and not counters['graph_break']
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py', ['backbone', 'neck']),
        ('segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py', ['backbone']),
        ('classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py', ['backbone']),
    ],
)
def test_what_is_compiled(path, expected):
    config = read_config(f'convnextv2_mm::{path}')
    config.model.backbone.pop('init_cfg', None)
    model = check_model(config.model)
    assert compile_network(model, config) == []
    assert compile_network(model, Config(dict(compile=True))) == expected


def test_compile_is_true_or_arguments():
    model = MODELS.build(dict(type='convnextv2_mm.ConvNeXtV2', arch=SMALL))
    with pytest.raises(ValueError, match="compile 'fast' is not allowed"):
        compile_network(model, Config(dict(compile='fast')))
