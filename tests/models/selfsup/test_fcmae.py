"""FCMAE: masks, loss, reconstruction, and training under MMEngine."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convnextv2_mm.models import FCMAE, FCMAEHead
from convnextv2_mm.ops import PatchLayout, patchify, unpatchify
from convnextv2_mm.utils.distributed import leave_process_group

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # on a CPU Triton is interpreted
SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])


def build(backend='auto', **kwargs) -> FCMAE:
    torch.manual_seed(0)
    model = FCMAE(
        backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch=SMALL, backend=backend),
        neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=40, embed_dims=32),
        head=dict(type='convnextv2_mm.FCMAEHead'),
        **kwargs,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def test_patch_order_is_row_column_channel():
    images = torch.randn(2, 3, 64, 96)
    patches = patchify(images, 32)
    assert patches.shape == (2, 6, 32, 32, 3)
    assert torch.equal(patches[1, 4, 5, 7], images[1, :, 32 + 5, 32 + 7])
    assert torch.equal(unpatchify(patches, (2, 3)), images)


@pytest.mark.parametrize('ratio', [0.1, 0.5, 0.6, 0.9])
def test_random_masks(ratio):
    layout = PatchLayout.random(400, (7, 7), ratio)
    mask = layout.mask
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask == 0).sum(1).tolist() == [int(49 * (1 - ratio))] * 400
    assert torch.equal(layout.visible, layout.visible.sort(1).values)
    # Every patch is as likely as any other: 6 standard deviations of a binomial.
    share = (mask == 0).float().mean(0)
    expected = int(49 * (1 - ratio)) / 49
    assert (share - expected).abs().max() < 6 * (expected * (1 - expected) / 400) ** 0.5


def test_loss_equals_brute_force_in_float64():
    torch.manual_seed(0)
    images = torch.randn(3, 3, 64, 96)
    prediction = torch.randn(3, 6, 32 * 32 * 3)
    mask = PatchLayout.random(3, (2, 3), 0.5).mask
    loss = FCMAEHead()(prediction, images, mask)
    for n in range(3):
        errors = []
        for patch in range(6):
            if mask[n, patch] == 0:
                continue
            row, column = 32 * (patch // 3), 32 * (patch % 3)
            target = images[n, :, row : row + 32, column : column + 32].double()
            target = target.permute(1, 2, 0).flatten()
            variance = ((target - target.mean()) ** 2).sum() / (target.numel() - 1)
            target = (target - target.mean()) / (variance + 1e-6).sqrt()
            errors.append(((prediction[n, patch].double() - target) ** 2).mean())
        assert loss[n].item() == pytest.approx((sum(errors) / len(errors)).item(), rel=1e-5)


def test_perfect_prediction_has_no_loss_and_is_the_image():
    images = torch.randn(2, 3, 64, 64)
    mask = torch.tensor([[1, 0, 1, 0]] * 2)
    head = FCMAEHead()
    patches, mean, std = head.patch_statistics(images)
    prediction = (patches - mean) / std
    assert head(prediction, images, mask).max() < 1e-10
    assert torch.allclose(head.to_pixels(prediction, images), patches, atol=1e-5)
    raw = FCMAEHead(norm_pix_loss=False)
    assert not raw(patches, images, mask).any()


def test_loss_of_a_sample_does_not_depend_on_the_others():
    model = build().eval()
    images = torch.randn(4, 3, 64, 96)
    mask = PatchLayout.random(4, (2, 3), 0.5).mask
    together = model.loss(images, mask=mask)['loss']
    alone = [model.loss(images[i : i + 1], mask=mask[i : i + 1])['loss'] for i in range(4)]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)
    images[1:] = torch.randn(3, 3, 64, 96)
    again = model.head(*_prediction(model, images, mask))
    assert again[0].item() == pytest.approx(alone[0].item(), rel=1e-5)


def _prediction(model, images, mask):
    latent, mask = model.backbone(images, mask)
    return model.neck(latent, mask), images, mask


def test_prediction_does_not_see_masked_pixels():
    model = build().eval()
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    hidden = mask.view(2, 1, 2, 3).repeat_interleave(32, 2).repeat_interleave(32, 3).bool()
    changed = torch.where(hidden, torch.randn_like(images), images)
    assert torch.equal(_prediction(model, images, mask)[0], _prediction(model, changed, mask)[0])


def test_reconstruct_keeps_what_is_visible():
    model = build().eval()
    images = torch.randn(2, 3, 64, 96)
    mask = PatchLayout.random(2, (2, 3), 0.5).mask
    masked, reconstructed = model.reconstruct(images, mask)
    hidden = mask.view(2, 1, 2, 3).repeat_interleave(32, 2).repeat_interleave(32, 3).bool()
    hidden = hidden.expand_as(images)
    assert not masked[hidden].any()
    assert torch.equal(masked[~hidden], images[~hidden])
    assert torch.equal(reconstructed[~hidden], images[~hidden])
    assert (reconstructed[hidden] != images[hidden]).any()


def test_evaluation_depends_on_the_file_name_only():
    from mmpretrain.structures import DataSample

    model = build().eval()
    images = torch.randn(3, 3, 64, 96)
    samples = [DataSample(metainfo=dict(img_path=f'/somewhere/{i}.jpg')) for i in range(3)]
    losses = [s.reconstruction_loss for s in model(images, samples, mode='predict')]
    other = [DataSample(metainfo=dict(img_path=f'elsewhere/{i}.jpg')) for i in (2, 0)]
    again = [s.reconstruction_loss for s in model(images[[2, 0]], other, mode='predict')]
    assert again == pytest.approx([losses[2], losses[0]], rel=1e-5)


def test_masks_are_drawn_from_the_seeds_of_the_samples():
    """The loss of a batch is the mean of those of its parts, whatever was drawn before."""
    from mmpretrain.structures import DataSample

    model = build().double()
    images = torch.randn(4, 3, 64, 96, dtype=torch.float64)
    samples = [DataSample(metainfo=dict(seed=seed)) for seed in (3, 2**61, 4, 5)]
    loss = model.loss(images, samples)['loss']
    parts = [model.loss(images[i : i + 2], samples[i : i + 2])['loss'] for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, loss, rtol=1e-12, atol=0)
    other = [DataSample(metainfo=dict(seed=seed)) for seed in (6, 7, 8, 9)]
    assert abs(model.loss(images, other)['loss'] / loss - 1) > 1e-6


@pytest.mark.parametrize('size', [(64, 64), (96, 64)])
@pytest.mark.parametrize('batch', [1, 3])
def test_every_parameter_trains(size, batch):
    model = build()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    data = dict(inputs=torch.randn(batch, 3, *size))
    losses = [model.train_step(data, optimizer)['loss'].item() for _ in range(15)]
    model.loss(**data)['loss'].backward()
    assert all(p.grad.any() and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]


def _seeded(seeds):
    return [BaseDataElement(metainfo=dict(seed=seed)) for seed in seeds]


def test_mask_of_an_image_follows_from_its_seed():
    model = build().eval()
    images, seeds = torch.randn(4, 3, 64, 96), [5, 2**62, 7, 5]
    together = model.loss(images, _seeded(seeds))['loss']
    torch.manual_seed(9)
    order = [2, 0, 3, 1]
    again = model.loss(images[order], _seeded([seeds[i] for i in order]))['loss']
    # Another order of the sum, nothing else.
    assert again.item() == pytest.approx(together.item(), rel=1e-6)
    other = model.loss(images, _seeded([6, *seeds[1:]]))['loss']
    assert other.item() != pytest.approx(together.item(), rel=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    images, samples = torch.randn(8, 3, 64, 96), _seeded(range(8))

    def gradients(parts: int) -> list[torch.Tensor]:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        kept = []
        optimizer.register_step_pre_hook(
            lambda *_: kept.extend(p.grad.clone() for p in model.parameters())
        )
        wrapper = OptimWrapper(optimizer, accumulative_counts=parts)
        wrapper.initialize_count_status(model, 0, parts)
        size = len(images) // parts
        for start in range(0, len(images), size):
            stop = start + size
            data = dict(inputs=images[start:stop], data_samples=samples[start:stop])
            model.train_step(data, wrapper)
        return kept

    expected, found = gradients(1), gradients(4)
    assert len(expected) == len(found) > 0
    norm = torch.cat([g.flatten() for g in expected]).norm()
    for a, b in zip(expected, found, strict=True):
        assert (a - b).norm() <= 1e-6 * norm


def _ddp_rank(rank, address):
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(build())
    for _ in range(2):  # an unused parameter is reported by the second step
        model(torch.randn(2, 3, 64, 64), mode='loss')['loss'].backward()
    leave_process_group()


@pytest.mark.long
def test_ddp_finds_no_unused_parameter(tmp_path):
    torch.multiprocessing.spawn(_ddp_rank, (f'file://{tmp_path}/rendezvous',), nprocs=2)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='mask_ratio 1.0 is not allowed'):
        build(mask_ratio=1.0)
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match='mask_ratio 0.9 leaves nothing visible of 2x2 patches'):
        build(mask_ratio=0.9).loss(images)
    with pytest.raises(ValueError, match='none of the 4 patches masked'):
        build().loss(images, mask=torch.zeros(1, 4))
    with pytest.raises(ValueError, match='image size 64x80 is not allowed'):
        build().loss(torch.randn(1, 3, 64, 80))
    with pytest.raises(ValueError, match="mode 'train' is unknown"):
        build()(images, mode='train')


def step(model, images):
    """Loss and gradients of a step under fixed masks."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = model.loss(images)['loss']
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.long
@pytest.mark.parametrize('backend', ['masked', 'spconv', 'triton'])
def test_backends_take_the_same_step(backend):
    if backend == 'spconv':
        pytest.importorskip('spconv')
    images = torch.randn(2, 3, 64, 96, device=DEVICE)
    loss, grads = step(build('torch').to(DEVICE), images)
    other_loss, other_grads = step(build(backend).to(DEVICE), images)
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
    for a, b in zip(other_grads, grads, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.long
@pytest.mark.parametrize('backend', ['torch', 'triton'])
def test_step_compiles_whole(backend):
    images = torch.randn(1, 3, 64, 96, device=DEVICE)
    loss, grads = step(build('torch').to(DEVICE), images)
    model = build(backend).to(DEVICE)
    model.loss = torch.compile(model.loss, fullgraph=True, backend='aot_eager')
    compiled_loss, compiled_grads = step(model, images)
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-5, atol=0)
    for a, b in zip(compiled_grads, grads, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.long
def test_compiled_step_draws_the_same_masks():
    """In a graph of its own: there would be one for each seed."""
    model = build('torch')
    images = torch.randn(2, 3, 64, 96)
    compiled = torch.compile(model.loss, backend='aot_eager')
    for seeds in ((1, 2), (3, 4), (5, 6)):
        samples = [BaseDataElement(metainfo=dict(seed=seed)) for seed in seeds]
        expected = model.loss(images, samples)['loss']
        torch.testing.assert_close(compiled(images, samples)['loss'], expected, rtol=1e-5, atol=0)


class NoHostReads(TorchDispatchMode):
    """Refuse the operators whose result's value or size Python waits for."""

    waiting = ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal.default')

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in self.waiting), f'{func} waits for the device'
        return func(*args, **(kwargs or {}))


