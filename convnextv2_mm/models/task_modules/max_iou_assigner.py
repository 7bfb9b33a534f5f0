"""Assigner of (Cascade) Mask R-CNN without waits for the device."""

from __future__ import annotations

import torch
from mmdet.models.task_modules import assigners
from torch import Tensor

from ...registry import TASK_UTILS


@TASK_UTILS.register_module()
class MaxIoUAssigner(assigners.MaxIoUAssigner):
    """Assigner that waits for the device once per image instead of at every ground truth."""

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> assigners.AssignResult:
        """Assign each prior a ground truth, the background, or nothing.

        Args:
            overlaps: ``(G, P)``, IoU of ground truths and priors.
            gt_labels: ``(G,)``.
        """
        if overlaps.numel() == 0:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        iou, best_gt = overlaps.max(dim=0)  # [P]
        negative = self.neg_iou_thr
        low, high = negative if isinstance(negative, tuple) else (0, negative)
        gt_inds = torch.where((iou >= low) & (iou < high), 0, -1)
        gt_inds = torch.where(iou >= self.pos_iou_thr, best_gt + 1, gt_inds)
        if self.match_low_quality:
            # A ground truth also gets the priors nearest to it; of several, the last one does.
            best_iou, best_prior = overlaps.max(dim=1)  # [G]
            is_match = best_iou >= self.min_pos_iou
            if self.gt_max_assign_all:
                is_match = is_match[:, None] & (overlaps == best_iou[:, None])
                gt, prior = is_match.nonzero(as_tuple=True)
            else:
                gt = is_match.nonzero()[:, 0]
                prior = best_prior[gt]
            gt_inds.index_fill_(0, prior, 0).scatter_reduce_(0, prior, gt + 1, 'amax')
        labels = torch.where(gt_inds > 0, gt_labels[gt_inds.clamp(min=1) - 1], -1)
        return assigners.AssignResult(len(overlaps), gt_inds, iou, labels)
