"""Trained models: building them with their weights, and reading images for them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, FUNCTIONS, MODELS
from torch import nn

from ..checkpoints import read_backbone, read_state_dict
from ..checkpoints.reading import inspect_file
from ..engine.config.checks import check_num_classes, class_names, written_class_names
from ..engine.config.datasets import find_datasets
from ..engine.config.reading import check_model, read_config
from ..engine.config.saved import read_saved_config
from ..models import FCMAE, ConvNeXtV2
from ..utils.image_files import images_below, shorten

ANNOTATION_STEPS = (
    'LoadAnnotations',
    'LoadPanopticAnnotations',
    'LoadMaskMap',
    'MaskPatches',
)
LOADERS = ('LoadImageFromFile', 'LoadEncodedJPEG')
PATCH_SIZE = 32  # pixels
MOST_PATCHES = 32  # on a side: FCMAE on a whole photograph of 24 megapixels takes 20 GB


def _check_shapes(path: str, own: dict, found: dict) -> None:
    for name, value in own.items():
        if name in found and found[name].shape != value.shape:
            raise ValueError(
                f'checkpoint {path} does not fit: {name} has shape {tuple(found[name].shape)}, '
                f'the config builds {tuple(value.shape)}'
            )


def check_weights(model: nn.Module, path: str, device: str = 'meta') -> dict[str, torch.Tensor]:
    """Read a checkpoint that must hold the whole ``model``: of this task, and of this size.

    Args:
        model: Of which names and shapes are compared.
        path: The checkpoint.
        device: ``meta`` to look at names, shapes and checksums alone; ``cpu`` to get the values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If weights of the model are missing or of another shape.
    """
    weights = read_state_dict(path, device)
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(
            f'checkpoint {path} is not one of {type(model).__name__}: {len(missing)} of {len(own)} '
            f'weights are missing, such as {missing[0]}'
        )
    _check_shapes(path, own, weights)
    return weights


def build_model(config: Config, checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the model of a config with the weights of a checkpoint, for evaluation.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is not one of the whole model.
    """
    config = deepcopy(config.model)
    config.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has all weights
    weights = check_weights(check_model(config), checkpoint, 'cpu')
    model = revert_sync_batchnorm(MODELS.build(config))
    model.load_state_dict(weights, strict=False)
    return model.to(device).eval()


