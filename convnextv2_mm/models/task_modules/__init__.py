"""Assigners and samplers in place of mmdet's of the same names."""

from .max_iou_assigner import MaxIoUAssigner
from .random_sampler import RandomSampler

__all__ = ['MaxIoUAssigner', 'RandomSampler']
