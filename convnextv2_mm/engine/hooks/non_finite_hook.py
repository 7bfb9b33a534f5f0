"""Skip optimizer steps with non-finite losses or gradients, and stop the run if they persist."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...registry import HOOKS
from ...utils.atomic import atomic_write
from ..runner.resume import RunStopped

# Adam's second moment is a mean of squares: beyond this one becomes infinite, and its weight never
# moves again.
LARGEST = math.sqrt(torch.finfo(torch.float32).max)


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Skip optimizer steps whose loss or gradients are not finite or too large.

    Those are losses and gradients that are infinite or NaN, gradients whose square overflows
    float32, and, where they are clipped, gradients whose norm does. Gradients are judged without
    the loss scale and before they are clipped. Weights, moments and the running statistics of batch
    normalisation stay as they were, and the means in the log leave the losses of the step out. The
    files of the batch go to ``non_finite/iter_N_rank_R.json`` in the work dir, one file for each
    process. All processes leave out the same steps.

    With a fused optimizer, the decision stays on the device. It is read after the step, when
    MMEngine has waited for the device to read the losses.

    A learning rate that is negative or NaN ends the run.

    Args:
        stop_after: So many steps left out in a row end the run.
    """

    priority = 'ABOVE_NORMAL'  # after the losses are noted for the log, before they are averaged

    def __init__(self, stop_after: int = 20) -> None:
        if stop_after < 1:
            raise ValueError(f'stop_after {stop_after} is not allowed: 1 is least')
        self.stop_after = stop_after
        self.total = self.in_a_row = 0
        self._warned = False
        self._begin_step()

    def _begin_step(self) -> None:
        self._bad: list[Tensor] = []  # what is wrong with it so far: 1.0 or 0.0, on the device
        self._left_out: Tensor | None = None
        self._statistics: list[Tensor] | None = None
        self._logged: list[str] = []  # each name in the log, once for each value
        self._losses: list[float] = []
        self._files: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizer."""
        wrapper = runner.optim_wrapper
        self.total = runner.message_hub.get_info('skipped_steps', 0)
        self._watching = wrapper.optimizer.register_step_pre_hook(self._before_step)
        wrapper.backward = partial(self._backward, wrapper.backward)
        if wrapper.clip_grad_kwargs:
            wrapper.clip_func = partial(self._clip, wrapper.clip_func)
        self._norms = [
            module for module in runner.model.modules() if isinstance(module, _BatchNorm)
        ]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Check that the learning rates can be used, and keep the running statistics."""
        for number, group in enumerate(runner.optim_wrapper.optimizer.param_groups):
            if not 0 <= group['lr'] < math.inf:
                raise RunStopped(
                    f'iteration {runner.iter + 1}: the learning rate of parameter group {number} '
                    f'is {float(group["lr"]):g}, and must be 0 or more: see optim_wrapper and '
                    'param_scheduler'
                )
        if self._statistics is None:
            self._statistics = [statistic.clone() for statistic in self._running_statistics()]

    def _running_statistics(self) -> list[Tensor]:
        both = (s for norm in self._norms for s in (norm.running_mean, norm.running_var))
        return [statistic for statistic in both if statistic is not None]

    def _backward(self, backward: Callable, loss: Tensor, **kwargs) -> None:
        self._bad.append((~loss.detach().isfinite()).float())
        backward(loss, **kwargs)

    def _clip(self, clip: Callable, parameters: list[Tensor], **kwargs) -> Tensor | None:
        self._bad.append(_too_large([p.grad for p in parameters]))
        norm = clip(parameters, **kwargs)
        if norm is not None:
            self._bad.append((~norm.isfinite()).float())
            self._logged.append('train/grad_norm')
        return norm

    def _before_step(self, optimizer: torch.optim.Optimizer, *_) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale = getattr(optimizer, 'grad_scale', None)  # of gradients that are still to be divided
        bad = [*self._bad, _too_large(gradients, scale)]
        if hasattr(optimizer, 'grad_scale'):  # a gradient scaler has looked
            bad.append(optimizer.found_inf)
        device = bad[-1].device
        left_out = torch.stack([b.to(device).reshape(()) for b in bad]).amax()
        if is_distributed():  # a loss is of one process, and so are sharded gradients
            all_reduce(left_out, 'max')
        if all(group.get('fused') for group in optimizer.param_groups):
            optimizer.found_inf = left_out  # such an optimizer then leaves everything as it is
        elif left_out.item():
            for parameter in parameters:
                parameter.grad = None
        self._left_out = left_out

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Note the batch, and look at the step that it completes."""
        log = runner.message_hub.log_scalars
        names = [f'train/{key}' for key in outputs or ()]
        found = {name: log[name].current() for name in names if name in log}
        self._logged += [name for name, value in found.items() if math.isfinite(value)]
        _forget(log, [name for name, value in found.items() if not math.isfinite(value)])
        self._losses += [value for name, value in found.items() if name == 'train/loss']
        samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
        self._files += [sample.get('img_path', '') for sample in samples]
        if not runner.optim_wrapper.should_update():
            return
        # Without an answer, a scaler that waits for the device has not let the optimizer step.
        if self._left_out is None or self._left_out.item():
            self._leave_out(runner)
        else:
            self.in_a_row = 0
        self._begin_step()

    def _leave_out(self, runner: Runner) -> None:
        for now, before in zip(self._running_statistics(), self._statistics, strict=True):
            now.copy_(before)
        _forget(runner.message_hub.log_scalars, self._logged)
        self.total += 1
        self.in_a_row += 1
        runner.message_hub.update_info('skipped_steps', self.total)
        self._tell(runner)
        self._check_loss_scale(runner)
        if self.in_a_row >= self.stop_after:
            raise RunStopped(
                f'{self.in_a_row} steps in a row up to iteration {runner.iter + 1} had a loss or '
                f'gradients that cannot be used: the files of their batches are in '
                f'{self._folder(runner)}, and the weights are those from before'
                + self._bfloat16_advice(runner)
            )

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer alone."""
        self._watching.remove()
        wrapper = runner.optim_wrapper
        vars(wrapper.optimizer).pop('found_inf', None)
        del wrapper.backward
        if wrapper.clip_grad_kwargs:
            (wrapper.clip_func,) = wrapper.clip_func.args

    def _folder(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / 'non_finite'

    def _tell(self, runner: Runner) -> None:
        iteration, losses = runner.iter + 1, [str(loss) for loss in self._losses]  # JSON has no nan
        path = self._folder(runner) / f'iter_{iteration}_rank_{get_rank()}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        content = dict(iteration=iteration, rank=get_rank(), losses=losses, files=self._files)
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(content, indent=1) + '\n')
        runner.logger.warning(
            f'iteration {iteration}: the step is left out, since the loss or a gradient is '
            f'infinite, NaN or larger than {LARGEST:.2g} ({self.total} in all, {self.in_a_row} in '
            f'a row); its files are in {path}'
        )

    def _check_loss_scale(self, runner: Runner) -> None:
        if not self._warned and self._bfloat16_advice(runner):
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


def _too_large(gradients: list[Tensor], scale: Tensor | None = None) -> Tensor:
    """1.0 if one of the gradients, divided by ``scale``, cannot be used; else 0.0."""
    largest = torch.nn.utils.get_total_norm(gradients, math.inf)
    if scale is not None:
        largest = largest / scale
    return (~(largest <= LARGEST)).float()  # NaN is not


def _forget(log: dict[str, HistoryBuffer], names: Iterable[str]) -> None:
    """Take the newest value of each name out of the log, so that no mean has it."""
    for name in names:
        values, counts = log[name].data
        if len(values) > 1:
            log[name] = HistoryBuffer(values[:-1], counts[:-1])
        else:
            del log[name]
