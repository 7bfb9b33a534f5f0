"""Former name of :mod:`convnextv2_mm.models.detectors`, for configs that import it."""

from .detectors import *  # noqa: F403
