"""What a model takes for what: matching objects, and figures of a confusion matrix."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor


def match_objects(
    boxes: Tensor,
    labels: Tensor,
    ignored: Tensor,
    found_boxes: Tensor,
    found_labels: Tensor,
    scores: Tensor,
    num_classes: int,
    iou_thr: float = 0.5,
) -> list[tuple[int, int]]:
    """Match found objects with the true ones: first those of the same class, as COCO does.

    In the order of the scores, each found object takes the free one of its class with the highest
    IoU. What is then left of both is matched regardless of the class: one was taken for the other.

    Args:
        boxes: True ones, ``(N, 4)`` corners.
        labels: Theirs, ``(N,)``.
        ignored: Which of them are crowds, ``(N,)``; what is found in these counts as nothing.
        found_boxes: ``(M, 4)`` corners.
        found_labels: ``(M,)``.
        scores: ``(M,)``.
        num_classes: Stands for no object.
        iou_thr: The least IoU of a match.

    Returns:
        Pairs of labels, true and found; ``num_classes`` where nothing was found, or nothing is.
    """
    true, crowd = labels.numpy(), ignored.numpy()
    ious = coco_mask.iou(_xywh(found_boxes), _xywh(boxes), crowd.tolist())
    close = np.reshape(ious, (len(found_boxes), len(true))) >= iou_thr
    left = scores.argsort(descending=True, stable=True).tolist()
    free, pairs = ~crowd, []
    for same_class in (True, False):
        still_left = []
        for i in left:
            is_same = true == int(found_labels[i])
            fits = close[i] & free & (is_same if same_class else ~is_same)
            if fits.any():
                best = int(np.where(fits, ious[i], -1).argmax())
                free[best] = False
                pairs.append((int(true[best]), int(found_labels[i])))
            elif not (close[i] & crowd & is_same).any():
                still_left.append(i)
        left = still_left
    pairs += [(label, num_classes) for label in true[free].tolist()]
    return pairs + [(num_classes, int(found_labels[i])) for i in left]


def _xywh(corners: Tensor) -> np.ndarray:
    boxes = corners.double().numpy().reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def class_figures(confusion: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and IoU of each class.

    Args:
        confusion: Counts by true (rows) and found class (columns), with a last one for no object
            where there are objects.
        num_classes: Classes without that.

    Returns:
        Arrays ``(num_classes,)``: ``number``, ``precision``, ``recall``, ``f1``, ``iou``; not a
        number where nothing is of the class, or nothing was found to be.
    """
    right = np.diag(confusion)[:num_classes].astype(float)
    true, found = confusion.sum(1)[:num_classes], confusion.sum(0)[:num_classes]
    with np.errstate(invalid='ignore'):
        return dict(
            number=true,
            precision=right / found,
            recall=right / true,
            f1=2 * right / (true + found),
            iou=right / (true + found - right),
        )


def confusions(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """Pairs of classes, true and found, that were taken for each other, the most frequent first.

    Returns:
        True class, found class, and how often.
    """
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind='stable')[: np.count_nonzero(wrong)]
    places = (np.unravel_index(i, wrong.shape) for i in order)
    return [(int(true), int(found), int(wrong[true, found])) for true, found in places]
