"""Measures of what a network has learned: tensors in, tensors out."""

from .class_selectivity import ClassMeans, class_selectivity
from .cosine_distance import cosine_distance
from .features import FEATURES, choose_blocks, watch_features
from .grn_norms import grn_norms

__all__ = [
    'FEATURES',
    'ClassMeans',
    'choose_blocks',
    'class_selectivity',
    'cosine_distance',
    'grn_norms',
    'watch_features',
]
