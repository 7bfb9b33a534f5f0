"""Metrics; imported when one is asked for, since one of them brings mmdet with it."""

from .coco_metric import CocoMetric
from .reconstruction_loss import ReconstructionLoss

__all__ = ['CocoMetric', 'ReconstructionLoss']
