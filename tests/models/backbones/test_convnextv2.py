"""The backbone against mmpretrain's ConvNeXt, and the packed encoder against the masked one."""

import pytest
import torch
from mmpretrain.models import ConvNeXt
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnextv2_mm.models import ConvNeXtV2, SparseConvNeXtV2
from convnextv2_mm.ops import PatchLayout

ALL_STAGES = dict(out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # on a CPU Triton is interpreted
SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])
# Paper, table 1 and appendix: parameters with the 1000-class head, multiply-adds at 224x224.
TABLE = {
    'atto': (3.7, 0.55),
    'femto': (5.2, 0.78),
    'pico': (9.1, 1.37),
    'nano': (15.6, 2.45),
    'tiny': (28.6, 4.47),
    'base': (89, 15.4),
    'large': (198, 34.4),
    'huge': (660, 115),
}


def randomize(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Give every parameter, gamma and beta of GRN too, a value that matters."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def masked_mmpretrain_latent(images, mask, state, arch):
    """FCMAE's encoder as the paper defines it, from mmpretrain's dense network: the mask multiplied
    in before and after each depthwise convolution, and before GRN."""
    model = ConvNeXt(arch, use_grn=True, layer_scale_init_value=0.0, gap_before_final_norm=False)
    model.load_state_dict(state, strict=False)
    n, grid = len(images), (images.shape[2] // 32, images.shape[3] // 32)
    visible = 1 - mask.view(n, 1, *grid)

    def at(height):
        factor = height // grid[0]
        return visible.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    for stage in model.stages:
        for block in stage:
            conv, grn = block.depthwise_conv, block.grn
            conv.register_forward_pre_hook(lambda _, args: (args[0] * at(args[0].shape[2]),))
            conv.register_forward_hook(lambda _, args, out: out * at(out.shape[2]))
            grn.register_forward_pre_hook(
                lambda _, args: (args[0] * at(args[0].shape[1]).permute(0, 2, 3, 1),)
            )
    x = images
    for downsample, stage in zip(model.downsample_layers, model.stages, strict=True):
        x = stage(downsample(x))
    return x * visible


@pytest.mark.parametrize('arch', [*TABLE, 'small', 'xlarge'])
def test_parameters_are_those_of_mmpretrain(arch, monkeypatch):
    monkeypatch.setattr(nn.init, 'kaiming_uniform_', lambda tensor, *_, **__: tensor)  # for speed
    theirs = ConvNeXt(arch, use_grn=True, layer_scale_init_value=0.0, **ALL_STAGES).state_dict()
    with torch.device('meta'):
        ours = ConvNeXtV2(arch, **ALL_STAGES).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize('arch', ['atto', SMALL])
@pytest.mark.parametrize('size', [(64, 64), (96, 160), (75, 110)])
@pytest.mark.parametrize('v2', [True, False])
def test_outputs_equal_mmpretrain(arch, size, v2):
    version = dict(use_grn=v2, layer_scale_init_value=0.0 if v2 else 1e-6)
    theirs = randomize(ConvNeXt(arch, **version, **ALL_STAGES))
    ours = ConvNeXtV2(arch, **version, **ALL_STAGES)
    assert not any(ours.load_state_dict(theirs.state_dict(), strict=True))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, *size)
    for mine, other in zip(ours(images), theirs(images), strict=True):
        assert mine.shape == other.shape
        assert mine.is_contiguous(memory_format=torch.channels_last)
        assert relative(mine, other) < 1e-5


def test_pooled_output_equals_mmpretrain():
    theirs = randomize(ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0))
    ours = ConvNeXtV2(SMALL)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(3, 3, 64, 96)
    assert relative(ours(images)[0], theirs(images)[0]) < 1e-5


@pytest.mark.parametrize('arch', TABLE)
def test_size_is_that_of_the_paper(arch):
    params, flops = TABLE[arch]
    with torch.device('meta'):
        model = ConvNeXtV2(arch)
    head = 1000 * (model.channels[-1] + 1)
    assert (sum(p.numel() for p in model.parameters()) + head) / 1e6 == pytest.approx(
        params, rel=0.01
    )
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device='meta'))
    multiply_adds = counter.get_total_flops() / 2
    assert multiply_adds / 1e9 == pytest.approx(flops, rel=0.02)


