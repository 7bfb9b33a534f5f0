"""Trained models: building them with their weights, and reading images for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import FUNCTIONS, MODELS
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..checkpoints import read_backbone, read_state_dict
from ..engine.config.reading import check_model
from ..models import ConvNeXtV2

ANNOTATION_STEPS = ('LoadAnnotations', 'LoadPanopticAnnotations')


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


def load_model(config: Config, checkpoint: str, device: str) -> nn.Module:
    """Build the model of a config with the weights of a checkpoint, for evaluation.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is not one of the whole model.
    """
    config.model.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has all weights
    weights = check_weights(check_model(config.model), checkpoint, 'cpu')
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.load_state_dict(weights, strict=False)
    return model.to(device).eval()


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
        inside = [str(path)]
        if path.is_dir():
            files = sorted(path.rglob('*'))
            inside = [str(file) for file in files if file.suffix.lower() in IMG_EXTENSIONS]
        elif not path.is_file():
            raise FileNotFoundError(f'image {path} does not exist')
        if not inside:
            raise FileNotFoundError(f'folder {path} holds no image: {", ".join(IMG_EXTENSIONS)}')
        found += inside
    if number is not None and number < len(found):
        found = sorted(random.Random(0).sample(found, number))
    return found


def image_reader(config: Config) -> Callable[[str], dict]:
    """What turns an image file into a batch of one, as for the test of a config.

    Raises:
        ValueError: If the config describes no test.
    """
    if not config.get('test_dataloader'):
        raise ValueError('the config describes no test: it has no test_dataloader')
    steps = config.test_dataloader.dataset.pipeline
    pipeline = Compose([s for s in steps if s['type'].split('.')[-1] not in ANNOTATION_STEPS])
    collate = config.test_dataloader.get('collate_fn', dict(type='pseudo_collate'))
    collate = FUNCTIONS.get(collate['type'])

    def read(path: str) -> dict:
        return collate([pipeline(dict(img_path=path, img_id=0))])

    return read
