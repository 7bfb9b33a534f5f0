"""Watched features are those that the network works with, and watching changes nothing."""

import pytest
import torch

from convnextv2_mm.analysis import (
    choose_blocks,
    cosine_distance,
    grn_norms,
    watch_features,
)
from convnextv2_mm.models import ConvNeXtV2, SparseConvNeXtV2

ARCH = dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16])
V1 = dict(use_grn=False, layer_scale_init_value=0.5)
NAMES = ['stages.0.0', 'stages.1.0', 'stages.2.0', 'stages.2.1', 'stages.3.0']


def build(kind=ConvNeXtV2, **options):
    torch.manual_seed(0)
    backbone = kind(ARCH, **options).eval()
    for name, parameter in backbone.named_parameters():
        if '.grn.' in name:
            torch.nn.init.normal_(parameter)
    return backbone


def seen(backbone, images, kind):
    features = {}
    with torch.no_grad(), watch_features(choose_blocks(backbone), features.__setitem__, kind):
        backbone(images)
    return features


@pytest.mark.parametrize('options', [{}, V1, dict(feature_norm=dict(type='SE'))])
def test_expansion_leads_to_the_output_of_the_block(options):
    backbone = build(**options)
    images = torch.randn(2, 3, 64, 96)
    taken = {}  # what a block takes
    handles = [
        block.register_forward_pre_hook(lambda _, args, name=name: taken.update({name: args[0]}))
        for name, block in choose_blocks(backbone).items()
    ]
    expansion = seen(backbone, images, 'expansion')
    output = seen(backbone, images, 'output')
    for handle in handles:
        handle.remove()
    assert list(expansion) == list(output) == NAMES
    for name, block in choose_blocks(backbone).items():
        assert expansion[name].shape == (*output[name].shape[:-1], 4 * output[name].shape[-1])
        branch = block.pointwise_conv2(expansion[name])
        if block.gamma is not None:
            branch = branch * block.gamma
        torch.testing.assert_close(taken[name] + branch, output[name])


def test_watching_leaves_the_network_as_it_was():
    backbone = build()
    images = torch.randn(2, 3, 64, 64)
    before = backbone(images)[0]
    with pytest.raises(RuntimeError, match='enough'), watch_features(choose_blocks(backbone), stop):
        backbone(images)
    assert torch.equal(backbone(images)[0], before)
    assert not any(part._forward_hooks for part in backbone.modules())


def stop(name, features):
    raise RuntimeError('enough')


def test_sparse_encoder_that_sees_all_has_the_dense_features():
    dense, sparse = build(), build(SparseConvNeXtV2)
    sparse.load_state_dict(dense.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    found = seen(sparse, images, 'expansion')
    for name, features in seen(dense, images, 'expansion').items():
        torch.testing.assert_close(cosine_distance(found[name]), cosine_distance(features))


def test_blocks_are_chosen_by_name():
    assert list(choose_blocks(build(), ['stages.2.1', 'stages.0.0'])) == [
        'stages.2.1',
        'stages.0.0',
    ]
    message = f'layer stages.4.0 does not exist: choose from {", ".join(NAMES)}'
    with pytest.raises(ValueError, match=message):
        choose_blocks(build(), ['stages.0.0', 'stages.4.0'])


def test_norms_of_grn():
    backbone = build()
    norms = grn_norms(backbone.state_dict())
    assert list(norms) == NAMES
    for name, block in choose_blocks(backbone).items():
        gamma, beta = ((p.double() ** 2).sum().sqrt() for p in (block.grn.gamma, block.grn.beta))
        assert norms[name] == pytest.approx((gamma.item(), beta.item()))
    assert grn_norms(build(**V1).state_dict()) == {}
