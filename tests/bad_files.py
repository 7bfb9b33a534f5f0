"""Bad and unusual images, COCO annotations and label maps, each made from a drawing."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image

from convnextv2_mm.datasets.shapes.drawing import draw

HEIGHT, WIDTH = 96, 128
# Images that cannot be used, and what is said of them. `missing` is in the lists alone.
BAD_IMAGES = {
    'truncated': 'is not an image that can be decoded, or not a whole one',
    'truncated-png': 'is not an image that can be decoded, or not a whole one',
    'empty': 'is empty',
    'text': 'is not an image that can be decoded, or not a whole one',
    'missing': 'does not exist',
}


def picture() -> Image.Image:
    return Image.fromarray(draw(0, 'train', 0, WIDTH).image[:HEIGHT])


def encode(image: Image.Image, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def damaged_jpeg(part: float = 0.5) -> bytes:
    """A JPEG that ends as one should, with noise in its middle."""
    content = encode(picture(), quality=95)
    noise = np.random.default_rng(0).integers(0, 255, 400, dtype=np.uint8).tobytes()
    start = int(len(content) * part)
    return content[:start] + noise + content[start + 400 :]


def images() -> Iterator[tuple[str, bytes]]:
    """Name and content of every kind of image but the missing one."""
    image, jpeg = picture(), encode(picture(), quality=95)
    frames = dict(save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])
    values = np.asarray(image).astype(np.uint16) * 257
    yield 'plain', jpeg
    yield 'truncated', jpeg[: len(jpeg) // 2]
    yield 'truncated-png', encode(image, 'PNG')[:-500]
    yield 'empty', b''
    yield 'text', b'this is not an image\n'
    yield 'damaged', damaged_jpeg()
    yield 'cmyk', encode(image.convert('CMYK'), quality=95)
    yield 'grey', encode(image.convert('L'), quality=95)
    yield 'palette', encode(image.convert('P', palette=Image.Palette.ADAPTIVE), 'PNG')
    yield 'grey-16', encode(Image.fromarray(values[..., 1]), 'PNG')
    yield 'colour-16', cv2.imencode('.png', values[..., ::-1])[1].tobytes()
    yield 'alpha', encode(image.convert('RGBA'), 'PNG')
    yield 'gif', encode(image, 'GIF', **frames)
    yield 'apng', encode(image, 'PNG', **frames)
    yield 'webp', encode(image, 'WEBP', lossless=True, **frames)
    for orientation in (3, 6):
        exif = image.getexif()
        exif[0x0112] = orientation
        yield f'orientation-{orientation}', encode(image, exif=exif, quality=95)
    yield 'one-wide', encode(image.crop((0, 0, 1, HEIGHT)))
    yield 'one-high', encode(image.crop((0, 0, WIDTH, 1)))


def write_images(folder: Path) -> list[str]:
    """Write them as ``KIND.jpg``, whatever they are; give all kinds, the missing one too."""
    folder.mkdir(parents=True)
    kinds = ['missing']
    for kind, content in images():
        (folder / f'{kind}.jpg').write_bytes(content)
        kinds.append(kind)
    return kinds


def stored_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is stored, where it can be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError:
        return HEIGHT, WIDTH


BOX = [20, 10, 60, 40]
OUTLINE = [20, 10, 80, 10, 80, 50, 20, 50]


def annotation(number: int, image: int, **changes) -> dict:
    """A valid annotation with changes; None takes a field away."""
    entry = dict(id=number, image_id=image, category_id=1, bbox=BOX, area=2400, iscrowd=0)
    entry |= dict(segmentation=[OUTLINE]) | changes
    return {key: value for key, value in entry.items() if value is not None}


NAN, INF = float('nan'), float('inf')
OUTSIDE = [v + 500 for v in OUTLINE]
EMPTY_RUN = dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH])
RUN = dict(size=[HEIGHT, WIDTH], counts=[1000, 500, HEIGHT * WIDTH - 1500])
# What is changed in an annotation, and the kind of problem it is.
BAD_ANNOTATIONS = {
    'zero width': (dict(bbox=[20, 10, 0, 40]), 'empty box'),
    'half a pixel': (dict(bbox=[20, 10, 60, 0.5]), 'empty box'),
    'zero area': (dict(area=0), 'empty box'),
    'negative width': (dict(bbox=[20, 10, -60, 40]), 'box'),
    'negative height': (dict(bbox=[20, 10, 60, -1]), 'box'),
    'three numbers': (dict(bbox=[20, 10, 60]), 'box'),
    'box of words': (dict(bbox=['20', '10', '60', '40']), 'box'),
    'box of NaN': (dict(bbox=[NAN, 10, 60, 40]), 'box'),
    'endless box': (dict(bbox=[0, 0, INF, 40]), 'box'),
    'no list': (dict(bbox=7), 'box'),
    'box outside': (dict(bbox=[500, 10, 60, 40]), 'box outside'),
    'box above': (dict(bbox=[20, -40, 60, 40]), 'box outside'),
    'mask outside': (dict(segmentation=[OUTSIDE]), 'mask outside'),
    'no segmentation': (dict(segmentation=None), 'no mask'),
    'empty segmentation': (dict(segmentation=[]), 'no mask'),
    'words for a mask': (dict(segmentation='none'), 'no mask'),
    'empty polygon': (dict(segmentation=[[]]), 'polygon'),
    'two points': (dict(segmentation=[[20, 10, 80, 50]]), 'polygon'),
    'half a point': (dict(segmentation=[OUTLINE[:-1]]), 'polygon'),
    'polygon of NaN': (dict(segmentation=[[NAN, *OUTLINE[1:]]]), 'polygon'),
    'huge polygon': (dict(segmentation=[[1e12, *OUTLINE[1:]]]), 'polygon'),
    'huge part': (dict(segmentation=[OUTLINE, [1e12, *OUTLINE[1:]]]), 'polygon'),
    'a list for a number': (dict(segmentation=[[[20], *OUTLINE[1:]]]), 'polygon'),
    'a short part': (dict(segmentation=[OUTLINE, [20, 10]]), 'part of a polygon'),
    'a polygon': (dict(segmentation=[OUTLINE]), ''),
    'partly outside': (dict(segmentation=[[-20, 10, 80, 10, 80, 50]]), ''),
    'run lengths': (dict(segmentation=RUN), 'not a polygon'),
    'crowd': (dict(segmentation=RUN, iscrowd=1), ''),
    'other size': (dict(segmentation=RUN | dict(size=[50, 50])), 'run lengths'),
    'no size': (dict(segmentation=dict(counts=RUN['counts'])), 'run lengths'),
    'too short': (dict(segmentation=RUN | dict(counts=[1000, 500])), 'run lengths'),
    'negative run': (dict(segmentation=RUN | dict(counts=[-1, 1, 12288])), 'run lengths'),
    'no counts': (dict(segmentation=dict(size=[HEIGHT, WIDTH])), 'run lengths'),
    'broken counts': (dict(segmentation=RUN | dict(counts='Zo~o')), 'run lengths'),
    'without end': (dict(segmentation=RUN | dict(counts='o' * 40)), 'run lengths'),
    'no pixel': (dict(segmentation=EMPTY_RUN), 'empty mask'),
    'unknown image': (dict(image_id=999), 'unknown image'),
    'unknown category': (dict(category_id=999), 'unknown category'),
}


def coco(entries: list[tuple[str, int, int]], annotations: list[dict]) -> dict:
    """A COCO file of images (name, height, width) with COCO's categories."""
    return dict(
        images=[
            dict(id=i, file_name=name, height=height, width=width)
            for i, (name, height, width) in enumerate(entries)
        ],
        annotations=annotations,
        categories=[
            dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'], 1)
        ],
    )


