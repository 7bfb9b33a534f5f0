"""Measures of what a network has learned: tensors in, tensors out."""

from .class_selectivity import ClassMeans, class_selectivity
from .confusion import class_figures, confusions, match_objects
from .cosine_distance import cosine_distance
from .features import FEATURES, choose_blocks, watch_features
from .grn_norms import grn_norms

__all__ = [
    'FEATURES',
    'ClassMeans',
    'choose_blocks',
    'class_figures',
    'class_selectivity',
    'confusions',
    'cosine_distance',
    'grn_norms',
    'match_objects',
    'watch_features',
]
