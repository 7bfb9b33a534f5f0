"""Report at the start of a run which classes it cannot learn."""

from __future__ import annotations

import logging

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.selfsup.base import BaseSelfSupervisor

from ...datasets.class_counts import inner_datasets, report_classes
from ...models import FCMAE
from ...registry import HOOKS
from ...utils.distributed import unwrap_model

SELF_SUPERVISED = (FCMAE, BaseSelfSupervisor)  # have no use for labels


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Log which classes do not occur in the training set, and how much of it is ignored.

    Objects and labels of images are all counted; of label maps up to 200 are read. In a distributed
    run the first process does it. Raises ``BadData`` where all pixels of those are ignored.
    """

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Count and log."""
        if isinstance(unwrap_model(runner.model), SELF_SUPERVISED):
            return
        parts = list(inner_datasets(runner.train_dataloader.dataset))
        sentence, warns = report_classes(parts)
        if sentence:
            runner.logger.log(logging.WARNING if warns else logging.INFO, sentence)
