"""Normalisation of images with any number of channels; MMEngine's takes one or three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import ImgDataPreprocessor as MMEngineImgDataPreprocessor
from torch import nn

from ...registry import MODELS


class AnyChannels(nn.Module):
    """Mixin for MMEngine's ``ImgDataPreprocessor`` and what is derived from it.

    Args:
        mean: Of each channel.
        std: Of each channel.
        kwargs: Of the class that it is mixed into.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs) -> None:
        super().__init__(**kwargs)
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self._enable_normalize = True


@MODELS.register_module()
class ImgDataPreprocessor(AnyChannels, MMEngineImgDataPreprocessor):
    """MMEngine's ``ImgDataPreprocessor`` for any number of channels; for FCMAE."""
