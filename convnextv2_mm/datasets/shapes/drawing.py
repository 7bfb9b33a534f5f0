"""Drawn shapes: a small data set for pre-training, detection and segmentation, with no download.

A drawing holds one to five shapes of six classes over a textured background; later shapes hide
parts of earlier ones. :func:`write_shapes` puts one set of drawings on disk in three layouts::

    root/
      images/{train,val}/<class of the largest visible shape>/<split>_000000.jpg
      annotations/instances_{train,val}.json    COCO; file names are relative to images/{split}
      masks/{train,val}/<class>/<split>_000000.png    as in ADE20K: 1 background, 2 to 7 the shapes
      meta.json    what the set was made with
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# In alphabetical order, so that the labels an image folder gives to its folders are the same.
CLASSES: tuple[str, ...] = ('circle', 'cross', 'ring', 'square', 'star', 'triangle')
PALETTE = [
    (230, 60, 60),
    (60, 160, 230),
    (240, 170, 40),
    (80, 190, 90),
    (170, 90, 210),
    (50, 200, 190),
]
SEG_CLASSES: tuple[str, ...] = ('background', *CLASSES)
SEG_PALETTE = [(90, 90, 90), *PALETTE]

SPLITS: tuple[str, ...] = ('train', 'val')
MIN_SIZE = 32  # below this the smallest shapes are a few pixels wide

MAX_SHAPES = 5
RADII = (0.12, 0.3)  # of a shape, as a part of the image side
TURN = 0.4  # radians from upright
MIN_VISIBLE = 0.35  # of a shape's pixels; what is hidden more than this is hard to name
PLACEMENTS = 6  # tries for a place where no earlier shape is hidden too much

# Part of meta.json: raise it when the same seed no longer gives the same drawings.
FORMAT = 'convnextv2_mm shapes, version 1'


@dataclass
class Drawing:
    """One image with its instances, in the order they were drawn.

    Attributes:
        image: RGB, uint8 of shape (size, size, 3).
        masks: Visible part of each shape, bool of shape (n, size, size); no two overlap.
        labels: Index into ``CLASSES``, int64 of shape (n,).
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def draw(seed: int, split: str, index: int, size: int = 160) -> Drawing:
    """Draw one image; the same arguments always give the same drawing.

    Args:
        seed: Seed of the whole set, not negative.
        split: One of ``SPLITS``.
        index: Which drawing of the split, from 0.
        size: Side of the square image in pixels, at least ``MIN_SIZE``.

    Raises:
        ValueError: If ``split`` is unknown or ``size`` too small.
    """
    if split not in SPLITS:
        raise ValueError(f'split is {split!r}, but must be one of {", ".join(SPLITS)}.')
    if size < MIN_SIZE:
        raise ValueError(f'size is {size}, but must be at least {MIN_SIZE} pixels.')
    # A generator of its own for each drawing: it does not depend on how many others there are.
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    y, x = np.mgrid[:size, :size].astype(np.float32)

    colours = [rng.uniform(0.15, 0.85, 3).astype(np.float32)]
    image = colours[0] + _smooth_noise(rng, size) + _stripes(rng, x, y)
    grey = image.mean(-1, keepdims=True)
    image = grey + 0.4 * (image - grey)  # muted, so that the shapes stand out
    masks, areas, labels = [], [], []
    for _ in range(rng.integers(1, MAX_SHAPES + 1)):
        for _ in range(PLACEMENTS):
            label = int(rng.integers(len(CLASSES)))
            radius = size * math.exp(rng.uniform(math.log(RADII[0]), math.log(RADII[1])))
            cx, cy = rng.uniform(0.75 * radius, size - 0.75 * radius, 2).tolist()
            turn = rng.uniform(-TURN, TURN) - math.pi / 2
            u = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) / radius
            v = ((y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)) / radius
            distance = radius * _distance(CLASSES[label], u, v)
            covered = distance < 0
            left = [mask & ~covered for mask in masks]
            if all(m.sum() >= MIN_VISIBLE * area for m, area in zip(left, areas, strict=True)):
                break
        else:
            continue
        masks = [*left, covered]
        areas.append(covered.sum())
        labels.append(label)

        # A class keeps to its part of the colour circle: a small model learns to name a shape in
        # a few hundred steps. The farthest of a few colours from those there: a visible outline.
        hue = 360 * (label + rng.random((4, 1, 1), np.float32)) / len(CLASSES)
        tone = rng.uniform(0.5, 1, (4, 1, 2)).astype(np.float32)
        choices = cv2.cvtColor(np.concatenate([hue, tone], -1), cv2.COLOR_HSV2RGB)
        nearest = np.linalg.norm(choices - np.array(colours), axis=-1).min(axis=1)
        colours.append(choices[nearest.argmax(), 0])
        light = rng.uniform(-0.15, 0.15) * u[..., None]
        paint = colours[-1] + light + 0.4 * _smooth_noise(rng, size)
        # Part of the pixel inside an edge that passes at this distance: smooth outlines, and
        # the mask is where the paint has the larger part.
        alpha = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image + alpha * (paint - image)

    image = image + 0.02 * rng.standard_normal((size, size, 1), np.float32)
    image = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return Drawing(image, np.stack(masks), np.array(labels, dtype=np.int64))


