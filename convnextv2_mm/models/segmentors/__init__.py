"""Parts of mmseg's segmentors; in ``custom_imports`` of a config, since they bring mmseg."""

from ...utils.imports import without_onedl

with without_onedl():
    from .data_preprocessor import SegDataPreProcessor

__all__ = ['SegDataPreProcessor']
