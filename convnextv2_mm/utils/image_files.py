"""Which files are images, and which names stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

IMAGE_SUFFIXES = (*IMG_EXTENSIONS, '.npy')


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, in order of their names.

    Hidden files and folders are left out, such as ``._1.jpg`` and ``.ipynb_checkpoints``.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = [
        path
        for path in sorted(folder.rglob('*'))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise FileNotFoundError(f'folder {folder} holds no image: {", ".join(IMAGE_SUFFIXES)}')
    return found


def shorten(names: Sequence[str]) -> str:
    """The number of classes, and the first of their names."""
    count = f'{len(names)} class{"es" * (len(names) != 1)}'
    return f'{count} ({", ".join(names[:3])}{", ..." * (len(names) > 3)})'
