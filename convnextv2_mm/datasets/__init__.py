"""Data sets and transforms: the built-in drawn shapes, and the input of pre-training."""

from .encoded_jpeg import LoadEncodedJPEG
from .random_resized_crop import RandomResizedCrop
from .shapes_views import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset

__all__ = [
    'LoadEncodedJPEG',
    'RandomResizedCrop',
    'ShapesClsDataset',
    'ShapesDetDataset',
    'ShapesSegDataset',
]
