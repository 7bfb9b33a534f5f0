"""The shapes set of :mod:`convnextv2_mm.datasets.shapes.drawing` as data sets of MMDetection,
MMSegmentation and MMPreTrain.

All three take ``data_root``, ``split`` ('train' or 'val') and ``make``, and pass what else they are
given to their base class. With ``make``, the arguments of
:func:`~convnextv2_mm.datasets.shapes.drawing.write_shapes`, the set is written on first use;
without, it must be there, made with whatever parameters.
"""

import os.path as osp

from mmengine.dist import barrier, is_main_process
from mmengine.utils import track_iter_progress

from ...registry import DATASETS
from ..checked_datasets import BaseSegDataset, CocoDataset, CustomDataset
from .drawing import (
    CLASSES,
    PALETTE,
    SEG_CLASSES,
    SEG_PALETTE,
    SPLITS,
    write_shapes,
)


@DATASETS.register_module()
class ShapesDetDataset(CocoDataset):
    """Boxes and instance masks.

    The masks are run lengths, so ``LoadAnnotations`` needs its default ``poly2mask=True``.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(
        self,
        data_root: str = 'data/shapes',
        split: str = 'train',
        make: dict | None = None,
        **kwargs,
    ) -> None:
        _provide(data_root, split, make)
        super().__init__(
            data_root=data_root,
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img=f'images/{split}'),
            **kwargs,
        )


@DATASETS.register_module()
class ShapesSegDataset(BaseSegDataset):
    """Label maps: 0 is the background, 1 to 6 are the shapes.

    As for ADE20K, the files count from 1 and ``LoadAnnotations`` subtracts it, since this data set
    says ``reduce_zero_label=True``.
    """

    METAINFO = dict(classes=SEG_CLASSES, palette=SEG_PALETTE)

    def __init__(
        self,
        data_root: str = 'data/shapes',
        split: str = 'train',
        make: dict | None = None,
        **kwargs,
    ) -> None:
        _provide(data_root, split, make)
        super().__init__(
            data_root=data_root,
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'masks/{split}'),
            reduce_zero_label=True,
            **kwargs,
        )


@DATASETS.register_module()
class ShapesClsDataset(CustomDataset):
    """Images with the class of their largest visible shape, or without (``with_label=False``)."""

    METAINFO = dict(classes=CLASSES)

    def __init__(
        self,
        data_root: str = 'data/shapes',
        split: str = 'train',
        make: dict | None = None,
        **kwargs,
    ) -> None:
        _provide(data_root, split, make)
        super().__init__(data_root=data_root, data_prefix=f'images/{split}', **kwargs)


def _provide(root: str, split: str, make: dict | None) -> None:
    """Write the set if ``make`` says so, or see that it is there."""
    if split not in SPLITS:
        raise ValueError(f'split is {split!r}, but must be one of {", ".join(SPLITS)}.')
    if make is not None:
        if is_main_process():
            write_shapes(root, **make, progress=track_iter_progress)
        barrier()
        # Returns at once, unless this process is on a machine that does not share the disk.
        write_shapes(root, **make)
    elif not osp.isfile(osp.join(root, 'meta.json')):
        raise FileNotFoundError(
            f'{root} holds no shapes set: make it with tools/dataset_converters/make_shapes.py '
            f'--out {root}, or give the data set make=dict().'
        )
