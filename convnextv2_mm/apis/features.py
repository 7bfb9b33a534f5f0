"""Features of images as arrays, for retrieval, anomaly detection and classifiers elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import track_iter_progress

from ..utils.atomic import atomic_write
from ..visualization.drawing import result_names
from .analysis.loading import load_backbones
from .inference import find_images

STAGES = 4


class Features(NamedTuple):
    """Features of one image.

    Attributes:
        image: File.
        pooled: Averages over space of the four stages, ``(C,)`` each.
        maps: The stages themselves, ``(C, H/4, W/4)`` to ``(C, H/32, W/32)``.
    """

    image: str
    pooled: list[np.ndarray]
    maps: list[np.ndarray]


@torch.no_grad()
def extract_features(
    config: str | Path | Config,
    checkpoint: str,
    images: Sequence[str | Path],
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> Iterator[Features]:
    """Features of the dense backbone, before the norms of its outputs.

    Args:
        config: Of any task: file, ``convnextv2_mm::FOLDER/NAME.py``, or config. Its test prepares
            the images.
        checkpoint: File, URL, or ``convnextv2://NAME``: of that task, or of the backbone in any
            layout.
        images: Image files, and folders with images in them.
        device: Where to compute.
        cfg_options: Changes of the config.

    Raises:
        FileNotFoundError: If the config, the checkpoint or an image does not exist.
        ValueError: If they do not fit each other.
        BadData: If an image cannot be read.
    """
    (model,) = load_backbones([(config, checkpoint)], device=device, cfg_options=cfg_options)
    for image in find_images([str(path) for path in images]):
        images_last = model.read(image).permute(0, 2, 3, 1)
        stages = [x[0] for x in model.backbone._run_stages(images_last)]  # [H, W, C]
        yield Features(
            image,
            [x.mean((0, 1)).float().cpu().numpy() for x in stages],
            [x.permute(2, 0, 1).float().cpu().numpy() for x in stages],
        )


def save_features(
    features: Iterator[Features], images: Sequence[str], out: Path, maps: Sequence[int] = ()
) -> None:
    """Write ``features.npz`` with the arrays ``images`` and ``stage0`` to ``stage3``, ``(N, C)``.

    Args:
        features: From :func:`extract_features`.
        images: Their files.
        out: Folder.
        maps: Stages, 0 to 3, of which ``NAME.npz`` has the maps of each image.

    Raises:
        ValueError: If there is no such stage.
    """
    for stage in maps:
        if stage not in range(STAGES):
            raise ValueError(f'--maps {stage} is not allowed: it must be 0 to {STAGES - 1}')
    names, rows = result_names(images), []
    out.mkdir(parents=True, exist_ok=True)
    for found in track_iter_progress((features, len(images))):
        rows.append(found.pooled)
        if maps:
            path = out / f'{names[found.image]}.npz'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{f'stage{stage}': found.maps[stage] for stage in maps})
    pooled = {f'stage{i}': np.stack([row[i] for row in rows]) for i in range(STAGES)}
    with atomic_write(out / 'features.npz') as path, path.open('wb') as file:
        arrays: dict[str, Any] = dict(images=np.array(images), **pooled)
        np.savez(file, **arrays)
