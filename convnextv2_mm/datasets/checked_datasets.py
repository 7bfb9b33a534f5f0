"""Data sets that check their files, and can skip bad samples in training.

An image or label map that cannot be used raises :class:`~convnextv2_mm.errors.BadData` while it is
loaded (:mod:`convnextv2_mm.datasets.transforms.loading`). With ``skip_bad_data``, which is for
training alone, another sample takes its place; without, the error ends the run. docs/bad_data.md
has all cases.
"""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Sequence
from functools import partial

import cv2
import mmdet.datasets
import mmpretrain.datasets
import mmseg.datasets
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log

from ..errors import BadData
from ..registry import DATASETS
from .coco_api import CheckedCOCO

# Names of folders in MMDetection's data_prefix; elsewhere they are those of the paths.
_PATH_KEYS = {'img': 'img_path', 'seg': 'seg_map_path'}


def leaves_folder(path: str, folder: str) -> bool:
    """Whether a file name, joined to a folder, points outside that folder.

    By their names alone: symbolic links are the user's own. No folder is the current one.
    """
    if folder and path.startswith(osp.join(folder, '')) and '..' not in path:
        return False
    if not folder and '://' in path:
        return True
    inside = osp.relpath(osp.abspath(path), osp.abspath(folder or '.'))
    return inside == osp.pardir or inside.startswith(osp.join(osp.pardir, ''))


def entry_problem(dataset: BaseDataset, info: dict, num_classes: int) -> str:
    """Why an entry of a data list cannot be used; '' if it can."""
    for key, folder in dataset.data_prefix.items():
        path = info.get(_PATH_KEYS.get(key, key))
        if path is not None and leaves_folder(path, folder):
            source = dataset.ann_file or folder
            return f'{source} names {path}, which is not allowed: it is not in {folder or "."}'
    label = info.get('gt_label')
    if isinstance(label, int) and num_classes and not 0 <= label < num_classes:
        last = num_classes - 1
        return f'{info["img_path"]} has the label {label}, but the classes are 0 to {last}'
    return ''


class SkipBadData:
    """Mixin that lets an OpenMMLab data set check and skip bad data.

    Paths that leave the folder they are given in, and labels of no class, stop the run when the
    data set is built. With ``skip_bad_data``, a sample that cannot be loaded is replaced by one
    that MMEngine draws, from the same random state as the augmentations: a run that repeats those
    repeats this. Each is named once in the log (once in each process of a distributed run), with
    the number so far.

    Args:
        skip_bad_data: Whether samples that cannot be loaded are replaced. Only for training: where
            it is False, the first ends the run.
    """

    def __init__(self, *args, skip_bad_data: bool = False, max_bad: float = 0.01, **kwargs) -> None:
        self.skip_bad_data, self.max_bad = skip_bad_data, max_bad
        super().__init__(*args, **kwargs)

    def filter_data(self) -> list[dict]:
        """Check the list of samples, then filter it."""
        num_classes = len(self._metainfo.get('classes') or ())
        for info in self.data_list:
            if reason := entry_problem(self, info, num_classes):
                raise BadData(reason)
        data_list = super().filter_data()
        if not data_list:
            raise BadData(f'no image to use is in {self.ann_file or self.data_prefix}')
        # Shared by the loader's processes: one entry for each sample, whichever of them has it.
        self._is_bad = torch.zeros(len(data_list), dtype=torch.bool).share_memory_()
        return data_list

    def prepare_data(self, idx: int) -> dict | None:
        """Load a sample; None if it is bad and another one should replace it.

        Raises:
            BadData: If it is bad and may not be replaced, or too many are.
        """
        try:
            return super().prepare_data(idx)
        except BadData as error:
            reason = str(error)
        except (cv2.error, ValueError) as error:
            # An image so thin that nothing is left of it when it is resized; or one pixel wide and
            # flipped, which NumPy calls contiguous and PyTorch does not take.
            if isinstance(error, ValueError) and 'negative strides' not in str(error):
                raise
            path = self.get_data_info(idx)['img_path']
            reason = f'{path} cannot be processed: {str(error).splitlines()[0]}'
        if not self.skip_bad_data:
            raise BadData(reason)
        if not self._is_bad[idx]:
            self._is_bad[idx] = True
            count, total = int(self._is_bad.sum()), len(self)
            message = f'{reason}; another sample takes its place ({count} of {total} so far)'
            print_log(message, logger='current', level=logging.ERROR)  # so that all ranks tell
            if count > max(1, self.max_bad * total):
                raise BadData(
                    f'{reason}, and so are {count} of {total} samples, more than max_bad='
                    f'{self.max_bad}: tools/check_dataset.py names all'
                )
        return None


