"""Evaluate FCMAE on held-out images."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from ..registry import METRICS


@METRICS.register_module()
class ReconstructionLoss(BaseMetric):
    """Mean FCMAE loss over the images of the evaluation set; lower is better.

    Each image is masked by its file name, so the figure does not change with batch size, order or
    number of processes.
    """

    default_prefix = 'fcmae'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect the loss of each image."""
        self.results += [sample['reconstruction_loss'] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Average over the images."""
        return dict(loss=sum(results) / len(results))
