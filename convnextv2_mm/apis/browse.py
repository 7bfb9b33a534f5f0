"""The training images of a config as the network gets them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS, FUNCTIONS
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement

from ..engine.config.reading import check_data, check_model, read_config
from ..models import FCMAE
from ..models.selfsup.fcmae import mask_priority
from ..ops import PatchLayout
from ..visualization.channels import SHOWN, read_picture, to_rgb
from ..visualization.drawing import draw_sample
from .inference import build_preprocessor

BATCH = 8  # images that are mixed or padded together, at most
CELL, SHEET = 480, 8000  # pixels: width of a picture on the sheet, and largest of the sheet


def browse_dataset(
    config: str | Path | Config,
    mode: str = 'transformed',
    seed: int = 0,
    cfg_options: dict | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Go through the training images of a config in random order.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        mode: ``'transformed'``, what the network gets; ``'original'``, the file with its
            annotations; or ``'concat'``, both side by side.
        seed: Of the choice and the augmentation.
        cfg_options: Changes of the config.

    Returns:
        Yields the path of an image file, and the picture, ``(H, W, 3)`` uint8 RGB.

    Raises:
        FileNotFoundError: If the config or its data does not exist.
        ValueError: If the config describes no training.
    """
    browser = Browser(read_config(config, cfg_options), mode)
    set_random_seed(seed)
    return browser.pictures()


class Browser:
    """Draws images of the training set of a config.

    Args:
        config: Config of a run.
        mode: ``'transformed'``, ``'original'`` or ``'concat'``.
    """

    def __init__(self, config: Config, mode: str) -> None:
        if not config.get('train_dataloader'):
            raise ValueError('the config describes no training: it has no train_dataloader')
        self.loader = config.train_dataloader
        check_data(self.loader)
        config.model.get('backbone', {}).pop('init_cfg', None)  # no weights are needed
        self.model = check_model(config.model)
        self.preprocessor = build_preprocessor(config, 'cpu')
        self.dataset = DATASETS.build(self.loader.dataset)
        if mode != 'transformed':
            self.originals = DATASETS.build(without_augmentation(self.loader.dataset))
        self.mode = mode
        self.shown = config.get('picture_channels', SHOWN)

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Go through the images in random order.

        Yields:
            Path of an image file, and the picture, ``(H, W, 3)`` uint8 RGB.
        """
        collate = self.loader.get('collate_fn', dict(type='pseudo_collate'))['type']
        order = np.random.permutation(len(self.dataset)).tolist()
        size = min(BATCH, self.loader.get('batch_size', 1))
        for indices in (order[i : i + size] for i in range(0, len(order), size)):
            batch = FUNCTIONS.get(collate)([self.dataset[i] for i in indices])
            batch = self.preprocessor(batch, training=True)
            for i, inputs, sample in zip(
                indices, batch['inputs'], batch['data_samples'], strict=True
            ):
                if self.mode == 'transformed':
                    yield sample.img_path, self.draw_transformed(inputs, sample)
                    continue
                original = self.originals[i]['data_samples']
                if original.img_path != sample.img_path:
                    continue  # all objects were cropped away: the data set took another image
                picture = self.draw_original(original)
                if self.mode == 'concat':
                    picture = side_by_side(picture, self.draw_transformed(inputs, sample))
                yield sample.img_path, picture

    def draw_original(self, sample: BaseDataElement) -> np.ndarray:
        """An image as it is in the file, with its annotations."""
        image = read_picture(sample.img_path, self.loader.dataset, self.shown)
        return draw_sample(image, sample, self.dataset.metainfo, 'gt')

    def draw_transformed(self, inputs: torch.Tensor, sample: BaseDataElement) -> np.ndarray:
        """An image (3, H, W) as the model gets it, with its annotations or its mask."""
        image = to_picture(inputs, self.preprocessor, self.shown)
        if isinstance(self.model, FCMAE):
            return darken_masked(image, self.model, sample)
        return draw_sample(image, sample, self.dataset.metainfo, 'gt')


def without_augmentation(dataset: ConfigDict) -> ConfigDict:
    """The config of a data set whose pipelines only load and pack."""
    dataset = dataset.copy()
    if 'pipeline' in dataset:
        dataset.pipeline = [
            step
            for step in dataset.pipeline
            if step['type'].rpartition('.')[2].startswith(('Load', 'Pack'))
        ]
    if 'dataset' in dataset:
        dataset.dataset = without_augmentation(dataset.dataset)
    if 'datasets' in dataset:
        dataset.datasets = [without_augmentation(part) for part in dataset.datasets]
    return dataset


def to_picture(
    image: torch.Tensor, preprocessor: BaseDataPreprocessor, shown: Sequence[int] = SHOWN
) -> np.ndarray:
    """The pixels (H, W, 3) RGB of a preprocessed image (C, H, W)."""
    if getattr(preprocessor, '_enable_normalize', False):
        image = image * preprocessor.std + preprocessor.mean
    if len(image) != 3:
        return to_rgb(image.permute(1, 2, 0).numpy(), shown)
    # Pipelines load BGR; each library has another name for turning it around.
    names = ('_channel_conversion', 'channel_conversion', 'to_rgb')
    if not any(getattr(preprocessor, name, False) for name in names):
        image = image.flip(0)
    return image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def darken_masked(image: np.ndarray, model: FCMAE, sample: BaseDataElement) -> np.ndarray:
    """Darken what a mask of the model hides of an image (H, W, 3), and rule its patches."""
    p = model.head.patch_size
    grid = (image.shape[0] // p, image.shape[1] // p)
    layout = PatchLayout.random(1, grid, model.mask_ratio, priority=mask_priority([sample]))
    hidden = layout.mask.view(grid).bool().numpy()
    image = np.where(hidden.repeat(p, 0).repeat(p, 1)[..., None], image // 5, image)
    image[::p] = image[:, ::p] = 255
    return image


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures in one, the left one scaled to the height of the right one."""
    height = right.shape[0]
    size = (round(left.shape[1] * height / left.shape[0]), height)
    left = cv2.resize(left, size, interpolation=cv2.INTER_AREA)
    return np.hstack([left, np.full((height, height // 50, 3), 255, np.uint8), right])


def contact_sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures in rows on a white ground, all of the same width but where that is too high."""
    columns = math.ceil(math.sqrt(len(pictures)))
    cell, gap = min(CELL, SHEET // columns), 8
    rows = []
    for row in (pictures[i : i + columns] for i in range(0, len(pictures), columns)):
        scales = [min(cell / picture.shape[1], 2 * cell / picture.shape[0]) for picture in row]
        height = max(round(p.shape[0] * s) for p, s in zip(row, scales, strict=True))
        rows.append(np.full((height + gap, columns * (cell + gap), 3), 255, np.uint8))
        for i, (picture, scale) in enumerate(zip(row, scales, strict=True)):
            size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
            tile = cv2.resize(picture, size, interpolation=method)
            x = i * (cell + gap)
            rows[-1][: size[1], x : x + size[0]] = tile
    return np.vstack(rows)
