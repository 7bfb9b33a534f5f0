"""The backbone, its sparse encoder, FCMAE around them, and its data preprocessor."""

from .backbones.convnextv2 import ConvNeXtV2, MaskedImageConvNeXtV2, SparseConvNeXtV2
from .data_preprocessors.any_channels import ImgDataPreprocessor
from .data_preprocessors.jpeg_data_preprocessor import JPEGDataPreprocessor
from .heads.fcmae_head import FCMAEHead
from .necks.fcmae_decoder import FCMAEDecoder
from .necks.transformer_decoder import TransformerDecoder
from .necks.unet_decoder import UNetDecoder
from .selfsup.fcmae import FCMAE

__all__ = [
    'FCMAE',
    'ConvNeXtV2',
    'FCMAEDecoder',
    'FCMAEHead',
    'ImgDataPreprocessor',
    'JPEGDataPreprocessor',
    'MaskedImageConvNeXtV2',
    'SparseConvNeXtV2',
    'TransformerDecoder',
    'UNetDecoder',
]
