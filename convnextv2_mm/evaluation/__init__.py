"""Metrics; imported when one is asked for, since one of them brings mmdet with it."""

from ..utils.imports import without_onedl

with without_onedl():
    from .coco_metric import CocoMetric
    from .reconstruction_loss import ReconstructionLoss

__all__ = ['CocoMetric', 'ReconstructionLoss']
