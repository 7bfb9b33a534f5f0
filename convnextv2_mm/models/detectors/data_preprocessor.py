"""mmdet's data preprocessor for any number of channels."""

from __future__ import annotations

import mmdet.models

from ...registry import MODELS
from ..data_preprocessors.any_channels import AnyChannels


@MODELS.register_module()
class DetDataPreprocessor(AnyChannels, mmdet.models.DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for any number of channels."""