def labels() -> np.ndarray:
    """A label map as ADE20K's: 0 is no class, 1 to 150 are."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[10:50, 20:80], drawn[60:] = 150, 3
    return drawn


def label_maps() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and what is said of it ('' where it is used)."""
    good = labels()
    high, colour = good.copy(), np.stack([good] * 3, -1)
    high[0, 0] = 151
    unlabelled = good.copy()
    unlabelled[:5] = 255
    coded = Image.fromarray(good).convert('P')
    yield 'good', encode(Image.fromarray(good), 'PNG'), ''
    yield 'ignored-255', encode(Image.fromarray(unlabelled), 'PNG'), ''
    yield 'coded-colours', encode(coded, 'PNG'), ''
    yield 'sixteen-bits', encode(Image.fromarray(good.astype(np.uint16)), 'PNG'), ''
    yield 'too-high', encode(Image.fromarray(high), 'PNG'), 'has the label 151, but the classes are'
    wraps = good.astype(np.uint16) + 256  # 256 to 406: as one byte they would be 0 to 150
    yield 'wraps', encode(Image.fromarray(wraps), 'PNG'), 'has the label 256, but the classes are'
    yield (
        'colour',
        encode(Image.fromarray(colour), 'PNG'),
        'is no label map: it has values of shape',
    )
    yield 'other-size', encode(Image.fromarray(good[:50]), 'PNG'), 'is 128x50 pixels, but its image'
    yield 'turned', encode(Image.fromarray(good.T.copy()), 'PNG'), 'is 96x128 pixels, but its image'
    yield 'cut', encode(Image.fromarray(good), 'PNG')[:-30], 'not a whole one'
    yield 'empty', b'', 'is empty'
    yield 'missing', b'', 'does not exist'


