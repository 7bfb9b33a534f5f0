"""Data sets and transforms: the built-in drawn shapes, and the input of pre-training."""

from .random_resized_crop import RandomResizedCrop
from .shapes_views import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset

__all__ = [
    'RandomResizedCrop',
    'ShapesClsDataset',
    'ShapesDetDataset',
    'ShapesSegDataset',
]
