"""NMS and Soft-NMS in place of mmcv's compiled operators."""

from __future__ import annotations

import numpy as np
import torch
import torchvision  # noqa: F401  (importing it registers torch.ops.torchvision)
from torch import Tensor

from .precision import widen

_LINEAR, _GAUSSIAN = 1, 2  # mmcv's numbers for the methods of Soft-NMS
# Elements in one temporary array: larger problems are cut into parts.
_TABLE_ELEMENTS, _CACHED_ELEMENTS = 2**21, 2**15


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices `(K,)` of the boxes kept, by falling score (csrc/pytorch/cpu/nms.cpp).

    Args:
        boxes: `(N, 4)`, x1, y1, x2, y2.
        scores: `(N,)`.
        iou_threshold: A box goes when its IoU with a kept one is above this.
        offset: 0, or 1 where x2 and y2 belong to the box: a side is x2 - x1 + offset.

    Of equal scores the first one goes first; the compiled operator's sort leaves that open.
    """
    boxes, scores = widen(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # The compiled operator has the threshold in single precision. It matters for boxes on whole
    # pixels, whose IoU can be exactly 0.6 as fp32 has it, which is above 0.6 as a double.
    return torch.ops.torchvision.nms(boxes, scores, float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017, arXiv:1704.04503) as in csrc/pytorch/cpu/nms.cpp.

    Again and again the best of the boxes left is kept and the scores of the others fall with their
    IoU with it; those that fall below `min_score` are dropped. The first box is kept in any case.

    Args:
        boxes: `(N, 4)`, x1, y1, x2, y2, on the CPU.
        scores: `(N,)`.
        dets: `(N, 5)`; the K kept boxes with their new scores go into its first K rows.
        iou_threshold: Where scores begin to fall, for methods 0 and 1.
        sigma: Width of the Gaussian of method 2.
        min_score: Boxes below are dropped.
        method: 0 naive (to zero), 1 linear (by 1 - IoU), 2 Gaussian (by exp(-IoU^2 / sigma)).
        offset: 0, or 1 where x2 and y2 belong to the box.

    Returns:
        `(K,)`: indices of the kept boxes in the order of `dets`.
    """
    boxes, scores = widen(boxes.detach(), scores.detach())
    geometry = boxes.t().contiguous().numpy()  # (4, N); NumPy costs less per call than PyTorch

    # The compiled operator keeps the boxes in one array, [kept | left | dropped], and moves them
    # by swapping. Of equal scores the one further left wins, so these three move just as there.
    score = scores.numpy().copy()
    order = np.arange(len(score))  # which box is in this place
    column = np.empty_like(order)  # where the table has it

    # A row of the table holds the factors for all boxes left once a certain box is kept. Rows are
    # computed together, those of the best boxes, and again when a box is kept that has none: at
    # first as many as memory allows (1,000 boxes need one table), later twice those that the last
    # table had in use, since boxes that overlap much change places too often to look far ahead.
    row_of_box = np.full(len(score), -1)
    factor, below = np.empty_like(score), np.empty(len(score), bool)

    start, stop, table_start = 0, len(score), -len(score)
    while start < stop:
        best = start + _first_max(score[start:stop])
        if row_of_box[order[best]] < 0:
            left = order[start:stop]
            rows = _best_boxes(score[start:stop], best - start, 2 * (start - table_start))
            table_start = start
            with np.errstate(divide='ignore', invalid='ignore'):  # boxes without area
                table = _decay(geometry, left[rows], left, iou_threshold, sigma, method, offset)
            row_of_box.fill(-1)
            row_of_box[left[rows]] = np.arange(len(rows))
            column[start:stop] = np.arange(len(left))
        row = table[row_of_box[order[best]]]
        for array in (score, order, column):
            array[start], array[best] = array[best], array[start]
        start += 1

        left, size = score[start:stop], stop - start
        # 'clip' never clips here: with it, take() writes to `out` without a copy between.
        row.take(column[start:stop], out=factor[:size], mode='clip')
        np.multiply(left, factor[:size], out=left)
        np.less(left, min_score, out=below[:size])
        dropped = np.count_nonzero(below[:size])
        if dropped:
            # From the left, each dropped box is overwritten by the last box that stays.
            end = size - dropped
            holes = np.flatnonzero(below[:end])
            fillers = end + np.flatnonzero(~below[end:size])[::-1]
            for array in (score, order, column):
                array[start + holes] = array[start + fillers]
            stop -= dropped

    kept = torch.from_numpy(order[:stop])
    dets[:stop, :4] = boxes[kept]
    dets[:stop, 4] = torch.from_numpy(score[:stop])
    return kept


def _first_max(score: np.ndarray) -> int:
    """Place of the first largest score. NaN wins only in place 0, as in the compiled comparison.

    The Gaussian of 0/0 is NaN: two boxes without area.
    """
    best = int(score.argmax())
    if score[best] != score[best]:
        best = 0 if score[0] != score[0] else int(np.nanargmax(score))
    return best


def _best_boxes(score: np.ndarray, best: int, count: int) -> np.ndarray:
    """Places of `best` and of `count` high scores, or as many as a table has room for."""
    count = min(count, _TABLE_ELEMENTS // len(score))
    if count >= len(score):
        return np.arange(len(score))
    return np.append(best, np.argpartition(score, -count - 1)[-count - 1 :])


def _decay(
    geometry: np.ndarray,
    kept: np.ndarray,
    left: np.ndarray,
    iou_threshold: float,
    sigma: float,
    method: int,
    offset: int,
) -> np.ndarray:
    """`(len(kept), len(left))`: what the scores `left` are multiplied by for each box of `kept`."""

    def overlap(low: int, high: int) -> np.ndarray:
        side = np.minimum(a[high, :, None], b[high])
        side -= np.maximum(a[low, :, None], b[low])
        side += offset
        return np.maximum(side, 0, out=side)

    b = geometry[:, left]
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    table = np.empty((len(kept), len(left)), geometry.dtype)
    rows = max(1, _CACHED_ELEMENTS // len(left))
    for first in range(0, len(kept), rows):
        a = geometry[:, kept[first : first + rows]]
        area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
        iou = overlap(0, 2)
        iou *= overlap(1, 3)
        union = area_a[:, None] + area_b
        union -= iou
        iou /= union
        factor = table[first : first + rows]
        if method == _GAUSSIAN:
            iou *= iou
            iou /= -sigma
            np.exp(iou, out=factor)
        else:
            factor.fill(1)
            fall = 1 - iou if method == _LINEAR else 0
            np.copyto(factor, fall, where=iou >= iou_threshold)
    return table