@pytest.mark.long
@pytest.mark.parametrize('backend', ['torch', 'triton'])
def test_step_does_not_wait_for_the_device(backend):
    model, images = build(backend).to(DEVICE), torch.randn(1, 3, 64, 96, device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with NoHostReads():
        model.loss(images)['loss'].backward()
        optimizer.step()
        with pytest.raises(AssertionError, match='waits for the device'):
            model.loss(images, mask=torch.tensor([[0, 0, 0, 1, 1, 1]]))  # its values are checked


def test_patches_of_a_higher_priority_are_masked_first():
    torch.manual_seed(0)
    model, images = build(mask_ratio=0.5), torch.randn(3, 3, 64, 96)
    order = torch.stack([torch.randperm(6).view(2, 3).float() for _ in range(3)])
    expected = (order.flatten(1) >= 3).float()  # the upper half
    samples = [BaseDataElement(mask=values) for values in order]
    assert torch.equal(
        model.loss(images, samples)['loss'], model.loss(images, mask=expected)['loss']
    )
    painted = torch.stack([sample.masked for sample in model.predict(images, samples)])
    assert torch.equal(painted, model.reconstruct(images, expected)[0])
    with pytest.raises(ValueError, match=r'priority of shape \(3, 6\) does not fit'):
        model.loss(images[..., :64], samples)


def test_patches_of_the_same_priority_are_drawn():
    priority = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, -1]]).expand(500, -1)
    mask = PatchLayout.random(500, (2, 4), 0.5, seeds=range(500), priority=priority).mask
    assert mask[:, 0].all() and not mask[:, 7].any()
    # Three of the six others: 6 standard deviations of a binomial.
    assert (mask[:, 1:7].mean(0) - 0.5).abs().max() < 6 * (0.25 / 500) ** 0.5
    again = PatchLayout.random(500, (2, 4), 0.5, seeds=range(500), priority=priority).mask
    assert torch.equal(mask, again)
