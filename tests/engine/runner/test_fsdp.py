"""FCMAE sharded over two processes on the CPU, against one process on the whole batch."""

import errno
import os
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, STRATEGIES, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from torch import distributed as dist

from convnextv2_mm.checkpoints import read_checkpoint
from convnextv2_mm.models import ConvNeXtV2
from convnextv2_mm.utils.distributed import leave_process_group

pytestmark = pytest.mark.long

SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])
MODEL = dict(
    type='convnextv2_mm.FCMAE',
    backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch=SMALL),
    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=40, embed_dims=32),
    head=dict(type='convnextv2_mm.FCMAEHead'),
)
OPTIMIZER = dict(
    # Decay strong enough to be seen within a few steps.
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=10.0, fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.8),
    accumulative_counts=2,
)
STRATEGY = dict(
    type='convnextv2_mm.FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='convnextv2_mm.each_block'),
    activation_checkpointing=dict(check_fn='convnextv2_mm.each_block'),
    state_dict_cfg='full',
    env_kwargs=dict(launcher='pytorch', randomness=dict(seed=0)),
    log_kwargs=dict(log_level='ERROR'),
)
STEPS, MIDDLE = 6, 4


def batch(step: int, rank: int = 0, width: int = 1) -> dict:
    """The part of a process of four images, dealt out in turn as samplers do."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(step))
    samples = [BaseDataElement(metainfo=dict(seed=4 * step + i)) for i in range(4)]
    return dict(inputs=images[rank::width], data_samples=samples[rank::width])


def shard(rank: int, folder: str) -> None:
    """What a process does: save after some steps, go on, and do that again from what was saved."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    init_default_scope('mmengine')
    strategy = STRATEGIES.build(dict(STRATEGY, work_dir=folder))
    strategy.prepare(
        MODEL, optim_wrapper=OPTIMIZER, param_scheduler=[], dispatch_kwargs=dict(max_iters=STEPS)
    )
    whole = sum(p.numel() for p in MODELS.build(MODEL).parameters())
    assert sum(p.numel() for p in strategy.model.parameters()) < 0.7 * whole

    def go_on(start: int, stop: int, name: str) -> None:
        for step in range(start, stop):
            strategy.model.train_step(batch(step, rank, 2), strategy.optim_wrapper)
        meta = dict(meta=dict(iter=stop))
        strategy.save_checkpoint(f'{folder}/{name}.pth', extra_ckpt=meta)
        dist.barrier()

    go_on(0, MIDDLE, 'middle')
    go_on(MIDDLE, STEPS, 'end')
    strategy.resume(f'{folder}/middle.pth')
    go_on(MIDDLE, STEPS, 'resumed')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, 'put', run_out_of_disk)
        with pytest.raises(OSError, match='middle') if rank == 0 else nullcontext():
            strategy.save_checkpoint(f'{folder}/middle.pth', extra_ckpt=dict(meta=dict(iter=STEPS)))
    leave_process_group()


def run_out_of_disk(self: LocalBackend, obj: bytes, filepath: str) -> None:
    """Write half a file, as a full disk does."""
    Path(filepath).write_bytes(obj[: len(obj) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), filepath)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('fsdp')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv('CUDA_VISIBLE_DEVICES', '')  # as without_gpus does
        torch.multiprocessing.spawn(shard, (str(path),), nprocs=2)
    return path


@pytest.fixture(scope='module')
def alone():
    """The model and optimizer of one process."""
    set_random_seed(0)
    model = MODELS.build(MODEL)
    optimizer = build_optim_wrapper(model, deepcopy(OPTIMIZER))
    optimizer.initialize_count_status(model, 0, STEPS)
    for step in range(STEPS):
        model.train_step(batch(step), optimizer)
    return model, optimizer


def test_weights_are_those_of_one_process(folder, alone):
    weights = torch.load(folder / 'end.pth')['state_dict']
    own = alone[0].state_dict()
    assert list(weights) == list(own)
    for name, tensor in own.items():
        # Sums of gradients in another order, after three steps of AdamW at a rate of 1e-3.
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=2e-6)


def test_groups_are_those_of_one_process(folder, alone):
    groups = torch.load(folder / 'end.pth')['optimizer']['param_groups']
    expected = alone[1].optimizer.param_groups
    assert len(groups) == len(expected) > 6
    for group, other in zip(groups, expected, strict=True):
        assert sorted(group['params']) == sorted(other['param_names'])
        assert (group['lr'], group['weight_decay']) == (other['lr'], other['weight_decay'])


def test_resume_is_exact(folder):
    end, resumed = (torch.load(folder / f'{name}.pth') for name in ('end', 'resumed'))
    middle = torch.load(folder / 'middle.pth')
    for name, tensor in end['state_dict'].items():
        assert torch.equal(resumed['state_dict'][name], tensor)
        assert not torch.equal(middle['state_dict'][name], tensor)
    for name, state in end['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(resumed['optimizer']['state'][name][key], value)


def test_checkpoint_is_that_of_an_unsharded_model(folder):
    path = str(folder / 'end.pth')
    MODELS.build(MODEL).load_state_dict(torch.load(path)['state_dict'], strict=True)
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture.depths == tuple(SMALL['depths'])
    init = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    backbone = ConvNeXtV2(SMALL, init_cfg=init)
    backbone.init_weights()
    weights = torch.load(path)['state_dict']
    for name, tensor in backbone.stages.state_dict().items():
        assert torch.equal(tensor, weights[f'backbone.stages.{name}'])


def test_a_save_that_fails_leaves_the_one_before(folder):
    assert torch.load(folder / 'middle.pth')['meta']['iter'] == MIDDLE
    files = sorted(path.name for path in folder.iterdir() if '.pth' in path.name)
    assert files == ['end.pth', 'middle.pth', 'resumed.pth']


def test_shards_in_a_folder_are_refused():
    with pytest.raises(ValueError, match="state_dict_cfg is 'local': expected 'full'"):
        STRATEGIES.build(dict(STRATEGY, state_dict_cfg='local'))
