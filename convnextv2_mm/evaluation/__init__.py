"""Metrics that read annotations as our data sets do; imported when one is asked for."""

from .coco_metric import CocoMetric

__all__ = ['CocoMetric']