def _distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance of points to an outline, negative inside, near to exact at the outline.

    The outlines have about the same area (2) rather than the same width; otherwise circles and
    squares would be the largest shape of most images.
    """
    if name == 'circle':
        return np.hypot(u, v) - 0.8
    if name == 'ring':
        return np.abs(np.hypot(u, v) - 0.72) - 0.22
    if name == 'cross':
        u, v = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(u - 0.98, v - 0.32), np.maximum(u - 0.32, v - 0.98))
    # A polygon with tips and notches in turn, folded into the half sector from a tip (on the
    # first axis) to a notch, where its outline is one straight line.
    points, tip, notch = {
        'triangle': (3, 1.2, 0.6),
        'square': (4, 1.0, math.sqrt(0.5)),
        'star': (5, 1.25, 0.5),
    }[name]
    half = math.pi / points
    angle = np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
    length = np.hypot(u, v)
    du, dv = tip - notch * math.cos(half), notch * math.sin(half)
    across = (length * np.cos(angle) - tip) * dv + length * np.sin(angle) * du
    return across / math.hypot(du, dv)


def _smooth_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Colour noise at three scales, (size, size, 3)."""
    noise = np.zeros((size, size, 3), np.float32)
    for cells, strength in ((3, 0.12), (9, 0.06), (27, 0.04)):
        grid = strength * rng.standard_normal((cells, cells, 3), np.float32)
        noise += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return noise


