"""Parts of mmdet's (Cascade) Mask R-CNN without needless copies, loops and waits for the device.

Each class takes the place of mmdet's of the same name, with its arguments, parameters and results.
A config names it with the scope, such as ``type='convnextv2_mm.FCNMaskHead'``, and imports this
package in ``custom_imports``, since ``import convnextv2_mm`` does not bring mmdet with it.
"""

from ...utils.imports import without_onedl

with without_onedl():
    from ..heads.fcn_mask_head import FCNMaskHead
    from ..heads.roi_heads import CascadeRoIHead, StandardRoIHead
    from ..task_modules import MaxIoUAssigner, RandomSampler
    from .data_preprocessor import DetDataPreprocessor

__all__ = [
    'CascadeRoIHead',
    'DetDataPreprocessor',
    'FCNMaskHead',
    'MaxIoUAssigner',
    'RandomSampler',
    'StandardRoIHead',
]
