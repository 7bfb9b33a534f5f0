"""The reader of COCO files, shared by data sets and their evaluation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log
from pycocotools import mask as coco_mask

from ..errors import BadData
from .coco_problems import (
    EFFECTS,
    LEFT_OUT,
    STOPS,
    category_ids,
    find_coco_problems,
    mask_problem,
)
from .coco_values import normalize_values


class CheckedCOCO(COCO):
    """A COCO file with normalized values and without unusable annotations.

    Args:
        file: Its path.
        skip_bad_data: Whether what trains on it may leave out annotations.
        options: What :func:`find_coco_problems` has to look at.

    Raises:
        BadData: If something in it would stop the run, or make it wrong.
    """

    def __init__(self, file: str, skip_bad_data: bool = False, **options) -> None:
        self._file, self._skip, self._options = file, skip_bad_data, options
        try:
            super().__init__(file)
        except BadData:
            raise
        except (ValueError, AssertionError, RecursionError) as error:
            raise BadData(f'{file} is not a COCO file: {error}') from error

    def createIndex(self) -> None:  # noqa: N802  # pycocotools calls it with what it has read
        normalize_values(self.dataset)
        left_out = self._check()
        annotations = [a for a in self.dataset['annotations'] if a['id'] not in left_out]
        # pycocotools takes an object that is found for one that is not if its id is 0.
        for number, annotation in enumerate(annotations, 1):
            annotation['id'] = number
        self.dataset['annotations'] = annotations
        self._ids = category_ids(self.dataset)
        super().createIndex()
        for annotation in annotations:
            if 'area' not in annotation:
                annotation['area'] = self._area(annotation)

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Sequence = ()
    ) -> list:
        """Ids of categories: in the order of ``cat_names``, if those are given.

        MMDetection numbers its labels by their places in this list, and its own reader gives it in
        the order of the file.
        """
        if not cat_names:
            return super().get_cat_ids(cat_names, sup_names, cat_ids)
        return [self._ids[name] for name in cat_names]

    def loadCats(self, ids: Any = ()) -> list[dict]:  # noqa: N802
        """Categories of one id or of several; pycocotools takes one that is text for several."""
        return super().loadCats([ids] if isinstance(ids, str) else ids)

    def _check(self) -> dict[Any, Any]:
        """Report what is wrong, or raise; return the ids of annotations to leave out."""
        left_out = {}
        for problem in find_coco_problems(self.dataset, **self._options):
            effect = EFFECTS[problem.kind][0 if self._skip else 1]
            if effect == STOPS:
                raise BadData(f'{self._file}: {problem.sentence}')
            if effect == LEFT_OUT:
                left_out[problem.annotation] = problem
            elif problem.annotation is None:
                self._warn(problem.sentence)
        if left_out:
            kinds = Counter(problem.kind for problem in left_out.values())
            self._warn(
                f'{len(left_out)} of {len(self.dataset["annotations"])} annotations are left out ('
                f'{", ".join(f"{kind}: {count}" for kind, count in kinds.items())}), the first: '
                f'{next(iter(left_out.values())).sentence}; tools/check_dataset.py names all'
            )
        return left_out

    def _warn(self, sentence: str) -> None:
        print_log(f'{self._file}: {sentence}', logger='current', level=logging.WARNING)

    def _area(self, annotation: dict) -> float:
        """Pixels of its mask, as in COCO's files; of its box if no pixel is in a sound mask."""
        image = self.imgs[annotation['image_id']]
        _, _, width, height = annotation['bbox']
        if mask_problem(annotation, (image['height'], image['width']), False)[0]:
            return float(width * height)
        return float(coco_mask.area(self.annToRLE(annotation))) or float(width * height)
