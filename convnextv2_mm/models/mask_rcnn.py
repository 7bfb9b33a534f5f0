"""Parts of mmdet's (Cascade) Mask R-CNN without needless copies, loops and waits for the device.

Each class takes the place of mmdet's of the same name, with its arguments, parameters and results.
A config names it with the scope, such as ``type='convnextv2_mm.FCNMaskHead'``, and imports this
file in ``custom_imports``, since ``import convnextv2_mm`` does not bring mmdet with it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from mmdet.models import roi_heads
from mmdet.models.roi_heads import mask_heads
from mmdet.models.task_modules import assigners, samplers
from mmdet.structures import SampleList
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.modules.utils import _pair
from torchvision.ops import roi_align

from ..registry import MODELS, TASK_UTILS


class Float32Features:
    """RoI head that prepares the features for RoIAlign once, in float32.

    RoIAlign works on float32 in NCHW, so without this each extractor converts every level. They
    also cast the RoIs to the type of the features, and bfloat16 moves a corner near 1000 by up to
    two pixels.
    """

    def loss(
        self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        return super().loss(_for_roi_align(x), rpn_results_list, batch_data_samples)

    def predict(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        rescale: bool = False,
    ) -> InstanceList:
        return super().predict(_for_roi_align(x), rpn_results_list, batch_data_samples, rescale)


@MODELS.register_module()
class StandardRoIHead(Float32Features, roi_heads.StandardRoIHead):
    """Heads of Mask R-CNN on float32 features."""


@MODELS.register_module()
class CascadeRoIHead(Float32Features, roi_heads.CascadeRoIHead):
    """Heads of Cascade Mask R-CNN on float32 features."""


def _for_roi_align(levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float().contiguous() for x in levels)


@MODELS.register_module()
class FCNMaskHead(mask_heads.FCNMaskHead):
    """Mask head whose targets cost no copy of a mask per RoI, and no call per RoI."""

    def get_targets(
        self,
        sampling_results: list[samplers.SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> Tensor:
        """The part of its matched mask that each positive RoI sees, ``(R, *mask_size)``, 0 or 1."""
        if rcnn_train_cfg.get('soft_mask_target', False):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        size = _pair(rcnn_train_cfg.mask_size)
        targets = []
        for sampled, instances in zip(sampling_results, batch_gt_instances, strict=True):
            masks = instances.masks
            boxes = sampled.pos_priors.clone()
            boxes[:, 0::2].clamp_(0, masks.width)
            boxes[:, 1::2].clamp_(0, masks.height)
            crop = polygon_targets if isinstance(masks, PolygonMasks) else bitmap_targets
            targets.append(crop(masks, boxes, sampled.pos_assigned_gt_inds, size))
        return torch.cat(targets)


def bitmap_targets(
    masks: BitmapMasks, boxes: Tensor, gt_inds: Tensor, size: tuple[int, int]
) -> Tensor:
    """Crop and resize bitmaps on the device of the boxes.

    Each mask goes there once, as bytes, and is the "image" that its RoIs are cut from.

    Args:
        masks: G masks.
        boxes: ``(R, 4)``, x1, y1, x2, y2 within the masks.
        gt_inds: ``(R,)``: which mask.
        size: Height and width of a target.

    Returns:
        ``(R, *size)``, 0 or 1, of the type of the boxes.
    """
    if len(boxes) == 0:
        return boxes.new_zeros(0, *size)
    bitmaps = torch.from_numpy(masks.masks).to(boxes.device)[:, None].to(boxes.dtype)
    rois = torch.cat([gt_inds[:, None].to(boxes.dtype), boxes], dim=1)
    covered = roi_align(bitmaps, rois, size, sampling_ratio=0, aligned=True)[:, 0]
    return (covered >= 0.5).to(boxes.dtype)


def polygon_targets(
    masks: PolygonMasks, boxes: Tensor, gt_inds: Tensor, size: tuple[int, int]
) -> Tensor:
    """Crop, resize and rasterise polygons with pycocotools, all RoIs in one call.

    Arguments and result as of :func:`bitmap_targets`.
    """
    if len(boxes) == 0:
        return boxes.new_zeros(0, *size)
    corners = boxes.cpu().numpy()
    scales = np.array(size[::-1], corners.dtype) / np.maximum(corners[:, 2:] - corners[:, :2], 1)
    parts, ends = [], [0]
    for corner, scale, index in zip(corners[:, :2], scales, gt_inds.tolist(), strict=True):
        for polygon in masks.masks[index]:
            parts.append(((polygon.reshape(-1, 2) - corner) * scale).ravel())
        ends.append(len(parts))
    runs = coco_mask.frPyObjects(parts, *size)
    merged = [coco_mask.merge(runs[start:end]) for start, end in pairwise(ends)]
    bitmaps = torch.from_numpy(coco_mask.decode(merged))  # [*size, R]
    return bitmaps.permute(2, 0, 1).to(boxes)


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


@TASK_UTILS.register_module()
class RandomSampler(samplers.RandomSampler):
    """Sampler that draws on the device: mmdet shuffles all anchors on the CPU, 260,000 at 1024²."""

    def random_choice(self, gallery: Tensor, num: int) -> Tensor:
        """``num`` different elements of ``gallery``, which is ``(P,)``."""
        return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]
