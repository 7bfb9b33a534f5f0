"""Checkpoints that are whole or absent, and hold all that an exact resume needs."""

from __future__ import annotations

import signal
from collections import Counter, OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import hooks
from mmengine.dist import all_reduce_params, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from ..checkpoints.whole_files import PARTIAL, written_whole
from ..registry import HOOKS
from .interruption import Interruption
from .resume import same
from .run_setup import unwrap

INTERRUPTED = 'interrupted.pth'


@register_backend('convnextv2_mm.whole_files')
class WholeFileBackend(LocalBackend):
    """Local files, written whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, making its folder."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as beside:
            beside.write_bytes(obj)


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """MMEngine's ``CheckpointHook`` for runs that are killed.

    * A local file is written beside its place and renamed into it, and so is ``last_checkpoint``.
      What is not needed any more is deleted after that, the best checkpoint before as well.
    * Metrics and what is known of the data are kept as plain Python values: the reader of weights
      refuses NumPy's numbers and the types of configs.
    * Gradients that are being accumulated are kept, but not with FSDP.
    * After SIGTERM or SIGINT, the run is saved as ``interrupted.pth`` at the next step of the
      optimizer, and the program ends with exit code 128 + the signal's number: 143 or 130.
    * A validation that was due when the run stopped is made up for when it goes on.

    Takes the arguments of MMEngine's. Other storage than a local disk is written as MMEngine does.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._interruption = Interruption()
        self._gradients: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and finish what a checkpoint was saved in the middle of."""
        is_local = '://' not in str(self.out_dir or runner.work_dir)
        if is_local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend='convnextv2_mm.whole_files')
        super().before_train(runner)
        if is_local and is_main_process():
            for left_by_a_kill in Path(self.out_dir).glob(f'.*{PARTIAL}'):
                left_by_a_kill.unlink()
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._interruption.watch()
        if runner.message_hub.get_info('saved_before_validation', False):
            runner.val_loop.run()

    def after_train(self, runner: Runner) -> None:
        """Leave the signals as they were."""
        self._interruption.ended()
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the gradients that are being accumulated, and keep to values that can be read."""
        if 'optimizer' in checkpoint and _accumulates(runner):
            parameters = unwrap(runner.model).named_parameters()
            checkpoint['gradients'] = {n: p.grad.cpu() for n, p in parameters if p.grad is not None}
        for part in ('meta', 'message_hub'):
            checkpoint[part] = _plain(checkpoint[part])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the gradients until the model is where it trains."""
        if not runner._resume:
            return
        self._gradients = checkpoint.pop('gradients', {})
        now = getattr(runner.train_dataloader.dataset, 'metainfo', None)
        if same(checkpoint['meta'].get('dataset_meta'), _plain(now)):
            # MMEngine compares pickles, and would warn of every difference in type.
            checkpoint['meta']['dataset_meta'] = now

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Save when it is time to, and stop if that is asked for."""
        super().after_train_iter(runner, *args, **kwargs)
        if not runner.optim_wrapper.should_update():
            return
        number = self._interruption.agreed()
        if number:
            meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
            runner.message_hub.update_info('saved_before_validation', False)
            self._write(runner, INTERRUPTED, meta)
            self._interruption.ended()
            runner.logger.info(
                f'{signal.Signals(number).name}: the run is saved in {self.last_ckpt}; go on with '
                '--resume'
            )
            raise SystemExit(128 + number)

    def _save_checkpoint(self, runner: Runner) -> None:
        runner.message_hub.update_info('saved_before_validation', self._validation_follows(runner))
        super()._save_checkpoint(runner)

    def _validation_follows(self, runner: Runner) -> bool:
        """Whether the loop validates right after what is saved now."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if runner.val_loop is None or by_epoch != self.by_epoch:
            return False
        done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        done += 1
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        runner.message_hub.update_info('saved_before_validation', False)
        if not self.save_best:
            return
        before = self._best_paths
        self._best_paths = dict.fromkeys(before)  # unknown to MMEngine, which deletes them first
        super()._save_best_checkpoint(runner, metrics)
        after = {name: path or before[name] for name, path in self._best_paths.items()}
        self._best_paths = after
        if is_main_process():
            for path in set(before.values()) - set(after.values()) - {None}:
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    @property
    def _best_paths(self) -> dict[str, str | None]:
        """The best checkpoint by each metric; a single one has no name, since 'auto' gets one."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    @_best_paths.setter
    def _best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = paths.values()
        else:
            self.best_ckpt_path_dict = paths

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            # The outdated ones too: should a kill come first, before_train deletes them.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)
        self._write(runner, self.filename_tmpl.format(step), meta)
        if is_main_process():
            names = [self.filename_tmpl.format(step) for step in outdated]
            for name in (*names, INTERRUPTED):
                path = self.file_backend.join_path(self.out_dir, name)
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        """Write a checkpoint, and then its path to ``last_checkpoint``."""
        if _accumulates(runner):
            # Each process has its own until the optimizer steps, and one of them is saved.
            gradients = [p.grad for p in unwrap(runner.model).parameters() if p.grad is not None]
            all_reduce_params(gradients, op='mean')
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with written_whole(Path(runner.work_dir) / 'last_checkpoint') as path:
                path.write_text(self.last_ckpt)


def _accumulates(runner: Runner) -> bool:
    """Whether there are gradients that a checkpoint has to keep; FSDP has no way to gather them."""
    is_sharded = isinstance(runner.model, FullyShardedDataParallel)
    return not runner.optim_wrapper.should_update() and not is_sharded


def _plain(value: Any) -> Any:
    """The same value in types that are read again; arrays of numbers and tensors are."""
    if isinstance(value, dict):
        kind = type(value) if type(value) in (OrderedDict, Counter) else dict
        return kind({_plain(key): _plain(item) for key, item in value.items()})
    if isinstance(value, list | deque):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    if isinstance(value, np.generic | np.ndarray):
        is_array_of_numbers = value.ndim > 0 and value.dtype.kind in 'biufc'
        return value if is_array_of_numbers else _plain(value.tolist())
    return value
