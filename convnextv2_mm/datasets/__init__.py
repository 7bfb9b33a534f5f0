"""Data sets and transforms: the built-in drawn shapes, the input of pre-training, and data sets
and loaders that name what is bad."""

from ..utils.imports import without_onedl

with without_onedl():
    from .checked_datasets import (
        ADE20KDataset,
        BaseSegDataset,
        CocoDataset,
        CustomDataset,
        ImageNet,
        ImageNet21k,
    )
    from .shapes.datasets import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset
    from .transforms.encoded_jpeg import LoadEncodedJPEG
    from .transforms.loading import LoadAnnotations, LoadImageFromFile
    from .transforms.patch_mask import LoadMaskMap, MaskPatches
    from .transforms.random_resized_crop import RandomResizedCrop

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
    'LoadMaskMap',
    'MaskPatches',
    'RandomResizedCrop',
    'ShapesClsDataset',
    'ShapesDetDataset',
    'ShapesSegDataset',
]
