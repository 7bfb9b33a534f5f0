"""What stands in the place of GRN: each against another implementation, then in the network."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from timm.layers.cbam import ChannelAttn, SpatialAttn
from torch import nn
from torchvision.ops import SqueezeExcitation

from convnextv2_mm.models import FCMAE, ConvNeXtV2, SparseConvNeXtV2
from convnextv2_mm.models.layers.feature_norms import (
    AGGREGATIONS,
    FEATURE_NORMS,
    NORMALIZATIONS,
    build_feature_norm,
)
from convnextv2_mm.ops import PatchLayout, global_response_norm

SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])
CHOICES = list(itertools.product(AGGREGATIONS, NORMALIZATIONS, [True, False]))
VARIANTS = {
    'average': dict(aggregation='average'),
    'l1': dict(type='GRN', aggregation='l1'),
    'sum': dict(type='GRN', normalization='sum'),
    'inverse_sum': dict(type='GRN', normalization='inverse_sum'),
    'standardize': dict(type='GRN', normalization='standardize'),
    'no_residual': dict(type='GRN', residual=False),
    'LRN': dict(type='LRN'),
    'BN': dict(type='BN'),
    'LN': dict(type='LN'),
    'SE': dict(type='SE', ratio=2),
    'CBAM': dict(type='CBAM', ratio=2),
}
each_variant = pytest.mark.parametrize('variant', VARIANTS)


def randomize(module: nn.Module, std: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def forms():
    """Features (3, 4, 6, 8) of 2x3 patches of which half is masked, as the layers get them: dense,
    the layout to go with them, packed; and each image's visible sites, ``(12, 8)``."""
    torch.manual_seed(0)
    dense = torch.randn(3, 4, 6, 8, dtype=torch.float64)
    layout = PatchLayout.random(3, (2, 3), 0.5)
    packed = layout.pack(dense)
    return dense, layout, packed, packed.flatten(1, 3).numpy()


