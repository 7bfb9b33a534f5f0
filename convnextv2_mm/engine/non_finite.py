"""Steps whose gradients are not numbers: left out, told, and, if they do not end, the run's end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce, get_rank, is_distributed
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints.whole_files import written_whole
from ..registry import HOOKS
from .resume import RunStopped


class _Step(NamedTuple):
    """A step of the optimizer that has not been looked at yet."""

    iteration: int
    skipped: Tensor  # 1.0 or 0.0, on the device
    losses: list[Tensor]  # of its batches
    files: list[str]


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Leave out the steps of the optimizer whose gradients hold infinities or NaNs.

    Weights, moments and the running statistics of batch normalisation stay as they were. The files
    of the batch go to ``non_finite/iter_N_rank_R.json`` in the work dir, one file for each process.
    All processes leave out the same steps.

    On a GPU with a fused optimizer, nothing waits for the device but a look at the past steps
    every ``interval`` of them. An optimizer that is not fused costs a wait in every step.

    Args:
        interval: Steps of the optimizer between two looks at them on a GPU; on a CPU, it is 1.
        stop_after: So many steps left out in a row end the run, at the next look.
    """

    priority = 'ABOVE_NORMAL'  # before the running statistics go into an average

    def __init__(self, interval: int = 50, stop_after: int = 20) -> None:
        if interval < 1 or stop_after < 1:
            raise ValueError(
                f'interval {interval} and stop_after {stop_after} must both be 1 or more'
            )
        self.interval = interval
        self.stop_after = stop_after
        self.total = self.in_a_row = 0
        self._warned = False
        self._found: Tensor | None = None
        self._steps: list[_Step] = []
        self._losses: list[Tensor] = []
        self._files: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizer."""
        optimizer = runner.optim_wrapper.optimizer
        self._watching = optimizer.register_step_pre_hook(self._before_step)
        self.total = runner.message_hub.get_info('skipped_steps', 0)
        norms = [module for module in runner.model.modules() if isinstance(module, _BatchNorm)]
        statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var)]
        self._statistics = [s for s in statistics if s is not None]
        self._statistics_before = [s.clone() for s in self._statistics]

    def _before_step(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if hasattr(optimizer, 'grad_scale'):  # a gradient scaler has looked
            found = optimizer.found_inf
        else:
            parameters = [p for group in optimizer.param_groups for p in group['params']]
            gradients = [p.grad for p in parameters if p.grad is not None]
            largest = torch.nn.utils.get_total_norm(gradients, math.inf)
            found = (~largest.isfinite()).float()
            if is_distributed():  # with sharded gradients, each process has seen its own
                all_reduce(found, 'max')
            if all(group.get('fused') for group in optimizer.param_groups):
                optimizer.found_inf = found  # such an optimizer then leaves everything as it is
            elif found.item():
                for parameter in parameters:
                    parameter.grad = None
        self._found = found

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Note the step, and look at the past ones when it is time to."""
        if outputs and torch.is_tensor(outputs.get('loss')):
            self._losses.append(outputs['loss'].detach())
        samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
        self._files += [sample.get('img_path', '') for sample in samples]
        if not runner.optim_wrapper.should_update():
            return
        if self._found is None:  # a scaler that waits for the device has not let it step
            self._found = torch.ones(())
        found, self._found = self._found, None
        for now, before in zip(self._statistics, self._statistics_before, strict=True):
            before.copy_(torch.where(found.to(now.device) > 0, before, now))
            now.copy_(before)
        self._steps.append(_Step(runner.iter + 1, found, self._losses, self._files))
        self._losses, self._files = [], []
        if found.device.type == 'cpu' or len(self._steps) >= self.interval:
            self._look(runner)

    def after_train(self, runner: Runner) -> None:
        """Look at the last steps, and leave the optimizer alone."""
        self._watching.remove()
        vars(runner.optim_wrapper.optimizer).pop('found_inf', None)
        self._look(runner)

    def _look(self, runner: Runner) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        device = steps[0].skipped.device
        skipped = torch.stack([step.skipped.to(device) for step in steps]).tolist()
        for step, is_skipped in zip(steps, skipped, strict=True):
            self.in_a_row = self.in_a_row + 1 if is_skipped else 0
            if is_skipped:
                self.total += 1
                runner.message_hub.update_info('skipped_steps', self.total)
                self._tell(runner, step)
        self._check_loss_scale(runner)
        if self.in_a_row >= self.stop_after:
            raise RunStopped(
                f'{self.in_a_row} steps in a row up to iteration {steps[-1].iteration} had '
                f'gradients that are not finite: the files of their batches are in '
                f'{self._folder(runner)}, and the weights are those from before'
                + self._bfloat16_advice(runner)
            )

    def _folder(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / 'non_finite'

    def _tell(self, runner: Runner, step: _Step) -> None:
        path = self._folder(runner) / f'iter_{step.iteration}_rank_{get_rank()}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        losses = [str(float(loss)) for loss in step.losses]  # JSON has no word for nan
        content = dict(iteration=step.iteration, rank=get_rank(), losses=losses, files=step.files)
        with written_whole(path) as beside:
            beside.write_text(json.dumps(content, indent=1) + '\n')
        runner.logger.warning(
            f'iteration {step.iteration}: gradients are not finite, the step is left out '
            f'({self.total} in all, {self.in_a_row} in a row); its files are in {path}'
        )

    def _check_loss_scale(self, runner: Runner) -> None:
        if self.in_a_row and not self._warned and self._bfloat16_advice(runner):
            scale = runner.optim_wrapper.loss_scaler.get_scale()
            if scale < 1:
                self._warned = True
                runner.logger.warning(
                    f'float16 overflows again and again: the loss scale has fallen to {scale:g}, '
                    f'where small gradients vanish{self._bfloat16_advice(runner)}'
                )

    @staticmethod
    def _bfloat16_advice(runner: Runner) -> str:
        """What to do instead of float16, if that is what the run computes in."""
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, 'loss_scaler') or wrapper.cast_dtype not in (None, torch.float16):
            return ''
        return "; train with optim_wrapper.dtype='bfloat16', which has the range of float32"
