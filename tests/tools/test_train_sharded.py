"""tools/train.py with FSDP on two processes, for real on a few drawings."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from run_tool import run_tool
from torch import distributed as dist

from convnextv2_mm.checkpoints import read_checkpoint
from convnextv2_mm.datasets.shapes.drawing import write_shapes

ROOT = Path(__file__).parents[2]


def train(*arguments: object) -> None:
    """Run ``tools/train.py`` in this process."""
    run_tool('train', *arguments)


def write_config(folder: Path, name: str, options: dict) -> Path:
    """A demo that is sharded."""
    bases = [str(ROOT / 'configs' / path) for path in (f'demo/{name}.py', '_base_/fsdp.py')]
    path = folder / f'{name}.py'
    path.write_text(f'_base_ = {bases}\n')
    config = Config.fromfile(path)
    config.merge_from_dict(options)
    config.dump(path)
    return path


def run_process(rank: int, ports: list[int], runs: list[list]) -> None:
    torch.set_num_threads(1)
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1')
    for port, arguments in zip(ports, runs, strict=True):
        place['MASTER_PORT'] = port
        os.environ.update({name: str(value) for name, value in place.items()})
        train(*arguments, '--launcher', 'pytorch')
        assert not dist.is_initialized()


def losses(work_dir: Path) -> list[list[float]]:
    """What each run has logged, in the order of the runs."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    return [[line['loss'] for line in log if 'loss' in line] for log in lines]


def test_pretrain_resume_and_fine_tune(tmp_path):
    write_shapes(tmp_path / 'shapes', num_train=8, num_val=2, size=64, seed=0)
    data = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.data_root': str(tmp_path / 'shapes'),
        'train_dataloader.dataset.make': None,
        'default_hooks.logger.interval': 1,
        'val_dataloader': None,
        'val_cfg': None,
        'val_evaluator': None,
    }
    pretrain = write_config(
        tmp_path,
        'fcmae_convnextv2-a_shapes',
        data
        | {
            'train_dataloader.dataset.pipeline.1.scale': 64,
            'train_cfg.max_epochs': 2,
            'default_hooks.checkpoint.interval': 1,
            'custom_hooks': [],
        },
    )
    fine_tune = write_config(
        tmp_path,
        'upernet_convnextv2-a_shapes',
        data
        | {
            'model.data_preprocessor.size': (64, 64),
            'model.backbone.init_cfg.checkpoint': str(tmp_path / 'whole' / 'epoch_2.pth'),
            'train_cfg.max_iters': 2,
        },
    )
    stopped, changes = ('--work-dir', tmp_path / 'stopped'), ('--cfg-options',)
    accumulate = 'optim_wrapper.accumulative_counts=3'
    interval = 'default_hooks.checkpoint.interval=2'
    runs = [
        [pretrain, '--work-dir', tmp_path / 'whole'],
        [pretrain, *stopped, *changes, 'train_cfg.max_epochs=1'],
        [pretrain, *stopped, '--resume'],
        # Two batches an epoch and three a step: a checkpoint in the middle of it, and none.
        [pretrain, '--work-dir', tmp_path / 'saved', *changes, accumulate],
        [pretrain, '--work-dir', tmp_path / 'unsaved', *changes, accumulate, interval],
        [fine_tune, '--work-dir', tmp_path / 'fine-tuned'],
    ]
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in runs]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    torch.multiprocessing.spawn(run_process, (ports, runs), nprocs=2)

    whole, resumed = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        for name in ('whole', 'stopped')
    )
    assert list(whole['state_dict']) == list(resumed['state_dict'])
    for name, tensor in whole['state_dict'].items():
        assert torch.equal(resumed['state_dict'][name], tensor)
    saved, unsaved = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)['state_dict']
        for name in ('saved', 'unsaved')
    )
    for name, tensor in saved.items():
        assert torch.equal(unsaved[name], tensor)
        assert not torch.equal(whole['state_dict'][name], tensor)
    rates = [c['optimizer']['base_param_settings']['lr'] for c in (whole, resumed)]
    assert rates[0] == rates[1] > 0
    assert read_checkpoint(tmp_path / 'whole' / 'epoch_2.pth').architecture.size == 'atto'
    assert [len(run) for run in losses(tmp_path / 'stopped')] == [2, 2]
    assert [len(run) for run in losses(tmp_path / 'fine-tuned')] == [2]
    before = read_checkpoint(tmp_path / 'whole' / 'epoch_2.pth').weights
    after = read_checkpoint(tmp_path / 'fine-tuned' / 'iter_2.pth').weights
    for name, tensor in before.items():
        if name.startswith('backbone.stages'):
            # Started from there: two steps of AdamW at most 5e-3 each, the first ones of a warm-up.
            assert (after[name] - tensor).abs().max() < 2e-3


def test_sharding_needs_several_processes(tmp_path, capsys):
    config = write_config(tmp_path, 'fcmae_convnextv2-a_shapes', {})
    with pytest.raises(SystemExit) as stop:
        train(config, '--work-dir', tmp_path / 'work')
    assert stop.value.code == 2
    assert 'start it with tools/dist_train.sh' in capsys.readouterr().err
