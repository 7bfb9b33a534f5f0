"""Warn when batch after batch has no object, or no labeled pixel."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ...registry import HOOKS
from ...utils.distributed import unwrap_model

_NO_PIXEL = (
    'no pixel that is learned, since all have the label {ignored}, which is ignored: does '
    'reduce_zero_label fit the masks, and are the numbers in them those of the classes?'
)
_NO_OBJECT = (
    'no object: are the names in metainfo.classes those of the annotation file, and does the '
    'pipeline leave objects in the image?'
)


@HOOKS.register_module()
class NoTargetsHook(Hook):
    """Warn when all batches of a log interval have nothing to learn from.

    That is no object in any image for a detector, and no pixel but ignored ones for a segmentor;
    the loss then falls to nothing, and all looks well. Looks at the samples on the CPU, as the
    loader gives them; on each process, at its own.
    """

    def before_train(self, runner: Runner) -> None:
        """Find the log interval, and the label that is ignored."""
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._interval = loggers[0].interval if loggers else 50
        head = getattr(unwrap_model(runner.model), 'decode_head', None)
        self._ignored = getattr(head, 'ignore_index', 255)
        self._batches = self._images = 0

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Count batches without a target."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        if not isinstance(samples, Sequence) or any(map(self._has_target, samples)):
            self._batches = self._images = 0
            return
        self._batches += 1
        self._images += len(samples)
        if self._batches >= self._interval:
            what = _NO_PIXEL if 'gt_sem_seg' in samples[0] else _NO_OBJECT
            runner.logger.warning(
                f'iteration {runner.iter + 1}: the {self._images} images of the last '
                f'{self._batches} batches have {what.format(ignored=self._ignored)} '
                'tools/check_dataset.py counts them'
            )
            self._batches = self._images = 0

    def _has_target(self, sample: object) -> bool:
        """Whether there is something to learn from, or nothing that this hook looks for."""
        if not isinstance(sample, BaseDataElement):
            return True
        if 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.data
            return self._ignored is None or bool((labels != self._ignored).any())
        return 'gt_instances' not in sample or len(sample.gt_instances) > 0
