"""The backbone, its sparse encoder, FCMAE around them, and its data preprocessor."""

from .convnextv2 import ConvNeXtV2, SparseConvNeXtV2
from .fcmae import FCMAE, FCMAEDecoder, FCMAEHead
from .jpeg_preprocessor import JPEGDataPreprocessor

__all__ = [
    'FCMAE',
    'ConvNeXtV2',
    'FCMAEDecoder',
    'FCMAEHead',
    'JPEGDataPreprocessor',
    'SparseConvNeXtV2',
]
