"""tools/dist_train.sh on two CPU processes, which are killed and told to end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convnextv2_mm.datasets.shapes.drawing import write_shapes

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'


@pytest.fixture
def start(without_gpus, tmp_path):
    """A function that starts a run in a work dir."""
    shapes = tmp_path / 'shapes'
    write_shapes(shapes, num_train=32, num_val=2, size=64, seed=0)
    changes = ['train_dataloader.batch_size=4', 'train_dataloader.dataset.pipeline.1.scale=64']
    changes += ['train_cfg.max_epochs=15', 'train_cfg.val_interval=15', 'param_scheduler.1.end=15']
    changes += ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=5']
    changes += ['custom_hooks=[]', 'model.neck.embed_dims=32']
    for split in ('train', 'val', 'test'):
        changes += [f'{split}_dataloader.dataset.make=None']
        changes += [f'{split}_dataloader.dataset.data_root={shapes}']
    processes = []

    def start(work_dir: Path, *arguments: str, restarts: int = 0) -> subprocess.Popen:
        with socket.create_server(('127.0.0.1', 0)) as found:
            port = found.getsockname()[1]
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        place = dict(os.environ, PATH=path, PORT=str(port), OMP_NUM_THREADS='1')
        command = ['bash', ROOT / 'tools/dist_train.sh', CONFIG, '2', '--work-dir', work_dir]
        processes.append(
            subprocess.Popen(
                [*command, *arguments, '--cfg-options', *changes],
                env=place | (dict(RESTARTS=str(restarts)) if restarts else {}),
                start_new_session=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_checkpoint(process: subprocess.Popen, work_dir: Path, after: str = '') -> str:
    """The newest checkpoint as soon as it is another than ``after``."""
    pointer = work_dir / 'last_checkpoint'
    while not pointer.exists() or pointer.read_text() == after:
        assert process.poll() is None
        time.sleep(0.02)
    return pointer.read_text()


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    path = work_dir / (work_dir / 'last_checkpoint').read_text()
    return torch.load(path, weights_only=False)['state_dict']


def test_killed_process_restarts_and_a_stopped_run_goes_on(start, tmp_path, capfd):
    whole, harmed = tmp_path / 'whole', tmp_path / 'harmed'
    assert start(whole).wait() == 0

    process = start(harmed, restarts=1)
    saved = wait_for_checkpoint(process, harmed)
    workers = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(workers[1]), signal.SIGKILL)
    wait_for_checkpoint(process, harmed, after=saved)
    process.terminate()
    assert process.wait() != 0
    assert (harmed / 'last_checkpoint').read_text() == 'interrupted.pth'

    capfd.readouterr()
    assert start(harmed, '--resume').wait() == 0
    assert 'resumed epoch' in capfd.readouterr().out
    expected = weights(whole)
    for name, tensor in weights(harmed).items():
        assert torch.equal(tensor, expected[name]), name