def over_sites(layer, forms, expected):
    """Check a layer on dense, masked and packed features against a function of the sites of an
    image, ``(sites, channels)`` in float64."""
    dense, layout, packed, visible = forms
    for mine, sites in (
        (layer(dense, None), dense.flatten(1, 2).numpy()),
        (layer(packed, layout), visible),
        (layout.pack(layer(dense, layout)), visible),
        (layer(packed[:1], None), visible[:1]),
    ):
        theirs = np.stack([expected(image) for image in sites])
        np.testing.assert_allclose(mine.detach().flatten(1, -2).numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize(('aggregation', 'normalization', 'residual'), CHOICES)
def test_grn_equals_brute_force(aggregation, normalization, residual, forms):
    config = dict(
        type='GRN', aggregation=aggregation, normalization=normalization, residual=residual
    )
    layer = randomize(build_feature_norm(config, 8)).double()
    gamma, beta = layer.gamma.detach().numpy(), layer.beta.detach().numpy()

    def expected(x):
        g = []
        for channel in x.T:
            g.append(
                dict(
                    average=sum(channel) / len(channel),
                    l1=sum(abs(v) for v in channel),
                    l2=sum(v * v for v in channel) ** 0.5,
                )[aggregation]
            )
        mean = sum(g) / len(g)
        std = (sum((v - mean) ** 2 for v in g) / (len(g) - 1)) ** 0.5
        n = [
            dict(
                mean=v / (mean + 1e-6),
                sum=v / (sum(g) + 1e-6),
                inverse_sum=1 / (sum(g) + 1e-6),
                standardize=(v - mean) / (std + 1e-6),
            )[normalization]
            for v in g
        ]
        return gamma * (x * np.array(n)) + beta + (x if residual else 0)

    over_sites(layer, forms, expected)


def test_grn_by_default_is_that_of_the_paper(forms):
    dense, layout, packed, _ = forms
    layer = randomize(FEATURE_NORMS['GRN'](8)).double()
    for x, its_layout in ((dense, None), (dense, layout), (packed, layout)):
        theirs = global_response_norm(x, layer.gamma, layer.beta, its_layout)
        torch.testing.assert_close(layer(x, its_layout), theirs)


def test_lrn_equals_brute_force(forms):
    def expected(x):
        y = np.empty_like(x)
        for i in range(8):
            near = x[:, max(0, i - 2) : i + 3]
            y[:, i] = x[:, i] / (1 + 1e-4 * (near**2).sum(1) / 5) ** 0.75
        return y

    over_sites(build_feature_norm(dict(type='LRN'), 8), forms, expected)
    strong = dict(type='LRN', size=3, alpha=2.0, beta=0.5, k=3.0)
    dense = forms[0]
    theirs = F.local_response_norm(dense.permute(0, 3, 1, 2), 3, 2.0, 0.5, 3.0)
    mine = build_feature_norm(strong, 8)(dense)
    torch.testing.assert_close(mine, theirs.permute(0, 2, 3, 1))


def test_ln_equals_timm(forms):
    from timm.layers import LayerNorm2d

    theirs = randomize(LayerNorm2d(8)).double()
    layer = build_feature_norm(dict(type='LN'), 8).double()
    layer.load_state_dict(theirs.state_dict())

    def expected(x):
        return theirs(torch.tensor(x.T)[None, :, :, None])[0, :, :, 0].detach().numpy().T

    over_sites(layer, forms, expected)


def test_bn_is_that_of_the_visible_sites(forms):
    dense, layout, packed, visible = forms
    for x, its_layout in ((dense, None), (dense, layout), (packed, layout)):
        layer = randomize(build_feature_norm(dict(type='BN'), 8)).double()
        theirs = nn.BatchNorm2d(8).double()
        theirs.load_state_dict(layer.state_dict())
        all_sites = torch.tensor(visible.reshape(-1, 8)) if its_layout else x.reshape(-1, 8)
        for _ in range(2):
            expected = theirs(all_sites.T[None, :, :, None])[0, :, :, 0].T
            mine = layer(x, its_layout)
            if its_layout is layout and x is dense:
                mine = layout.pack(mine)
            torch.testing.assert_close(mine.flatten(0, -2), expected)
            layer.eval(), theirs.eval()
        torch.testing.assert_close(layer.running_var, theirs.running_var)
        assert layer.num_batches_tracked == 1


def test_se_equals_torchvision(forms):
    layer = randomize(build_feature_norm(dict(type='SE', ratio=4), 8)).double()
    theirs = SqueezeExcitation(8, 2).double()
    state = {k: v[..., None, None] if v.ndim == 2 else v for k, v in layer.state_dict().items()}
    theirs.load_state_dict(state)

    def expected(x):
        return theirs(torch.tensor(x.T)[None, :, :, None])[0, :, :, 0].detach().numpy().T

    over_sites(layer, forms, expected)


def test_cbam_equals_timm(forms):
    dense, layout, packed, visible = forms
    layer = randomize(build_feature_norm(dict(type='CBAM', ratio=4), 8)).double()
    for part in (layer.fc1, layer.fc2, layer.conv):
        nn.init.zeros_(part.bias)  # timm's have none
    channel, spatial = ChannelAttn(8, rd_channels=2).double(), SpatialAttn(7).double().eval()
    channel.fc1.weight.data = layer.fc1.weight.data[..., None, None]
    channel.fc2.weight.data = layer.fc2.weight.data[..., None, None]
    # Its batch norm is none with these.
    spatial.conv.conv.weight.data = layer.conv.weight.data * (1 + spatial.conv.bn.eps) ** 0.5
    expected = spatial(channel(dense.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(dense), expected)

    # Masked: gates of channels from the visible sites, and the map of sites is zero where masked.
    gated = [channel(torch.tensor(image.T)[None, :, :, None])[0, :, :, 0].T for image in visible]
    gated = layout.unpack(torch.stack(gated).view_as(packed)).permute(0, 3, 1, 2)
    expected = layout.pack(spatial(gated).permute(0, 2, 3, 1))
    torch.testing.assert_close(layer(packed, layout), expected)
    torch.testing.assert_close(layout.pack(layer(dense, layout)), expected)


def pair(variant):
    """The packed and the masked encoder with the same weights."""
    models = [
        randomize(SparseConvNeXtV2(SMALL, feature_norm=VARIANTS[variant], backend=backend), 0.1)
        for backend in ('auto', 'masked')
    ]
    models[1].load_state_dict(models[0].state_dict())
    return models


@pytest.mark.parametrize(('batch', 'size'), [(1, (64, 96)), (3, (96, 64)), (2, (64, 64))])
@each_variant
def test_packed_equals_masked(variant, batch, size):
    torch.manual_seed(1)
    images = torch.randn(batch, 3, *size, dtype=torch.float64)
    mask = PatchLayout.random(batch, (size[0] // 32, size[1] // 32), 0.5).mask
    models = [model.double() for model in pair(variant)]
    latents = [model(images, mask)[0] for model in models]
    assert relative(*latents) < 1e-9
    direction = torch.randn_like(latents[0])
    for latent in latents:
        (latent * direction).sum().backward()
    for (name, mine), other in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        assert (mine.grad - other.grad).norm() <= 1e-8 * other.grad.norm() + 1e-12, name
    for (name, mine), other in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


@each_variant
def test_masked_pixels_never_matter(variant):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    hidden = mask.view(2, 1, 2, 3).repeat_interleave(32, 2).repeat_interleave(32, 3).bool()
    changed = torch.where(hidden, 1e3 * torch.randn_like(images), images)
    for model in pair(variant):
        latent = model(images, mask)[0]
        assert torch.equal(latent, model(changed, mask)[0])
        assert latent.any()


@each_variant
def test_samples_are_independent(variant):
    """But for batch norm in training."""
    torch.manual_seed(1)
    images = torch.randn(3, 3, 64, 96)
    mask = PatchLayout.random(3, (2, 3), 0.5).mask
    for model in pair(variant):
        for training in (True, False):
            model.train(training)
            together = model(images, mask)[0]
            alone = torch.cat([model(images[i : i + 1], mask[i : i + 1])[0] for i in range(3)])
            assert (relative(together, alone) < 1e-5) == (variant != 'BN' or not training)


@each_variant
def test_dense_network_after_pretraining_is_the_encoder_that_sees_all(variant):
    sparse = pair(variant)[0].eval()
    dense = ConvNeXtV2(SMALL, out_indices=(), feature_norm=VARIANTS[variant]).eval()
    dense.load_state_dict(sparse.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96)
    *_, x = dense._run_stages(images.permute(0, 2, 3, 1))
    assert relative(sparse(images)[0], x.permute(0, 3, 1, 2)) < 1e-5


@each_variant
def test_every_parameter_trains_from_the_start(variant):
    """Also under autocast; and one-dimensional weights do not decay."""
    model = FCMAE(
        backbone=dict(
            type='convnextv2_mm.SparseConvNeXtV2', arch=SMALL, feature_norm=VARIANTS[variant]
        ),
        neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=40, embed_dims=32),
        head=dict(type='convnextv2_mm.FCMAEHead'),
    )
    images = torch.randn(2, 3, 64, 96)
    with torch.autocast('cpu', torch.bfloat16):
        model.loss(images)['loss'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()
    model.loss(images)['loss'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(decay_rate=1.0),
        ),
    )
    for group in wrapper.param_groups:
        for parameter in group['params']:
            assert (group['weight_decay'] == 0) == (parameter.ndim == 1)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@each_variant
def test_autocast_stays_near_float32(variant, dtype):
    torch.manual_seed(0)
    model = pair(variant)[0]
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    expected = model(images, mask)[0]
    with torch.autocast('cpu', dtype):
        latent = model(images, mask)[0]
    assert relative(latent.float(), expected) < 5e-2


def test_without_residual_gamma_starts_at_one():
    layer = build_feature_norm(dict(type='GRN', residual=False), 8)
    assert torch.equal(layer.gamma, torch.ones(8))
    assert not build_feature_norm(dict(type='GRN', aggregation='l1'), 8).gamma.any()


def test_grn_of_the_paper_stays_the_fused_one():
    plain = ConvNeXtV2(SMALL).state_dict()
    for said in ({}, dict(type='GRN'), dict(type='GRN', aggregation='l2', residual=True)):
        model = ConvNeXtV2(SMALL, feature_norm=said)
        assert list(model.state_dict()) == list(plain)
        assert all(block.feature_norm is None for stage in model.stages for block in stage)


@pytest.mark.parametrize(
    ('feature_norm', 'error', 'message'),
    [
        (
            dict(type='IN'),
            ValueError,
            "feature_norm type 'IN' is unknown: choose one of GRN, LRN, ",
        ),
        ('LN', ValueError, r"feature_norm 'LN' is not allowed: give dict\(type=...\)"),
        (
            dict(type='GRN', aggregation='max'),
            ValueError,
            "GRN aggregation 'max' is unknown: choose one of average, l1, l2",
        ),
        (
            dict(type='GRN', normalization='l2'),
            ValueError,
            "GRN normalization 'l2' is unknown: choose one of mean, sum, inverse_sum, standardize",
        ),
        (dict(type='LN', affine=False), TypeError, "unexpected keyword argument 'affine'"),
    ],
)
def test_wrong_configs_are_named(feature_norm, error, message):
    with pytest.raises(error, match=message):
        ConvNeXtV2(SMALL, feature_norm=feature_norm)


def test_v1_has_no_feature_norm():
    with pytest.raises(ValueError, match="feature_norm {'type': 'LN'} .* with use_grn=False"):
        ConvNeXtV2(SMALL, use_grn=False, feature_norm=dict(type='LN'))
