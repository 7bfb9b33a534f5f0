"""RoI heads of (Cascade) Mask R-CNN that prepare the features for RoIAlign once."""

from __future__ import annotations

from mmdet.models import roi_heads
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor

from ...registry import MODELS


class Float32Features:
    """RoI head that prepares the features for RoIAlign once, in float32.

    RoIAlign works on float32 in NCHW, so without this each extractor converts every level. They
    also cast the RoIs to the type of the features, and bfloat16 moves a corner near 1000 by up to
    two pixels.
    """

    def loss(
        self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        return super().loss(_for_roi_align(x), rpn_results_list, batch_data_samples)

    def predict(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        rescale: bool = False,
    ) -> InstanceList:
        return super().predict(_for_roi_align(x), rpn_results_list, batch_data_samples, rescale)


@MODELS.register_module()
class StandardRoIHead(Float32Features, roi_heads.StandardRoIHead):
    """Heads of Mask R-CNN on float32 features."""


@MODELS.register_module()
class CascadeRoIHead(Float32Features, roi_heads.CascadeRoIHead):
    """Heads of Cascade Mask R-CNN on float32 features."""


def _for_roi_align(levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float().contiguous() for x in levels)
