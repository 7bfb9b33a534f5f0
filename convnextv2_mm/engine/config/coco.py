"""Find mistakes in a detector's config that would silently train or score something else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .datasets import find_datasets, nested

# MMDetection's transforms that move or mix boxes and leave the masks as they were.
WITHOUT_MASKS = ('MixUp', 'Mosaic', 'RandomAffine', 'RandomCenterCropPad', 'RandomShift')
# Those that change masks pixel by pixel.
BITMAPS_ONLY = ('Albu', 'CopyPaste', 'RandomErasing')


def swap_coco_metric(config: Config) -> None:
    """Replace MMDetection's ``CocoMetric`` by ours where our data sets are scored.

    That takes categories in the order of the annotation file, and our data sets go by their names.

    Raises:
        ValueError: If ours is to score a data set of MMDetection, which goes by that order too.
    """
    replaced = []
    for split in ('val', 'test'):
        for metric in _evaluators(config, split):
            if _name(metric) in ('CocoMetric', 'mmdet.CocoMetric'):
                if _reads_by_name(config, split):
                    metric.type = 'convnextv2_mm.CocoMetric'
                    replaced.append(f'{split}_evaluator')
            elif _name(metric) == 'convnextv2_mm.CocoMetric' and not _reads_by_name(config, split):
                raise ValueError(
                    f'{split}_evaluator convnextv2_mm.CocoMetric is not allowed with this data '
                    f'set: it must be convnextv2_mm.CocoDataset'
                )
    if replaced:
        print(
            f'{" and ".join(replaced)}: convnextv2_mm.CocoMetric instead of CocoMetric, which does '
            f'not go by the names of classes',
            file=sys.stderr,
        )


def _reads_by_name(config: Config, split: str) -> bool:
    """Whether the data sets of a split are our ``CocoDataset``, or derived from it."""
    from ...datasets import CocoDataset  # brings mmdet with it

    loader = config.get(f'{split}_dataloader')
    parts = find_datasets(loader) if loader else []
    kinds = [DATASETS.get(part.type) if isinstance(part.type, str) else part.type for part in parts]
    return all(isinstance(kind, type) and issubclass(kind, CocoDataset) for kind in kinds)


def check_mask_transforms(dataset: ConfigDict) -> None:
    """Check that the transforms of a data set, and of those it wraps, keep masks with their boxes.

    Raises:
        ValueError: If one of MMDetection's would not.
    """
    masks = polygons = False
    for part in nested(dataset):
        for step in _steps(part.get('pipeline') or ()):
            name = _name(step).rpartition('.')[2]
            if name == 'LoadAnnotations' and step.get('with_mask'):
                masks, polygons = True, not step.get('poly2mask', True)
            elif masks and name in WITHOUT_MASKS:
                raise ValueError(
                    f'{name} is not allowed after LoadAnnotations with with_mask=True: it changes '
                    f'boxes and not their masks'
                )
            elif polygons and name in BITMAPS_ONLY:
                raise ValueError(
                    f'{name} is not allowed after LoadAnnotations with poly2mask=False: it needs '
                    f'poly2mask=True'
                )


def check_tta(config: Config) -> None:
    """Check that test-time augmentation can merge what the model predicts.

    Raises:
        ValueError: If it predicts masks, and MMDetection's ``DetTTAModel`` is to merge them.
    """
    if not _name(config.tta_model).endswith('DetTTAModel'):
        return
    metrics = [metric.get('metric', 'bbox') for metric in _evaluators(config, 'test')]
    if _has_mask_head(config.model) or any('segm' in metric for metric in metrics):
        raise ValueError(
            '--tta is not allowed for a model with a mask head: DetTTAModel cannot merge masks'
        )


def scores_masks(config: Config, split: str) -> bool:
    """Whether a COCO metric of a split scores masks, so that annotations need sound ones."""
    return any(
        _name(metric).endswith('CocoMetric') and 'segm' in metric.get('metric', 'bbox')
        for metric in _evaluators(config, split)
    )


def _evaluators(config: Config, split: str) -> list[ConfigDict]:
    """Configs of the metrics of a split, within an evaluator that holds several too."""
    found = config.get(f'{split}_evaluator') or []
    found = found if isinstance(found, list) else [found]
    inner = [part.get('metrics', part) for part in found]
    return [m for part in inner for m in (part if isinstance(part, list) else [part])]


def _name(part: dict) -> str:
    """Registered name; a config may have the class itself."""
    kind = part.get('type', '')
    return kind if isinstance(kind, str) else kind.__name__


def _steps(pipeline: Sequence) -> Iterator[dict]:
    """Transforms of a pipeline, and those that others choose from."""
    for step in pipeline:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get('transforms') or step.get('policies') or ())
        elif isinstance(step, list | tuple):
            yield from _steps(step)


def _has_mask_head(model: object) -> bool:
    if isinstance(model, dict):
        return bool(model.get('mask_head')) or any(map(_has_mask_head, model.values()))
    return isinstance(model, list | tuple) and any(map(_has_mask_head, model))