def _stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Parallel waves of a random direction, width, colour and strength, (size, size, 3)."""
    turn, phase = rng.uniform(0, 2 * math.pi, 2)
    waves = rng.uniform(2, 20) * 2 * math.pi / len(x)
    wave = np.sin(waves * (x * math.cos(turn) + y * math.sin(turn)) + phase)
    return wave[..., None] * rng.uniform(-0.12, 0.12, 3).astype(np.float32)


def write_shapes(
    root: str | os.PathLike,
    num_train: int = 400,
    num_val: int = 80,
    size: int = 160,
    seed: int = 0,
    progress: Callable[[Sequence], Iterable] = iter,
) -> None:
    """Write a set of drawings, unless it is there already.

    The set is built in a temporary folder beside ``root`` and renamed at the end, so ``root`` is
    whole or absent, and of two processes that write it at once the later uses the earlier's.

    Args:
        root: Folder to make; it may exist if it is empty or holds this very set.
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Side of the images in pixels.
        seed: Seed of the drawings.
        progress: Wraps the sequence of drawings to make, as ``mmengine.track_iter_progress``
            and ``tqdm`` do.

    Raises:
        ValueError: If a parameter is out of range, or if ``root`` holds anything else.
    """
    meta = dict(format=FORMAT, num_train=num_train, num_val=num_val, size=size, seed=seed)
    for name, least in (('num_train', 1), ('num_val', 1), ('size', MIN_SIZE), ('seed', 0)):
        if not isinstance(meta[name], int) or meta[name] < least:
            raise ValueError(f'{name} is {meta[name]!r}, but must be an integer >= {least}.')
    root = Path(root).resolve()
    if _is_made(root, meta):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f'.{root.name}-') as scratch:
        new = Path(scratch, root.name)
        _write(new, meta, progress)
        try:
            new.rename(root)
        except OSError:
            # Another process was faster. Is its set the same?
            if not _is_made(root, meta):
                raise


def _is_made(root: Path, meta: dict) -> bool:
    """Whether ``root`` holds the set; raise where it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / 'meta.json').read_text())
        made_with = {name: found[name] for name in meta}
    except (OSError, ValueError, KeyError, TypeError):
        inside = sorted(path.name for path in root.iterdir()) if root.is_dir() else ['a file']
        listing = ', '.join(inside[:3] + ['...'] * (len(inside) > 3))
        raise ValueError(
            f'{root} is no shapes set (it holds {listing}): give another folder for the shapes.'
        ) from None
    if made_with != meta:
        differing = [name for name in meta if made_with[name] != meta[name]]
        raise ValueError(
            f'{root} holds a shapes set with '
            f'{", ".join(f"{name}={made_with[name]!r}" for name in differing)}, but '
            f'{", ".join(f"{name}={meta[name]!r}" for name in differing)} was asked for: '
            'use what it has, give another folder, or delete this one.'
        )
    return True


def _write(root: Path, meta: dict, progress: Callable[[Sequence], Iterable]) -> None:
    """Write all drawings in the three layouts to ``root``, a new folder."""
    counts = dict(zip(SPLITS, (meta['num_train'], meta['num_val']), strict=True))
    for split in SPLITS:
        # All of them, even where a small set leaves one empty: the folders number the classes.
        for name in CLASSES:
            (root / 'images' / split / name).mkdir(parents=True)
            (root / 'masks' / split / name).mkdir(parents=True)
    coco = {
        split: dict(
            info=dict(description=FORMAT),
            images=[],
            annotations=[],
            categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)],
        )
        for split in SPLITS
    }
    jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
    for split, index in progress(jobs):
        drawing = draw(meta['seed'], split, index, meta['size'])
        areas = drawing.masks.sum(axis=(1, 2))
        stem = f'{CLASSES[drawing.labels[areas.argmax()]]}/{split}_{index:06d}'
        # Pillow raises where a file cannot be written; OpenCV only returns False.
        image_path = root / 'images' / split / f'{stem}.jpg'
        # Colour at full resolution: many edges here are edges of colour alone.
        Image.fromarray(drawing.image).save(image_path, quality=95, subsampling=0)
        # No 0, "unlabelled": with reduce_zero_label the background is 0 and the shapes 1 to 6.
        seg_map = 1 + np.einsum('nhw,n->hw', drawing.masks, drawing.labels + 1)
        Image.fromarray(seg_map.astype(np.uint8)).save(root / 'masks' / split / f'{stem}.png')

        images, annotations = coco[split]['images'], coco[split]['annotations']
        images.append(
            dict(id=index, file_name=f'{stem}.jpg', height=meta['size'], width=meta['size'])
        )
        for mask, label, area in zip(drawing.masks, drawing.labels, areas, strict=True):
            annotations.append(
                dict(
                    # From 1: to the COCO evaluation, a match with id 0 is no match.
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=int(label) + 1,
                    segmentation=dict(size=list(mask.shape), counts=_run_lengths(mask)),
                    area=int(area),
                    bbox=_bbox(mask),
                    iscrowd=0,
                )
            )
    (root / 'annotations').mkdir()
    for split in SPLITS:
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(coco[split]))
    (root / 'meta.json').write_text(json.dumps(meta, indent=2) + '\n')


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths: zeros first, then ones and zeros in turn, down the columns."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(starts, prepend=0, append=mask.size).tolist()


def _bbox(mask: np.ndarray) -> list[int]:
    """x, y, width and height of the box around the true pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
