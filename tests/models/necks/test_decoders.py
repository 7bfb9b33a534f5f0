"""The decoders of the ablations, what the encoder gives them, and the encoder without sparsity."""

from functools import partial

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.models import ConvNeXt
from timm.models.vision_transformer import Block
from torch import nn
from transformers.models.vit_mae.modeling_vit_mae import get_2d_sincos_pos_embed

from convnextv2_mm.models import (
    FCMAE,
    ConvNeXtV2,
    MaskedImageConvNeXtV2,
    SparseConvNeXtV2,
    TransformerDecoder,
    UNetDecoder,
)
from convnextv2_mm.models.necks.transformer_decoder import sincos_positions
from convnextv2_mm.models.necks.unet_decoder import PatchUnconv
from convnextv2_mm.ops import PatchLayout

CHANNELS = [8, 16, 32, 64]
SMALL = dict(depths=[1, 1, 2, 1], channels=CHANNELS)
DECODERS = {
    'unet': dict(type='convnextv2_mm.UNetDecoder', embed_dims=32),
    'unet-no-skips': dict(type='convnextv2_mm.UNetDecoder', embed_dims=32, skips=False),
    'transformer': dict(type='convnextv2_mm.TransformerDecoder', embed_dims=32, depth=2),
}
each_decoder = pytest.mark.parametrize('decoder', DECODERS)


