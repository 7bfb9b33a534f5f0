"""Checkpoints that are whole or absent, and hold all that an exact resume needs."""

from __future__ import annotations

import signal
from bisect import bisect
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import hooks
from mmengine.dist import all_reduce_params, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from ...registry import HOOKS
from ...utils.atomic import PARTIAL, atomic_write
from ...utils.distributed import unwrap_model
from ..runner.interruption import Interruption
from ..runner.loops import workers_ignore_signals
from ..runner.resume import (
    RunStopped,
    checkpoint_folder,
    find_checkpoint,
    lost,
    same,
)

INTERRUPTED = 'interrupted.pth'


@register_backend('convnextv2_mm.whole_files')
class AtomicLocalBackend(LocalBackend):
    """Local files, written whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file into a folder, which must be there: none is made in place of a lost one."""
        with atomic_write(Path(filepath)) as beside:
            beside.write_bytes(obj)


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """MMEngine's ``CheckpointHook`` for runs that are killed.

    * A local file is written beside its place and renamed into it, and so is ``last_checkpoint``.
      What is not needed any more is deleted after that, the best checkpoint before as well.
    * Nothing is deleted but what this run, or the one that it goes on from, has saved in its own
      folder. Names of checkpoints are kept relative to it: the folder can be moved and copied.
    * Metrics and what is known of the data are kept as plain Python values: the reader of weights
      refuses NumPy's numbers and the types of configs.
    * Gradients that are being accumulated are kept, but not with FSDP.
    * After SIGTERM, SIGINT, SIGHUP or SIGUSR1, the run is saved as ``interrupted.pth`` at the next
      step of the optimizer or of a validation, and the program ends with exit code 128 + the
      signal's number, such as 143 for SIGTERM.
    * A validation that was due or under way when the run stopped is made up for when it goes on.

    Takes the arguments of MMEngine's. Other storage than a local disk is written as MMEngine does.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._interruption = Interruption()
        self._gradients: dict[str, Tensor] = {}
        self._saved: tuple[int, str] | None = None  # iterations in the newest checkpoint, its path
        self._votes = 0  # steps of a validation in which all processes can be asked
        self._swapped: dict[EMAHook, bool] = {}  # whether the model has the averaged weights now

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint to go on from, where MMEngine would be left to."""
        if runner._resume and runner._load_from is None:
            folder = checkpoint_folder(runner.work_dir, self.out_dir)
            runner._load_from = find_checkpoint(runner.work_dir, folder)

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and finish what a checkpoint was saved in the middle of."""
        is_local = '://' not in str(self.out_dir or runner.work_dir)
        if is_local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend='convnextv2_mm.whole_files')
        hub = runner.message_hub
        steps = hub.get_info('keep_ckpt_ids', [])
        hub.update_info('keep_ckpt_ids', [])  # or MMEngine deletes by them, whosever they are
        super().before_train(runner)
        if is_local and is_main_process():
            Path(self.out_dir).mkdir(parents=True, exist_ok=True)
            for left_by_a_kill in Path(self.out_dir).glob(f'.*{PARTIAL}'):
                left_by_a_kill.unlink()
        self._take_over(runner, steps)
        for name, parameter in unwrap_model(runner.model).named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._interruption.watch()
        if runner.val_loop is not None:
            self._watch_validation(runner)
            if hub.get_info('saved_before_validation', False):
                runner.val_loop.run()

    def _take_over(self, runner: Runner, steps: list[int]) -> None:
        """Count as this run's own, which it may delete, what it has saved in its own folder before.

        What a checkpoint of another folder names stays, whatever it names.
        """
        source = runner._load_from if runner._resume else None
        is_own = source and Path(source).resolve().parent == Path(self.out_dir).resolve()
        if is_own:
            self._saved = (runner.iter, source)
        if self.max_keep_ckpts > 0:
            steps = [step for step in steps if is_own and isinstance(step, int)]
            self.keep_ckpt_ids.extend(steps)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
            outdated = steps[: -self.max_keep_ckpts]
            self._remove([self.filename_tmpl.format(step) for step in outdated])
        if self.save_best:
            self._best_paths = {
                name: self._own_best(path) if path and is_own else None
                for name, path in self._best_paths.items()
            }
            for name, path in self._best_paths.items():
                key = f'best_ckpt_{name}' if name else 'best_ckpt'
                before = runner.message_hub.get_info(key)
                if before and not path:
                    runner.logger.info(
                        f'The best checkpoint so far, {Path(before).name}, is not in '
                        f'{self.out_dir}: its score counts, and the next better one is saved.'
                    )
                runner.message_hub.update_info(key, path)

    def _own_best(self, path: str) -> str | None:
        """The best checkpoint of this name in the folder of this run, wherever it was before."""
        name = Path(path).name
        path = self.file_backend.join_path(self.out_dir, name)
        return path if name.startswith('best_') and self.file_backend.isfile(path) else None

    def _remove(self, names: Iterable[str]) -> None:
        """Delete those of these files that are in the folder of this run."""
        if is_main_process():
            for name in names:
                path = self.file_backend.join_path(self.out_dir, name)
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def after_train(self, runner: Runner) -> None:
        """Leave the signals, and the averaging hooks, as they were."""
        self._interruption.ended()
        for hook in self._swapped:
            del hook._swap_ema_parameters
        self._swapped = {}
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the gradients that are being accumulated, and keep to values that can be read."""
        if 'optimizer' in checkpoint and _accumulates(runner):
            parameters = unwrap_model(runner.model).named_parameters()
            checkpoint['gradients'] = {n: p.grad.cpu() for n, p in parameters if p.grad is not None}
        for part in ('meta', 'message_hub'):
            checkpoint[part] = _plain(checkpoint[part])
        info = checkpoint['message_hub']['runtime_info']
        for key in [key for key in info if key.startswith('best_ckpt') and info[key]]:
            info[key] = Path(info[key]).name

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
            runner.message_hub.update_info('saved_before_validation', False)
            self._write(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))
            self._end(runner, number)

    def _watch_validation(self, runner: Runner) -> None:
        """Prepare for being asked to stop while the model is validated."""
        loader = runner.val_loop.dataloader
        workers_ignore_signals(loader)
        # Some processes may have more batches than others: all vote at those that all have.
        self._votes = self._interruption.least(len(loader))

        def counted(hook: EMAHook, swap: Callable[[], None]) -> None:
            swap()
            self._swapped[hook] = not self._swapped[hook]

        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self._swapped[hook] = False
                hook._swap_ema_parameters = partial(counted, hook, hook._swap_ema_parameters)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Stop in the middle of a validation if that is asked for."""
        if batch_idx < self._votes:
            self._end_validation(runner, is_over=False)

    def after_val(self, runner: Runner) -> None:
        """Stop after a validation if that was asked for while its metrics were computed."""
        self._end_validation(runner, is_over=True)

    def _end_validation(self, runner: Runner, is_over: bool) -> None:
        number = self._interruption.agreed() if self._interruption.is_watching else 0
        if not number:
            return
        for hook, is_swapped in self._swapped.items():
            if is_swapped:
                hook._swap_ema_parameters()
        if self._saved is None or self._saved[0] != runner.iter:
            runner.message_hub.update_info('loop_stage', 'train')
            runner.message_hub.update_info('saved_before_validation', not is_over)
            self._write(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter))
        self._end(runner, number)

    def _end(self, runner: Runner, number: int) -> None:
        self._interruption.ended()
        runner.logger.info(
            f'{signal.Signals(number).name}: the run is saved in {self._saved[1]}; go on with '
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
        # The loop takes up an interval of dynamic_intervals after this.
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, done + 1) - 1]
        return done >= loop.val_begin and (done % interval == 0 or done == last)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        runner.message_hub.update_info('saved_before_validation', False)
        self._saved = None  # what is saved was saved before the validation
        if not self.save_best:
            return
        before = self._best_paths
        self._best_paths = dict.fromkeys(before)  # unknown to MMEngine, which deletes them first
        super()._save_best_checkpoint(runner, metrics)
        after = {name: path or before[name] for name, path in self._best_paths.items()}
        self._best_paths = after
        self._remove(Path(p).name for p in set(before.values()) - set(after.values()) - {None})

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
        self._remove([*map(self.filename_tmpl.format, outdated), INTERRUPTED])

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        """Write a checkpoint, and then its name to ``last_checkpoint``.

        Raises:
            RunStopped: If the work dir is lost.
        """
        if is_main_process() and not Path(runner.log_dir).is_dir():
            raise RunStopped(lost(runner.work_dir))
        if _accumulates(runner):
            # Each process has its own until the optimizer steps, and one of them is saved.
            gradients = [
                p.grad for p in unwrap_model(runner.model).parameters() if p.grad is not None
            ]
            all_reduce_params(gradients, op='mean')
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', name)
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
        self._saved = (meta['iter'], self.last_ckpt)
        if is_main_process():
            is_inside = Path(self.out_dir) == Path(runner.work_dir)
            with atomic_write(Path(runner.work_dir) / 'last_checkpoint') as path:
                path.write_text(name if is_inside else self.last_ckpt)


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
