"""Data sets: the built-in drawn shapes."""

from .shapes_views import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset

__all__ = ['ShapesClsDataset', 'ShapesDetDataset', 'ShapesSegDataset']