def randomize(module: nn.Module, std: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def build(decoder, backend='auto', encoder='SparseConvNeXtV2') -> FCMAE:
    model = FCMAE(
        backbone=dict(type=f'convnextv2_mm.{encoder}', arch=SMALL, backend=backend),
        neck=dict(in_channels=64, **DECODERS[decoder]),
        head=dict(type='convnextv2_mm.FCMAEHead'),
    )
    return randomize(model)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def hide(images, mask, by):
    """Images with masked patches replaced."""
    n, _, height, width = images.shape
    hidden = mask.view(n, 1, height // 32, width // 32).bool()
    hidden = hidden.repeat_interleave(32, 2).repeat_interleave(32, 3)
    return torch.where(hidden, by, images)


def predict(model, images, mask):
    features, mask = model.backbone(images, mask, model.neck.needs_stages)
    return model.neck(features, mask)


@each_decoder
def test_masked_pixels_never_matter_for_the_prediction(decoder):
    model = build(decoder).eval()
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    prediction = predict(model, images, mask)
    assert prediction.shape == (2, 6, 32 * 32 * 3)
    changed = hide(images, mask, 1e3 * torch.randn_like(images))
    assert torch.equal(prediction, predict(model, changed, mask))
    visible = hide(images, 1 - mask, torch.randn_like(images))
    assert relative(predict(model, visible, mask), prediction) > 1e-4


@each_decoder
def test_features_at_masked_sites_never_matter(decoder):
    neck = build(decoder).neck.eval()
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    maps = [torch.randn(2, c, 2 * s, 3 * s) for c, s in zip(CHANNELS, (8, 4, 2, 1), strict=True)]
    others = []
    for features, side in zip(maps, (8, 4, 2, 1), strict=True):
        masked = mask.view(2, 1, 2, 3).bool()
        masked = masked.repeat_interleave(side, 2).repeat_interleave(side, 3)
        others.append(torch.where(masked, torch.randn_like(features), features))
    if not neck.needs_stages:
        maps, others = maps[-1], others[-1]
    assert torch.equal(neck(maps, mask), neck(others, mask))


@each_decoder
def test_samples_are_independent(decoder):
    model = build(decoder)
    images = torch.randn(3, 3, 96, 64)
    mask = PatchLayout.random(3, (3, 2), 0.5).mask
    together = predict(model, images, mask)
    alone = [predict(model, images[i : i + 1], mask[i : i + 1]) for i in range(3)]
    assert relative(together, torch.cat(alone)) < 1e-5


@pytest.mark.parametrize(('batch', 'size'), [(1, (64, 96)), (3, (96, 64))])
@each_decoder
def test_packed_equals_masked(decoder, batch, size):
    images = torch.randn(batch, 3, *size)
    mask = PatchLayout.random(batch, (size[0] // 32, size[1] // 32), 0.5).mask
    losses, grads = [], []
    for backend in ('torch', 'masked'):
        model = build(decoder, backend)
        losses.append(model.loss(images, mask=mask)['loss'])
        losses[-1].backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for mine, other in zip(*grads, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()


@pytest.mark.long
@pytest.mark.parametrize('size', [(64, 64), (96, 64)])
@pytest.mark.parametrize('batch', [1, 3])
@each_decoder
def test_every_parameter_trains(decoder, batch, size):
    model = build(decoder)
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    data = dict(inputs=torch.randn(batch, 3, *size))
    losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(12)]
    model.loss(**data)['loss'].backward()
    assert all(p.grad.any() and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]
    masked, reconstructed = model.reconstruct(**data)
    assert masked.shape == reconstructed.shape == data['inputs'].shape


@each_decoder
def test_autocast_stays_near_float32(decoder):
    model = build(decoder)
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    expected = predict(model, images, mask)
    with torch.autocast('cpu', torch.bfloat16):
        assert relative(predict(model, images, mask).float(), expected) < 5e-2


def test_upsampling_is_a_transposed_convolution():
    layer = randomize(PatchUnconv(6, 5))
    theirs = nn.ConvTranspose2d(6, 5, 2, stride=2)
    theirs.weight.data = layer.weight.data.view(2, 2, 5, 6).permute(3, 2, 0, 1)
    theirs.bias.data.zero_()
    layer.bias.data.zero_()
    x = torch.randn(2, 3, 4, 6)
    expected = theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), expected)


def test_unet_predicts_pixels_in_row_column_channel_order():
    decoder = randomize(UNetDecoder(64, embed_dims=32, skips=False))
    sites = []
    decoder.pred.register_forward_hook(lambda _, args, out: sites.append(out))
    prediction = decoder(torch.randn(1, 64, 2, 3), torch.zeros(1, 6))
    assert sites[0].shape == (1, 16, 24, 48)
    patch, row, column, channel = 4, 13, 30, 2  # patch 4 is at (1, 1)
    site = sites[0][0, 8 + row // 4, 8 + column // 4]
    value = prediction[0, patch, (row * 32 + column) * 3 + channel]
    assert value == site[(row % 4 * 4 + column % 4) * 3 + channel]


def test_unet_takes_each_stage_where_it_belongs():
    """A change at one site of a stage arrives around that place only, in one step of 7x7."""
    decoder = randomize(UNetDecoder(CHANNELS, embed_dims=32)).eval()
    for block in (stage[0] for stage in decoder.blocks):
        nn.init.zeros_(block.grn.gamma)  # the one layer that looks at the whole image
    stages = [torch.randn(1, c, 4 * s, 4 * s) for c, s in zip(CHANNELS, (8, 4, 2, 1), strict=True)]
    mask = torch.zeros(1, 16)
    before = decoder(stages, mask)
    stages[0][0, :, 4, 20] += 1  # pixels 16 to 20, 80 to 84: in patch 2, of row 0
    changed = (decoder(stages, mask) != before).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [2]


def test_transformer_decoder_equals_that_of_timm():
    decoder = randomize(TransformerDecoder(64, embed_dims=32, depth=2, num_heads=4))
    latent = torch.randn(2, 64, 2, 3)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    x = decoder.proj(latent.permute(0, 2, 3, 1)).flatten(1, 2)
    x = torch.where(mask[..., None].bool(), decoder.mask_token, x)
    x = x + sincos_positions((2, 3), 32).flatten(0, 1)
    for layer in decoder.layers:
        theirs = Block(32, 4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
        names = {
            'self_attn.in_proj_': 'attn.qkv.',
            'self_attn.out_proj': 'attn.proj',
            'linear1': 'mlp.fc1',
            'linear2': 'mlp.fc2',
        }
        state = layer.state_dict()
        for ours, timm in names.items():
            state = {name.replace(ours, timm): tensor for name, tensor in state.items()}
        theirs.load_state_dict(state, strict=True)
        x = theirs(x)
    expected = decoder.pred(decoder.norm(x))
    torch.testing.assert_close(decoder(latent, mask), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # PyTorch has another implementation then
        again = decoder.eval()(latent, mask)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('grid', [(7, 7), (4, 7), (7, 3), (1, 1)])
def test_positions_are_those_of_mae(grid):
    square = torch.tensor(get_2d_sincos_pos_embed(24, 7)).view(7, 7, 24)
    mine = sincos_positions(grid, 24)
    torch.testing.assert_close(mine.double(), square[: grid[0], : grid[1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize('backend', ['torch', 'masked'])
def test_features_of_all_stages(backend):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 96)
    encoder = randomize(SparseConvNeXtV2(SMALL, backend=backend))
    dense = ConvNeXtV2(SMALL, out_indices=[0, 1, 2, 3])
    dense.load_state_dict(encoder.state_dict(), strict=False)
    stages, mask = encoder(images, all_stages=True)
    assert not mask.any()
    expected = dense._run_stages(images.permute(0, 2, 3, 1))
    for mine, theirs in zip(stages, expected, strict=True):
        assert relative(mine, theirs.permute(0, 3, 1, 2)) < 1e-5

    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    stages, _ = encoder(images, mask, all_stages=True)
    assert torch.equal(stages[-1], encoder(images, mask)[0])
    masked = SparseConvNeXtV2(SMALL, backend='masked')
    masked.load_state_dict(encoder.state_dict())
    for i, (mine, other) in enumerate(
        zip(stages, masked(images, mask, all_stages=True)[0], strict=True)
    ):
        side = 8 >> i
        assert mine.shape == (2, CHANNELS[i], 2 * side, 3 * side)
        assert relative(mine, other) < 1e-5
        hidden = mask.view(2, 1, 2, 3).repeat_interleave(side, 2).repeat_interleave(side, 3).bool()
        assert not mine[hidden.expand_as(mine)].any()


def test_encoder_without_sparsity_is_the_dense_network_on_a_masked_image():
    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    encoder = randomize(MaskedImageConvNeXtV2(SMALL))
    assert list(encoder.state_dict()) == list(SparseConvNeXtV2(SMALL).state_dict())
    theirs = ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0, gap_before_final_norm=False)
    theirs.load_state_dict(encoder.state_dict(), strict=False)
    x = hide(images, mask, torch.zeros(()))
    for downsample, stage in zip(theirs.downsample_layers, theirs.stages, strict=True):
        x = stage(downsample(x))
    x = x * (1 - mask.view(2, 1, 2, 3))
    latent, same = encoder(images, mask)
    assert torch.equal(same, mask)
    assert relative(latent, x) < 1e-5
    assert torch.equal(encoder(hide(images, mask, torch.ones(())), mask)[0], latent)
    sparse = SparseConvNeXtV2(SMALL)
    sparse.load_state_dict(encoder.state_dict())
    assert relative(sparse(images, mask)[0], latent) > 1e-2


def test_pretraining_without_sparsity():
    model = build('unet', encoder='MaskedImageConvNeXtV2')
    model.loss(torch.randn(2, 3, 64, 96))['loss'].backward()
    assert all(p.grad.any() and p.grad.isfinite().all() for p in model.parameters())


def test_wrong_widths_are_named():
    with pytest.raises(ValueError, match='embed_dims 60 is not allowed: .* multiple of 8'):
        UNetDecoder(64, embed_dims=60)
    with pytest.raises(ValueError, match='embed_dims 40 is not allowed: .* of the 16 heads'):
        TransformerDecoder(64, embed_dims=40)
