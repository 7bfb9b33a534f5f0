"""COCO metrics on the annotations that our data set reads."""

from __future__ import annotations

from collections.abc import Sequence

import mmdet.evaluation
import numpy as np
from mmengine.fileio import get_local_path

from ..datasets.coco_api import CheckedCOCO
from ..errors import BadData
from ..registry import METRICS


@METRICS.register_module()
class CocoMetric(mmdet.evaluation.CocoMetric):
    """MMDetection's ``CocoMetric``, which scores the same objects as ``CocoDataset`` reads.

    Categories go by the names of the classes, whatever their order and ids in the file. What
    cannot be scored ends the run in one sentence when its loop is built, and so before training.

    Args:
        ann_file: Path of the annotations. None takes them from the data samples.
        options: Of MMDetection's metric.
    """

    def __init__(self, ann_file: str | None = None, **options) -> None:
        super().__init__(ann_file=None, **options)
        self.ann_file = ann_file

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set, with its ``classes``."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        """Read the annotations, now that the classes are known.

        Raises:
            BadData: If they cannot be scored.
        """
        self._dataset_meta = meta
        if self.ann_file is None:
            return
        classes = meta.get('classes') or ()
        with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            masks = 'segm' in self.metrics
            self._coco_api = CheckedCOCO(path, classes=classes, masks=masks)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch.

        Raises:
            BadData: If ``ann_file`` has no such image, and so is not the data set's.
        """
        for sample in data_samples if self.ann_file is not None else ():
            image = self._coco_api.imgs.get(sample['img_id'], {})
            size = image.get('height'), image.get('width')
            if size != tuple(sample['ori_shape'][:2]):
                raise BadData(
                    f'{self.ann_file} has no image {sample["img_id"]!r} of height and width '
                    f"{list(sample['ori_shape'][:2])}: the evaluator's ann_file must be that of "
                    f'the data set'
                )
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score all predictions, each a pair of image and prediction."""
        if self.ann_file is not None:
            # pycocotools sorts the ids of categories, and MMDetection counts on their order: labels
            # become places in the sorted list.
            ids = self._coco_api.get_cat_ids(cat_names=(self.dataset_meta or {})['classes'])
            self.cat_ids = sorted(ids)
            places = np.array([self.cat_ids.index(number) for number in ids])
            results = [(image, p | dict(labels=places[p['labels']])) for image, p in results]
        return super().compute_metrics(results)
