"""The backbone, its sparse encoder, FCMAE around them, and its data preprocessor."""

from .convnextv2 import ConvNeXtV2, MaskedImageConvNeXtV2, SparseConvNeXtV2
from .decoders import TransformerDecoder, UNetDecoder
from .fcmae import FCMAE, FCMAEDecoder, FCMAEHead
from .jpeg_preprocessor import JPEGDataPreprocessor

__all__ = [
    'FCMAE',
    'ConvNeXtV2',
    'FCMAEDecoder',
    'FCMAEHead',
    'JPEGDataPreprocessor',
    'MaskedImageConvNeXtV2',
    'SparseConvNeXtV2',
    'TransformerDecoder',
    'UNetDecoder',
]