@pytest.mark.parametrize('size', [(224, 224), (256, 192), (64, 96)])
@pytest.mark.parametrize('batch', [1, 5])
def test_packed_equals_masked_and_mmpretrain(size, batch):
    images = torch.randn(batch, 3, *size)
    mask = PatchLayout.random(batch, (size[0] // 32, size[1] // 32), 0.6).mask
    packed = randomize(SparseConvNeXtV2(SMALL))
    masked = SparseConvNeXtV2(SMALL, backend='masked')
    masked.load_state_dict(packed.state_dict())

    stages = []
    for model in (packed, masked):
        for stage in model.stages:
            stage[-1].register_forward_hook(lambda _, args, out: stages.append(out.detach()))
    latent, same_mask = packed(images, mask)
    reference, _ = masked(images, mask)
    assert torch.equal(mask, same_mask)
    assert relative(latent, reference) < 1e-4
    assert (
        relative(latent, masked_mmpretrain_latent(images, mask, packed.state_dict(), SMALL)) < 1e-4
    )

    assert len(stages) == 8
    layout = PatchLayout.from_mask(mask, batch, (size[0] // 32, size[1] // 32))
    for visible, dense in zip(stages[:4], stages[4:], strict=True):
        assert relative(visible, layout.pack(dense)) < 1e-4

    direction = torch.randn_like(latent)
    for output in (latent, reference):
        (output * direction).sum().backward()
    for (name, mine), other in zip(packed.named_parameters(), masked.parameters(), strict=True):
        assert relative(mine.grad, other.grad) < 1e-4, name


@pytest.mark.long
def test_triton_encoder_equals_masked():
    images = torch.randn(1, 3, 32, 96, device=DEVICE)
    mask = torch.tensor([[0, 1, 0]])
    arch = dict(depths=[1, 1, 1, 1], channels=[4, 4, 4, 4])
    fast = randomize(SparseConvNeXtV2(arch, backend='triton')).to(DEVICE)
    masked = SparseConvNeXtV2(arch, backend='masked').to(DEVICE)
    masked.load_state_dict(fast.state_dict())
    latents = [model(images, mask)[0] for model in (fast, masked)]
    assert relative(*latents) < 1e-4
    for latent in latents:
        latent.square().sum().backward()
    for (name, mine), other in zip(fast.named_parameters(), masked.parameters(), strict=True):
        assert relative(mine.grad, other.grad) < 1e-4, name


def test_masked_pixels_never_matter():
    model = randomize(SparseConvNeXtV2(SMALL)).eval()
    images = torch.randn(2, 3, 96, 96)
    mask = PatchLayout.random(2, (3, 3), 0.6).mask
    hidden = mask.view(2, 1, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3).bool()
    changed = torch.where(hidden, 1e3 * torch.randn_like(images), images)
    latent, _ = model(images, mask)
    assert torch.equal(latent, model(changed, mask)[0])
    assert not latent[(mask.view(2, 1, 3, 3) == 1).expand_as(latent)].any()


def test_samples_are_independent():
    model = randomize(SparseConvNeXtV2(SMALL)).eval()
    images = torch.randn(4, 3, 64, 96)
    mask = PatchLayout.random(4, (2, 3), 0.5).mask
    together = model(images, mask)[0]
    alone = torch.cat([model(images[i : i + 1], mask[i : i + 1])[0] for i in range(4)])
    assert relative(together, alone) < 1e-5


def test_everything_visible_is_the_dense_network():
    sparse = randomize(SparseConvNeXtV2(SMALL))
    dense = ConvNeXtV2(SMALL, out_indices=(), gap_before_final_norm=False)
    dense.load_state_dict(sparse.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    latent, mask = sparse(images)
    *_, x = dense._run_stages(images.permute(0, 2, 3, 1))
    assert not mask.any()
    assert relative(latent, x.permute(0, 3, 1, 2)) < 1e-5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(dtype):
    torch.manual_seed(0)
    model = randomize(SparseConvNeXtV2(SMALL))
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    expected = model(images, mask)[0]
    with torch.autocast('cpu', dtype):
        latent = model(images, mask)[0]
    latent.float().square().sum().backward()
    assert relative(latent.float(), expected) < 5e-2
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_checkpointing_changes_nothing():
    images = torch.randn(2, 3, 64, 64)
    plain = randomize(ConvNeXtV2(SMALL, drop_path_rate=0.5))
    cheap = ConvNeXtV2(SMALL, drop_path_rate=0.5, with_cp=True)
    cheap.load_state_dict(plain.state_dict())
    for model in (plain, cheap):
        torch.manual_seed(0)
        model(images)[0].sum().backward()
    for mine, other in zip(cheap.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_frozen_stages_do_not_train():
    model = ConvNeXtV2(SMALL, frozen_stages=2, drop_path_rate=0.5).train()
    model(torch.randn(1, 3, 64, 64))[0].sum().backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(
            ('downsample_layers.0', 'downsample_layers.1', 'stages.0', 'stages.1')
        )
        assert (parameter.grad is None) == frozen, name
    assert not model.stages[1].training
    assert model.stages[2].training


def test_drop_path_rises_linearly():
    model = ConvNeXtV2('atto', drop_path_rate=0.22)
    rates = [getattr(b.drop_path, 'drop_prob', 0.0) for stage in model.stages for b in stage]
    assert rates == pytest.approx([0.02 * i for i in range(12)], abs=1e-6)


def test_initial_weights():
    model = ConvNeXtV2('tiny')
    for name, parameter in model.named_parameters():
        if name.endswith(('bias', 'beta', 'gamma')):
            assert not parameter.any(), name
        elif parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_fcmae_checkpoint_is_read_as_it_is(tmp_path):
    encoder = randomize(SparseConvNeXtV2(SMALL))
    path = tmp_path / 'fcmae.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in encoder.state_dict().items()}), path)
    init = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = ConvNeXtV2(SMALL, init_cfg=init, **ALL_STAGES)
    model.init_weights()
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='bas'), "arch 'bas' is unknown: choose one of atto"),
        (dict(arch=dict(depths=[1, 1, 1], channels=[8] * 4)), 'depths=.* four positive integers'),
        (dict(arch=dict(depths=[1] * 4, channels=[8, 8, 8, 0])), 'channels=.* four positive'),
        (dict(arch=dict(depths=[1] * 4)), 'channels=None'),
        (dict(out_indices=[0, 4]), 'out_indices .* 0 to 3'),
        (dict(frozen_stages=5), 'frozen_stages 5'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtV2(**arguments)


def test_wrong_inputs_are_named():
    model = SparseConvNeXtV2(SMALL)
    with pytest.raises(ValueError, match='backend'):
        SparseConvNeXtV2(SMALL, backend='sparse')
    with pytest.raises(ValueError, match='image size 64x100 is not allowed: .* multiples of 32'):
        model(torch.randn(1, 3, 64, 100))
    with pytest.raises(ValueError, match=r'mask of shape \(1, 3\) does not fit: .* \(1, 4\)'):
        model(torch.randn(1, 3, 64, 64), torch.zeros(1, 3))
    with pytest.raises(ValueError, match='same number of patches, got'):
        model(torch.randn(2, 3, 64, 64), torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]))
    with pytest.raises(ValueError, match='none of the 4 patches visible'):
        model(torch.randn(1, 3, 64, 64), torch.ones(1, 4))
    with pytest.raises(ValueError, match='must be 0'):
        model(torch.randn(1, 3, 64, 64), torch.full((1, 4), 0.5))
    with pytest.raises(ValueError, match='image size 16x64 is too small'):
        ConvNeXtV2(SMALL)(torch.randn(1, 3, 16, 64))
