"""mmseg's data preprocessor for any number of channels."""

from __future__ import annotations

import mmseg.models

from ...registry import MODELS
from ..data_preprocessors.any_channels import AnyChannels


@MODELS.register_module()
class SegDataPreProcessor(AnyChannels, mmseg.models.SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` for any number of channels."""
