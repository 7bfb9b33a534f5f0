"""Draw images with their labels, boxes and masks, given or predicted.

Drawn with Pillow and OpenCV and not with the visualizers of mmdet and mmseg: their fonts and lines
have the same few pixels at 4K as at 640 pixels, their names cover each other, and a 4K picture
takes them ten seconds and more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from .channels import SHOWN, read_picture, to_rgb

FONT = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
MOST_OBJECTS = 30  # more are a picture of boxes
LEAST_SIDE = 384  # pixels; smaller images are enlarged before something is written on them


def font_size(image: np.ndarray) -> int:
    """Height of the letters' line in pixels: 14 at 640x480, 69 at 3840x2160."""
    return max(14, round(0.024 * math.sqrt(image.shape[0] * image.shape[1])))


def line_width(image: np.ndarray) -> int:
    """Width of outlines in pixels: 2 at 640x480, 9 at 3840x2160."""
    return max(1, round(font_size(image) / 8))


def draw_prediction(
    sample: BaseDataElement, config: Config, dataset_meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    """Draw what a model predicted for one image.

    Args:
        sample: Output of ``model.test_step``, with ``img_path``.
        config: Config of the run.
        dataset_meta: Classes and palette.
        score_thr: Detections below are left out.

    Returns:
        ``(H, W, 3)`` uint8 RGB. For FCMAE: masked, reconstructed and original side by side, with
        captions.
    """
    if 'reconstructed' in sample:
        return _captioned(sample, draw_reconstruction(sample, config))
    shown = config.get('picture_channels', SHOWN)
    image = read_picture(sample.img_path, config.test_dataloader.dataset, shown)
    return draw_sample(image, sample, dataset_meta, 'pred', score_thr)


def draw_reconstruction(sample: BaseDataElement, config: Config) -> np.ndarray:
    """Masked, reconstructed and original image side by side, ``(H, 3W, 3)`` uint8 RGB."""
    preprocessor = config.model.data_preprocessor
    mean, std = (torch.tensor(preprocessor[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    panels = [sample.masked, sample.reconstructed, sample.original]
    pixels = torch.cat([panel.cpu().float() * std + mean for panel in panels], dim=2)
    if len(pixels) == 3:
        return pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return to_rgb(pixels.permute(1, 2, 0).numpy(), config.get('picture_channels', SHOWN))


def _captioned(sample: BaseDataElement, panels: np.ndarray) -> np.ndarray:
    """Say what the three panels of a reconstruction are, after enlarging small ones."""
    image, _ = _enlarged(panels, panels.shape[1] // 3)
    width = image.shape[1] // 3
    names = ['masked', f'reconstruction, loss {sample.reconstruction_loss:.3f}']
    names.append(Path(sample.get('img_path') or 'original').name)
    corners = [(i * width, 0) for i in range(3)]
    return draw_names(image, names, corners, [(40, 40, 40)] * 3)


def _enlarged(image: np.ndarray, least: int) -> tuple[np.ndarray, int]:
    """A copy, a whole number of times as large so that ``least`` pixels are ``LEAST_SIDE``."""
    factor = max(1, -(-LEAST_SIDE // least))
    size = (factor * image.shape[1], factor * image.shape[0])
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), factor


def draw_sample(
    image: np.ndarray,
    sample: BaseDataElement,
    dataset_meta: dict,
    kind: str,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw the labels, instances and segmentation of one image, as far as it has them.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        sample: Data sample of mmpretrain, mmdet or mmseg, with boxes in pixels of ``image`` and
            masks of its size.
        dataset_meta: ``classes``, and ``palette`` where there is one.
        kind: ``'gt'`` or ``'pred'``: what is drawn.
        score_thr: Instances with a score below are left out; of the others the best
            ``MOST_OBJECTS`` are drawn.

    Returns:
        ``(H, W, 3)`` uint8 RGB, with H and W a whole number of times those of ``image``: the
        shorter is at least ``LEAST_SIDE``.
    """
    image, factor = _enlarged(image, min(image.shape[:2]))
    size, sample = image.shape[1::-1], sample.cpu()
    if f'{kind}_sem_seg' in sample:
        labels = sample.get(f'{kind}_sem_seg').data[0].numpy().astype(np.int16)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        image = _draw_segmentation(image, labels, dataset_meta)
    if f'{kind}_instances' in sample:
        instances = sample.get(f'{kind}_instances')
        if 'scores' in instances:
            instances = instances[instances.scores >= score_thr]
            instances = instances[instances.scores.argsort(descending=True)[:MOST_OBJECTS]]
        image = _draw_instances(image, instances, factor, dataset_meta)
    labels = _image_labels(sample, kind, dataset_meta)
    corner = [(0, 0)] * len(labels)
    return draw_names(image, labels, corner, [(40, 40, 40)] * len(labels)) if labels else image


def _image_labels(sample: BaseDataElement, kind: str, dataset_meta: dict) -> list[str]:
    """Names of the classes of a whole image, with their scores where those are not certain."""
    scores = sample.get(f'{kind}_score')
    labels = sample.get(f'{kind}_label')
    if kind == 'gt' and scores is not None:  # mixed images: a share of each class
        labels = scores.nonzero().flatten()
        labels = labels[scores[labels].argsort(descending=True)]
    if labels is None:
        return []
    classes = dataset_meta.get('classes')
    names = [classes[i] if classes else f'class {i}' for i in labels.flatten().tolist()]
    if scores is None:
        return names
    return [
        f'{name} {score:.2f}' for name, score in zip(names, scores[labels].tolist(), strict=True)
    ]


def class_colour(dataset_meta: dict, label: int) -> tuple[int, int, int]:
    """Red, green and blue of a class, of the palette if there is one."""
    palette = dataset_meta.get('palette')
    if palette:
        red, green, blue = palette[label]
    else:
        colour = matplotlib.colormaps['tab20'](label % 20)
        red, green, blue = (round(255 * value) for value in colour[:3])
    return red, green, blue


def _draw_segmentation(image: np.ndarray, labels: np.ndarray, dataset_meta: dict) -> np.ndarray:
    """Colour the classes, with white borders, and write each name where its class is widest.

    Pixels of no class (255, for instance) and of a class called background stay as they are.
    """
    classes = dataset_meta['classes']
    labels = np.where(labels < len(classes), labels, -1)
    background = [i for i, name in enumerate(classes) if name.lower() == 'background']
    labels[np.isin(labels, background)] = -1
    found = [label for label in np.unique(labels).tolist() if label >= 0]
    # The colour -1 is the last one of the table, which no class has.
    table = np.zeros((len(classes) + 1, 3), np.uint8)
    table[found] = [class_colour(dataset_meta, label) for label in found]
    drawn = cv2.addWeighted(image, 0.5, table[labels], 0.5, 0)
    drawn[labels < 0] = image[labels < 0]
    brush = np.ones((1 + line_width(image),) * 2, np.uint8)
    drawn[cv2.dilate(labels, brush) != cv2.erode(labels, brush)] = 255

    scale = max(1, min(labels.shape) // 256)  # a coarse map is enough to find a place
    coarse = np.pad(labels[::scale, ::scale], 1, constant_values=-1)
    names, centres, colours = [], [], []
    for label in found:
        depth = cv2.distanceTransform((coarse == label).astype(np.uint8), cv2.DIST_L2, 3)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        if depth[y, x] > 0:
            names.append(classes[label])
            centres.append((scale * (int(x) - 1), scale * (int(y) - 1)))
            colours.append(class_colour(dataset_meta, label))
    return draw_names(drawn, names, centres, colours, centred=True)


def _draw_instances(
    image: np.ndarray, instances: InstanceData, factor: int, dataset_meta: dict
) -> np.ndarray:
    """Boxes, masks and names; small instances over large ones."""
    boxes = instances.bboxes
    boxes = factor * getattr(boxes, 'tensor', boxes).numpy().reshape(-1, 4)
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    labels = instances.labels.tolist()
    masks = instances.get('masks')
    if masks is not None:
        masks = masks.numpy() if isinstance(masks, torch.Tensor) else masks.to_ndarray()
    width, size = line_width(image), image.shape[1::-1]
    for i in order:
        colour = class_colour(dataset_meta, labels[i])
        if masks is not None:
            mask = cv2.resize(masks[i].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            inside = mask.astype(bool)
            image[inside] = (0.6 * image[inside] + 0.4 * np.array(colour)).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outlines, -1, colour, width, cv2.LINE_AA)
        left, top, right, bottom = boxes[i].round().astype(int).tolist()
        cv2.rectangle(image, (left, top), (right, bottom), colour, width)

    names = [dataset_meta['classes'][label] for label in labels]
    if 'scores' in instances:
        scores = instances.scores.tolist()
        order = np.argsort(scores)[::-1]  # a name that has no room is that of a low score
        names = [f'{name} {score:.2f}' for name, score in zip(names, scores, strict=True)]
    return draw_names(
        image,
        [names[i] for i in order],
        [tuple(boxes[i, :2].tolist()) for i in order],
        [class_colour(dataset_meta, labels[i]) for i in order],
    )


def draw_names(
    image: np.ndarray,
    names: Sequence[str],
    anchors: Sequence[tuple[float, float]],
    colours: Sequence[tuple[int, int, int]],
    centred: bool = False,
) -> np.ndarray:
    """Write names on an image so that none covers another, each on a ground of its colour.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        names: What to write, the most important first: where the image is full, the rest is left
            out.
        anchors: A point (x, y) of each: its name starts there, on top of it if there is room. If
            it has to stay away from the point, a line leads there.
        colours: RGB.
        centred: Put the middle of the name there instead.
    """
    font = ImageFont.truetype(str(FONT), font_size(image))
    margin = line_width(image)
    ascent, descent = font.getmetrics()
    sizes = [
        (math.ceil(font.getlength(name)) + 2 * margin, ascent + descent + margin) for name in names
    ]
    corners = [
        (x - w / 2, y - h / 2) if centred else (x, y - h)
        for (x, y), (w, h) in zip(anchors, sizes, strict=True)
    ]
    places = place_names(sizes, corners, image.shape[:2])
    picture = Image.fromarray(image)
    pencil = ImageDraw.Draw(picture)
    texts = list(zip(names, sizes, places, anchors, colours, strict=True))
    for _, (w, h), place, (x, y), colour in texts:
        if place is not None:
            left, top = place
            nearest = (min(max(x, left), left + w), min(max(y, top), top + h))
            if math.dist(nearest, (x, y)) > h / 2:
                pencil.line([nearest, (x, y)], colour, margin)
    for name, (w, h), place, _, colour in texts:
        if place is not None:
            left, top = place
            ink = 'black' if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else 'white'
            pencil.rectangle((left, top, left + w - 1, top + h - 1), colour, ink, -(-margin // 4))
            pencil.text((left + margin, top), name, ink, font)
    return np.asarray(picture)


def place_names(
    sizes: Sequence[tuple[int, int]],
    corners: Sequence[tuple[float, float]],
    shape: tuple[int, int],
) -> list[tuple[int, int] | None]:
    """Find a place for rectangles in an image, near where they should be and over no other.

    Args:
        sizes: Width and height of each.
        corners: Wanted (x, y) of each upper left corner.
        shape: Height and width of the image.

    Returns:
        Upper left corners, in pixels; None where an earlier rectangle left no room.
    """
    taken: np.ndarray = np.zeros((0, 4))  # left, top, right, bottom
    places: list[tuple[int, int] | None] = []
    for (w, h), (x, y) in zip(sizes, corners, strict=True):
        last_x, last_y = max(shape[1] - w, 0), max(shape[0] - h, 0)
        x, y = round(min(max(x, 0), last_x)), round(min(max(y, 0), last_y))
        step = max(h // 4, 1)
        grid_x, grid_y = np.meshgrid(
            np.arange(x % step, last_x + 1, step), np.arange(y % step, last_y + 1, step)
        )
        grid = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)
        grid = grid[np.abs(grid - (x, y)).sum(1).argsort(kind='stable')]  # the wanted one first
        left, top = grid[:, :1], grid[:, 1:]
        covers = (left < taken[:, 2]) & (taken[:, 0] < left + w)
        covers &= (top < taken[:, 3]) & (taken[:, 1] < top + h)
        free = np.flatnonzero(~covers.any(axis=1))
        if not len(free):
            places.append(None)
            continue
        left, top = grid[free[0]].tolist()
        places.append((left, top))
        taken = np.concatenate([taken, [(left, top, left + w, top + h)]])
    return places


def result_names(images: Sequence[str]) -> dict[str, Path]:
    """A unique name, without suffix, for the results of each image file.

    The name of the file, or where two files have the same in different folders, its path below the
    folder that all have in common, or where they differ in their ending only, with that.
    """
    files = {image: Path(os.path.abspath(image)) for image in images}
    common = os.path.commonpath([file.parent for file in files.values()])
    paths = {image: file.relative_to(common) for image, file in files.items()}
    for names in (
        {image: Path(path.stem) for image, path in paths.items()},
        {image: path.with_suffix('') for image, path in paths.items()},
    ):
        if len(set(names.values())) == len(set(paths.values())):
            return names
    return paths


def write_image(picture: np.ndarray, path: Path) -> None:
    """Write an RGB image, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OSError(f'cannot write {path}')


def open_window() -> Visualizer | None:
    """A window with ``show(picture, title)``; None without a display."""
    from matplotlib import pyplot
    from matplotlib.backends import BackendFilter, backend_registry

    try:
        backend = pyplot.get_backend().lower()
    except ImportError:  # one was asked for by name, and its toolkit finds no display
        return None
    windows = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    options = dict(frameon=False, figsize=(12, 8))
    return Visualizer(fig_show_cfg=options) if backend in windows else None
