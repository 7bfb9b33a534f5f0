"""Pictures of the predictions of a test."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ...registry import HOOKS
from ...visualization.drawing import draw_prediction, result_names, write_image


@HOOKS.register_module()
class VisualizationHook(Hook):
    """Write a picture of the prediction for each image of the test set.

    Args:
        out_dir: Folder for the PNG files, named by :func:`result_names`.
        score_thr: Detections below are left out.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        """Name the pictures."""
        dataset = runner.test_dataloader.dataset
        self.names = result_names(
            [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        )

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[BaseDataElement]
    ) -> None:
        """Draw a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            picture = draw_prediction(sample, runner.cfg, meta, self.score_thr)
            write_image(picture, self.out_dir / f'{self.names[sample.img_path]}.png')
