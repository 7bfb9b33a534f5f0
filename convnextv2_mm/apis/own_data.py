"""The recipe of ``configs/own`` for a task and a user's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine.config.own_data import has_masks, read_coco

RECIPES = {
    'pretrain': 'fcmae',
    'classify': 'classifier',
    'detect': 'mask-rcnn',
    'segment': 'upernet',
}
"""Names in ``configs/own`` by task; objects without masks are for ``faster-rcnn``."""


def choose_recipe(task: str, boxes: bool = False, **own: Any) -> tuple[str, dict[str, Any]]:
    """The config for a task, and the changes that tell it of the data.

    Both go to :func:`~convnextv2_mm.train`, as ``config`` and ``cfg_options``.

    Args:
        task: ``pretrain``, ``classify``, ``detect`` or ``segment``.
        boxes: Detect boxes only, even if there are masks.
        **own: What the ``own`` section of the recipe has, such as ``images``; None is left out.

    Raises:
        FileNotFoundError: If the annotations of objects do not exist.
        ValueError: If they are not in COCO's format, or there is no such task.
    """
    if task not in RECIPES:
        raise ValueError(f'task {task!r} is not allowed: choose one of {", ".join(RECIPES)}')
    name = RECIPES[task]
    if task == 'detect' and (boxes or not has_masks(read_coco(Path(own['train'])))):
        name = 'faster-rcnn'
    options = {f'own.{key}': value for key, value in own.items() if value is not None}
    return f'convnextv2_mm::own/{name}.py', options
