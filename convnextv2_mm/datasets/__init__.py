"""Data sets and transforms: the built-in drawn shapes, the input of pre-training, and data sets
and loaders that name what is bad."""

from .bad_data import (
    ADE20KDataset,
    BaseSegDataset,
    CocoDataset,
    CustomDataset,
    ImageNet,
    ImageNet21k,
)
from .encoded_jpeg import LoadEncodedJPEG
from .loading import LoadAnnotations, LoadImageFromFile
from .random_resized_crop import RandomResizedCrop
from .shapes_views import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset

__all__ = [
    'ADE20KDataset',
    'BaseSegDataset',
    'CocoDataset',
    'CustomDataset',
    'ImageNet',
    'ImageNet21k',
    'LoadAnnotations',
    'LoadEncodedJPEG',
    'LoadImageFromFile',
    'RandomResizedCrop',
    'ShapesClsDataset',
    'ShapesDetDataset',
    'ShapesSegDataset',
]
