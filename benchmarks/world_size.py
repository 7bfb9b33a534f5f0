"""Take the first steps of a training at several numbers of processes, and compare them.

The table gives each loss and the gradients on one process, and how far they are from it on more of
them, as a part of the value: the largest over the steps. The batch of all processes together stays
the same, weights do not change, and all is float32. Each process has a GPU if there are enough for
the most processes, and a thread of the CPU otherwise, where SyncBN is not available.
"""

import argparse
import os
import socket
import tempfile
from pathlib import Path

from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.engine.config.reading import check_data, check_model, read_config
from convnextv2_mm.engine.runner.resume import make_resumable
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.utils.distributed import (
    init_cpu_process_group,
    leave_process_group,
    unwrap_model,
)

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce_dict
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch import Tensor

Step = tuple[dict[str, Tensor], dict[str, Tensor]]  # losses and gradients by name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--widths', type=int, nargs='+', default=[2, 4], help='numbers of processes beside 1'
    )
    parser.add_argument('--batch', type=int, default=8, help='images a step, of all processes')
    parser.add_argument('--steps', type=int, default=3, help='steps to compare')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f'--steps {args.steps} is not allowed: 1 is the least')
    for width in args.widths:
        if width < 1 or args.batch % width:
            parser.error(f'--widths {width} does not divide the batch of {args.batch} images')
    return args


class StepRecorder(Hook):
    """Keep the losses and the gradients of each step."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def before_train(self, runner: Runner) -> None:
        """Look at the gradients before the optimizer forgets them."""
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self._keep(runner))

    def _keep(self, runner: Runner) -> None:
        parameters = unwrap_model(runner.model).named_parameters()
        self.gradients = {n: p.grad.cpu().clone() for n, p in parameters if p.grad is not None}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict[str, Tensor]
    ) -> None:
        """Average the losses over the processes, as their gradients are."""
        losses = {n: v.detach().double() for n, v in outputs.items() if 'loss' in n}
        all_reduce_dict(losses, op='mean')
        self.steps.append(({n: v.cpu() for n, v in losses.items()}, self.gradients))


def first_steps_config(args: argparse.Namespace, width: int, work_dir: str) -> Config:
    """The config of the run, which takes a few steps that change nothing."""
    config = read_config(args.config, args.cfg_options, work_dir)
    if 'train_dataloader' not in config:
        raise ValueError(f'config {args.config} describes no training: it has no train_dataloader')
    config.train_dataloader.batch_size = args.batch // width
    config.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=args.steps)
    for key in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            config.pop(f'{key}_{part}', None)
    for key in ('param_scheduler', 'custom_hooks', 'strategy', 'runner_type'):
        config.pop(key, None)
    config.default_hooks = dict(
        checkpoint=dict(type='CheckpointHook', interval=args.steps + 1, save_last=False)
    )
    config.log_level = 'ERROR'
    config.visualizer = dict(type='Visualizer')
    make_resumable(config)
    return config


def take_steps(rank: int, width: int, port: int, args: argparse.Namespace, folder: str) -> None:
    """What one of ``width`` processes does; the first writes the steps to ``folder``."""
    torch.set_num_threads(1)
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=width)
    place |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    config = first_steps_config(args, width, f'{folder}/{width}')
    torch.backends.cudnn.allow_tf32 = False
    config.launcher = 'none' if width == 1 else 'pytorch'
    if width > 1 and not torch.cuda.is_available():
        init_cpu_process_group(config)
    runner = Runner.from_cfg(config)
    if width == 1:
        runner.model = revert_sync_batchnorm(runner.model)
    recorder = StepRecorder()
    runner.register_hook(recorder)
    runner.train()
    if rank == 0:
        torch.save(recorder.steps, f'{folder}/{width}.pth')
    if width > 1:
        leave_process_group()


def compare(one: list[Step], many: list[Step]) -> dict[str, float]:
    """How far the steps of many processes are from those of one: by loss, and of the gradients."""
    worst: dict[str, float] = {}

    def note(name: str, difference: float) -> None:
        worst[name] = max(difference, worst.get(name, 0.0))

    for (losses, gradients), (other_losses, other_gradients) in zip(one, many, strict=True):
        for name, value in losses.items():
            note(name, _distance([value], [other_losses[name]]))
        names = list(gradients)
        note(
            'gradient',
            _distance([gradients[n] for n in names], [other_gradients[n] for n in names]),
        )
        for name in names:
            note('its worst tensor', _distance([gradients[name]], [other_gradients[name]]))
    return worst


def _distance(values: list[Tensor], others: list[Tensor]) -> float:
    """Norm of the difference, as a part of the norm of ``values``."""
    values = torch.cat([v.double().flatten() for v in values])
    others = torch.cat([v.double().flatten() for v in others])
    return ((others - values).norm() / values.norm().clamp(min=1e-30)).item()


def main() -> None:
    args = parse_args()
    if torch.cuda.device_count() < max(args.widths):
        os.environ['CUDA_VISIBLE_DEVICES'] = ''  # for the processes, which read it as they start
    with tempfile.TemporaryDirectory() as folder:
        with exit_on_user_error():
            config = first_steps_config(args, 1, folder)
            check_data(config.train_dataloader)
            check_model(config.model)
        steps = {}
        for width in (1, *args.widths):
            with socket.socket() as found:
                found.bind(('127.0.0.1', 0))
                port = found.getsockname()[1]
            torch.multiprocessing.spawn(take_steps, (width, port, args, folder), nprocs=width)
            steps[width] = torch.load(Path(folder) / f'{width}.pth', weights_only=True)
    losses, gradients = steps[1][0]
    values = {name: value.item() for name, value in losses.items()}
    values['gradient'] = torch.cat([g.flatten() for g in gradients.values()]).norm().item()
    differences = {width: compare(steps[1], steps[width]) for width in args.widths}
    print('| | 1 |' + ''.join(f' {width} |' for width in args.widths))
    print('|---|' + '---|' * (1 + len(args.widths)))
    for name in (*values, 'its worst tensor'):
        cells = [f'{values[name]:.6g}' if name in values else '']
        cells += [f'{difference[name]:.1e}' for difference in differences.values()]
        print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
    main()