def load_model(
    config: str | Path | Config,
    checkpoint: str | None = None,
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> nn.Module:
    """Load a trained model for :func:`predict`.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config; or a checkpoint alone, which
            holds the config of its run.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        device: Where to put the model.
        cfg_options: Changes of the config.

    Returns:
        The model, with its config as ``cfg``, and the names of its classes in ``dataset_meta``: of
        the config's data set; if it has none, of the checkpoint; else their numbers.

    Raises:
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If they do not fit each other, or the config describes no test.
    """
    if checkpoint is None:
        checkpoint = str(config)
        config = read_saved_config(checkpoint)
    config = read_config(config, cfg_options)
    image_reader(config)
    model = build_model(config, checkpoint, device)
    model.cfg, model.dataset_meta = config, find_meta(config, checkpoint, model)
    return model


@torch.no_grad()
def predict(
    model: nn.Module, images: str | Path | np.ndarray | Sequence[str | Path | np.ndarray]
) -> Iterator[Any]:
    """Predict on images, one after the other.

    Args:
        model: From :func:`load_model`.
        images: Image files, folders with images in them, and arrays ``(H, W, 3)`` of uint8 in BGR
            order, as ``cv2.imread`` gives them.

    Yields:
        For each image the data sample of its task: ``pred_instances`` of a detector,
        ``pred_sem_seg`` of a segmentor, ``pred_score`` and ``pred_label`` of a classifier,
        ``reconstruction_loss`` and the reconstruction of FCMAE; ``img_path`` says of which.

    Raises:
        FileNotFoundError: If an image does not exist.
        BadData: If one cannot be read.
    """
    given = [images] if isinstance(images, str | Path | np.ndarray) else images
    read = image_reader(model.cfg)
    for entry in given:
        for image in [entry] if isinstance(entry, np.ndarray) else find_images([str(entry)]):
            yield model.test_step(read(image))[0]


def load_backbone(config: Config, checkpoint: str, device: str) -> ConvNeXtV2:
    """The backbone of any config as the dense network, without output norms, for evaluation.

    Args:
        config: Of pre-training, a classifier, a detector or a segmentor.
        checkpoint: A checkpoint of it, or of its backbone in any layout that
            :func:`~convnextv2_mm.checkpoints.read_backbone` reads.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is of another backbone, or the config has one that is not ours.
    """
    options = config.model.get('backbone') or {}
    kind = MODELS.get(options.get('type', ''))
    if not isinstance(kind, type) or not issubclass(kind, ConvNeXtV2):
        raise ValueError(
            f'backbone {options.get("type")} is not allowed here: it must be '
            'convnextv2_mm.ConvNeXtV2 or convnextv2_mm.SparseConvNeXtV2'
        )
    dense = dict(type='convnextv2_mm.ConvNeXtV2', out_indices=(), backend='auto', init_cfg=None)
    backbone = MODELS.build({**options, **dense})
    backbone.load_state_dict(read_backbone(backbone, checkpoint))
    return backbone.to(device).eval()


def build_preprocessor(config: Config, device: str) -> nn.Module:
    """The data preprocessor of a config, of the model's own kind where none is named."""
    options = dict(config.model.get('data_preprocessor') or {})
    if 'type' not in options:
        with torch.device('meta'):
            options['type'] = type(MODELS.build(config.model).data_preprocessor)
    return MODELS.build(options).to(device)


def find_images(paths: Sequence[str], number: int | None = None) -> list[str]:
    """Image files, and those in folders, in order of their names.

    Args:
        paths: Files and folders.
        number: If there are more, take so many of them at random, always the same.

    Raises:
        FileNotFoundError: If one of the paths does not exist, or a folder holds no image.
        ValueError: If ``number`` is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f'--num-images {number} is not allowed: 1 is least')
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += map(str, images_below(path))
        elif path.is_file():
            found.append(str(path))
        else:
            raise FileNotFoundError(f'image {path} does not exist')
    if number is not None and number < len(found):
        found = sorted(random.Random(0).sample(found, number))
    return found


def image_reader(config: Config) -> Callable[[str | np.ndarray], dict]:
    """What turns an image, a file or an array, into a batch of one, as for the test of a config.

    Without what belongs to the images of the data set alone: labels, and maps of FCMAE's masks. For
    FCMAE, an image that the config leaves at a size without whole patches is resized to the
    nearest that has at least 2 and at most ``MOST_PATCHES`` of them on a side.

    Raises:
        ValueError: If the config describes no test.
    """
    if not config.get('test_dataloader'):
        raise ValueError('the config describes no test: it has no test_dataloader')
    steps = config.test_dataloader.dataset.pipeline
    steps = [s for s in steps if s['type'].split('.')[-1] not in ANNOTATION_STEPS]
    from_file = Compose(steps)
    from_array = Compose([s for s in steps if s['type'].split('.')[-1] not in LOADERS])
    collate = config.test_dataloader.get('collate_fn', dict(type='pseudo_collate'))
    collate = FUNCTIONS.get(collate['type'])
    kind = MODELS.get(config.model.type)
    is_fcmae = isinstance(kind, type) and issubclass(kind, FCMAE)
    side = config.model.get('backbone', {}).get('patch_size', PATCH_SIZE)

    def read(image: str | np.ndarray) -> dict:
        if isinstance(image, np.ndarray):
            if image.ndim != 3:
                raise ValueError(f'image of shape {image.shape} is not allowed: give (H, W, C)')
            size = image.shape[:2]
            sample = from_array(
                dict(img=image, img_shape=size, ori_shape=size, img_path='', img_id=0)
            )
        else:
            sample = from_file(dict(img_path=image, img_id=0))
        if is_fcmae:
            sample['inputs'] = fit_to_patches(sample['inputs'], side)
        return collate([sample])

    return read


def fit_to_patches(image: torch.Tensor, side: int) -> torch.Tensor:
    """Resize an image ``(C, H, W)`` without whole patches to the nearest size that has them.

    That has 2 to ``MOST_PATCHES`` of them on a side.
    """
    size = image.shape[-2:]
    if not any(length % side for length in size):
        return image
    scale = min(1.0, MOST_PATCHES * side / max(size))
    fitting = [max(2, round(scale * length / side)) * side for length in size]
    resized = F.interpolate(image[None].float(), fitting, mode='bicubic', antialias=True)[0]
    return resized.round().clamp(0, 255).to(image.dtype)


def find_meta(config: Config, checkpoint: str, model: nn.Module) -> dict:
    """Names and colours of the classes: of the config's test data, or else of the checkpoint.

    Raises:
        ValueError: If the model has another number of classes than the config names, and the
            checkpoint names none.
    """
    dataset = find_datasets(config.test_dataloader)[0]
    with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
        meta = registry.get(dataset.type).METAINFO | (dataset.get('metainfo') or {})
    numbers = [getattr(part, 'num_classes', None) or 0 for part in model.modules()]
    if not any(numbers):
        return meta
    saved = saved_meta(checkpoint)
    trained, written = tuple(saved.get('classes') or ()), written_class_names(dataset)
    try:
        check_num_classes(model, config, ['test'])
    except ValueError as error:
        if not trained:
            raise
        print(f'warning: {error}; the names come from the checkpoint', file=sys.stderr)
        return saved
    if trained and written is None:
        return saved
    if trained and trained != written:
        print(
            f'warning: the checkpoint was trained on {shorten(trained)}, and the config names '
            f'{shorten(written)}; the names come from the config',
            file=sys.stderr,
        )
    numbered = tuple(map(str, range(max(numbers))))
    return meta | dict(classes=written or class_names(dataset) or numbered)


def saved_meta(checkpoint: str) -> dict:
    """What the training data set said of itself, which MMEngine writes into a checkpoint."""
    node = inspect_file(checkpoint)
    for key in ('meta', 'dataset_meta'):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}
