"""Mask head of (Cascade) Mask R-CNN with mask targets of all objects in one call."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from mmdet.models.roi_heads import mask_heads
from mmdet.models.task_modules import samplers
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.modules.utils import _pair
from torchvision.ops import roi_align

from ...registry import MODELS


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