@DATASETS.register_module()
class CustomDataset(SkipBadData, mmpretrain.datasets.CustomDataset):
    """Images in the folders of their classes, or with their labels in a text file."""


@DATASETS.register_module()
class ImageNet(SkipBadData, mmpretrain.datasets.ImageNet):
    """ImageNet-1K."""


@DATASETS.register_module()
class ImageNet21k(SkipBadData, mmpretrain.datasets.ImageNet21k):
    """ImageNet-22K."""


@DATASETS.register_module()
class BaseSegDataset(SkipBadData, mmseg.datasets.BaseSegDataset):
    """Images with label maps; tells ``convnextv2_mm.LoadAnnotations`` which labels there are.

    ``ignore_index``, 255 by default, is the label of pixels without a class. With more than 255
    classes it must be another one, here, in the heads and everywhere else:
    :mod:`convnextv2_mm.engine.config.ignore_index` checks it before a run.
    """

    def load_data_list(self) -> list[dict]:
        """The images and label maps found in the folders or listed in ``ann_file``.

        A json file is in MMEngine's format: ``data_list`` has ``img_path`` and ``seg_map_path``
        of each image, below those of ``data_prefix``.
        """
        labels = dict(ignore_index=self.ignore_index)
        if classes := self.METAINFO.get('classes') or self._metainfo.get('classes'):
            labels['num_labels'] = len(classes)
            highest = len(classes) - 1 + self.reduce_zero_label
            if self.ignore_index <= highest:
                raise BadData(
                    f'ignore_index={self.ignore_index} is not allowed for label maps with labels '
                    f'up to {highest}: it is one of them; 65535 is free'
                )
        if self.label_map:  # MMSegmentation writes 255 for classes that are left out
            chosen = list(self._metainfo['classes'])
            labels['label_map'] = {
                old: chosen.index(name) if name in chosen else self.ignore_index
                for old, name in enumerate(self.METAINFO['classes'])
            }
        if self.ann_file.endswith('.json'):
            fields = dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
            found = [
                info | fields | dict(seg_fields=[]) for info in BaseDataset.load_data_list(self)
            ]
        else:
            found = super().load_data_list()
        return [info | labels for info in found]


@DATASETS.register_module()
class ADE20KDataset(BaseSegDataset, mmseg.datasets.ADE20KDataset):
    """ADE20K, 150 classes."""


def coco_options(pipeline: Compose, classes: Sequence[str]) -> dict:
    """Options of ``find_coco_problems`` for an MMDetection pipeline."""
    masks = [step for step in pipeline.transforms if getattr(step, 'with_mask', False)]
    return dict(
        classes=classes, masks=bool(masks), polygons_only=any(not s.poly2mask for s in masks)
    )


@DATASETS.register_module()
class CocoDataset(SkipBadData, mmdet.datasets.CocoDataset):
    """COCO, or any data set in COCO format, without unusable annotations."""

    def load_data_list(self) -> list[dict]:
        """The images, with the objects that can be used."""
        options = coco_options(self.pipeline, self._metainfo.get('classes') or ())
        self.COCOAPI = partial(CheckedCOCO, skip_bad_data=self.skip_bad_data, **options)
        return super().load_data_list()