def write_label_maps(folder: Path, masks: Path) -> dict[str, str]:
    """Write images and their label maps; give what is said of each name."""
    folder.mkdir(parents=True)
    masks.mkdir(parents=True)
    said = {}
    for name, content, message in label_maps():
        (folder / f'{name}.jpg').write_bytes(encode(picture(), quality=95))
        if name != 'missing':
            (masks / f'{name}.png').write_bytes(content)
        said[name] = message
    return said


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def tiff(values: np.ndarray, photometric: int, extra: tuple[int, ...] = ()) -> bytes:
    """An uncompressed TIFF of (H, W, C), of kinds that Pillow does not write.

    Args:
        values: uint8, uint16 or float32.
        photometric: 1 grey, 2 RGB.
        extra: What each channel beyond those is: 0 anything, 2 transparency.
    """
    height, width, channels = values.shape
    bits, kind = 8 * values.itemsize, 3 if values.dtype.kind == 'f' else 1
    tags = [(256, 4, (width,)), (257, 4, (height,)), (258, 3, (bits,) * channels)]
    tags += [(259, 3, (1,)), (262, 3, (photometric,)), (273, 4, (8,)), (277, 3, (channels,))]
    tags += [(278, 4, (height,)), (279, 4, (values.nbytes,)), (284, 3, (1,))]
    tags += [(338, 3, extra)] if extra else []
    tags += [(339, 3, (kind,) * channels)]
    pixels = values.astype(values.dtype.newbyteorder('<')).tobytes()
    start = 8 + len(pixels)
    after, entries = start + 2 + 12 * len(tags) + 4, b''
    outside = b''
    for number, size, content in tags:
        packed = struct.pack(f'<{len(content)}{"H" if size == 3 else "I"}', *content)
        if len(packed) > 4:
            packed, outside = struct.pack('<I', after + len(outside)), outside + packed
        entries += struct.pack('<HHI', number, size, len(content)) + packed.ljust(4, b'\0')
    table = struct.pack('<H', len(tags)) + entries + bytes(4)
    return struct.pack('<2sHI', b'II', 42, start) + pixels + table + outside
