"""Which steps of a pipeline load, for MMDetection's tools."""

from __future__ import annotations


def recognise_loaders() -> None:
    """Let MMDetection's ``get_loading_pipeline`` find loaders that are derived from its own.

    It compares classes for equality, and so its tools stop at every config with another loader.
    """
    import mmdet.datasets
    from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
    from mmdet.datasets.utils import LoadImageFromFile
    from mmdet.registry import TRANSFORMS

    loaders = (LoadImageFromFile, LoadAnnotations, LoadPanopticAnnotations)

    def get_loading_pipeline(pipeline: list[dict]) -> list[dict]:
        found = [step for step in pipeline if issubclass(TRANSFORMS.get(step['type']), loaders)]
        assert len(found) == 2, 'the pipeline must load images and annotations, in a step each'
        return found

    mmdet.datasets.get_loading_pipeline = get_loading_pipeline
