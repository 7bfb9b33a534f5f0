"""The backbone, its sparse encoder, and FCMAE around them."""

from .convnextv2 import ConvNeXtV2, SparseConvNeXtV2
from .fcmae import FCMAE, FCMAEDecoder, FCMAEHead

__all__ = ['FCMAE', 'ConvNeXtV2', 'FCMAEDecoder', 'FCMAEHead', 'SparseConvNeXtV2']
