"""Find problems in a COCO file before anything trains or evaluates on it.

pycocotools checks nothing: of two images with the same id it takes the later with the objects of
both, and a run-length mask with broken counts makes it read past its memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# What happens: in training with skip_bad_data; in evaluation, and in training without it.
STOPS, LEFT_OUT, USED = 'the run stops', 'left out', 'used'
EFFECTS = {
    'structure': (STOPS, STOPS),
    'duplicate id': (STOPS, STOPS),
    'classes': (STOPS, STOPS),
    'same name': (STOPS, STOPS),
    'empty category': (USED, USED),
    'no class': (USED, USED),
    'same file': (USED, USED),
    'only crowds': (STOPS, STOPS),
    'no masks': (STOPS, STOPS),
    'no polygons': (STOPS, STOPS),
    'unknown image': (LEFT_OUT, LEFT_OUT),
    'unknown category': (LEFT_OUT, LEFT_OUT),
    'crowd': (LEFT_OUT, STOPS),
    'box': (LEFT_OUT, STOPS),
    'empty box': (LEFT_OUT, USED),
    'box outside': (LEFT_OUT, USED),
    'no mask': (LEFT_OUT, STOPS),
    'polygon': (LEFT_OUT, STOPS),
    'part of a polygon': (USED, USED),
    'run lengths': (LEFT_OUT, STOPS),
    'empty mask': (LEFT_OUT, USED),
    'mask outside': (LEFT_OUT, USED),
    'not a polygon': (LEFT_OUT, USED),
}
LARGEST = 1e6  # pixels: a polygon beyond takes pycocotools memory without limit


class CocoProblem(NamedTuple):
    """A problem in a COCO file.

    Attributes:
        kind: One of ``EFFECTS``.
        sentence: What is wrong, with the ids.
        annotation: Id of the annotation, if it is one's problem; else it is the file's.
    """

    kind: str
    sentence: str
    annotation: Any = None


def find_coco_problems(
    content: Any, classes: Sequence[str] = (), masks: bool = True, polygons_only: bool = False
) -> Iterator[CocoProblem]:
    """Find the problems in the contents of a COCO file.

    Args:
        content: The file's content, after ``normalize_values``.
        classes: Names that must be among its categories.
        masks: Whether objects need masks.
        polygons_only: Whether objects whose masks are run lengths are lost
            (``LoadAnnotations(poly2mask=False)``); crowd regions may be.

    Yields:
        Problems, first those of the whole file, then at most one for an annotation. Where a part
        has the wrong structure, what depends on it is not looked at.
    """
    broken = list(_structure_problems(content))
    yield from broken
    if broken:
        return
    yield from _category_problems(content, classes)
    names = Counter(image['file_name'] for image in content['images'])
    if twice := [name for name, count in names.items() if count > 1]:
        yield CocoProblem(
            'same file',
            f'{len(twice)} files are there more than once, such as {twice[0]}: each entry has the '
            f'objects of its own id alone',
        )
    common = list(_common_problems(content['annotations'], masks, polygons_only))
    yield from common
    masks = masks and not common  # what all lack is not said of each
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    for annotation in content['annotations']:
        number = annotation['id']
        image = images.get(annotation['image_id'])
        if image is None:
            kind, what = 'unknown image', f'there is no image {annotation["image_id"]!r}'
        elif annotation['category_id'] not in categories:
            kind = 'unknown category'
            what = f'there is no category {annotation["category_id"]!r}'
        elif annotation['iscrowd'] not in (0, 1):
            kind, what = 'crowd', f'its iscrowd {annotation["iscrowd"]!r:.80} is neither 0 nor 1'
        else:
            size = image['height'], image['width']
            kind, what = _box_problem(annotation, size)
            if not kind and masks:
                kind, what = mask_problem(annotation, size, polygons_only)
        if kind:
            where = f'annotation {number!r}'
            if image is not None:
                where += f' of {image["file_name"]}'
            yield CocoProblem(kind, f'{where}: {what}', number)


def category_ids(content: dict) -> dict[str, Any]:
    """Category id of each name; of two with the same name, the one that has objects."""
    used = {annotation['category_id'] for annotation in content['annotations']}
    ids: dict[str, Any] = {}
    for category in content['categories']:
        name, number = category['name'], category['id']
        if name not in ids or (ids[name] not in used and number in used):
            ids[name] = number
    return ids


def _category_problems(content: dict, classes: Sequence[str]) -> Iterator[CocoProblem]:
    """Classes that are no categories, names that are there twice, and objects of no class."""
    ids, objects = defaultdict(list), Counter(a['category_id'] for a in content['annotations'])
    for category in content['categories']:
        ids[category['name']].append(category['id'])
    if lacking := [name for name in classes if name not in ids]:
        yield CocoProblem(
            'classes',
            f'{len(lacking)} of {len(classes)} classes are not among its categories, such as '
            f'{lacking[0]!r}: set metainfo.classes to those it has',
        )
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        yield CocoProblem('classes', f'metainfo.classes has {twice[0]!r} twice')
    for name in dict.fromkeys(classes or ids):
        if len(ids[name]) < 2:
            continue
        both = f'categories {" and ".join(map(repr, ids[name]))} have the name {name!r}'
        used = [number for number in ids[name] if objects[number]]
        if len(used) > 1:
            counts = ' and '.join(str(objects[number]) for number in used)
            what = f'{both}, and {counts} objects: give them one id, or two names'
            yield CocoProblem('same name', what)
        else:
            alone = f'{used[0]!r} alone has objects and is taken' if used else 'none has objects'
            yield CocoProblem('empty category', f'{both}, of which {alone}')
    others = {n: sum(objects[i] for i in ids[n]) for n in ids if classes and n not in classes}
    others = {name: count for name, count in others.items() if count}
    if others:
        yield CocoProblem(
            'no class',
            f'{sum(others.values())} objects of {len(others)} categories outside of '
            f'metainfo.classes, such as {next(iter(others))!r}, count as background',
        )


def _common_problems(
    annotations: list[dict], masks: bool, polygons_only: bool
) -> Iterator[CocoProblem]:
    """What leaves no object to train or to score on, with the option that cures it."""
    objects = [annotation for annotation in annotations if annotation['iscrowd'] != 1]
    if not objects and annotations:
        yield CocoProblem(
            'only crowds',
            f'all {len(annotations)} objects are crowd regions, which are neither trained on nor '
            f'scored: set their iscrowd to 0',
        )
    elif not objects or not masks:
        return
    elif not any(annotation.get('segmentation') for annotation in objects):
        yield CocoProblem(
            'no masks',
            f'none of {len(objects)} objects has a mask: use a model without mask head, '
            f"with_mask=False in LoadAnnotations and metric='bbox' in the evaluator",
        )
    elif polygons_only and all(isinstance(a.get('segmentation'), dict) for a in objects):
        yield CocoProblem(
            'no polygons',
            f'the masks of all {len(objects)} objects are run lengths, which poly2mask=False '
            f'drops: set poly2mask=True in LoadAnnotations',
        )


_FIELDS = {
    'categories': ('id', 'name'),
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox'),
}


def _structure_problems(content: Any) -> Iterator[CocoProblem]:
    """Fields that are missing or of another type, and ids that are there twice."""
    if not isinstance(content, dict):
        yield CocoProblem('structure', 'it is not a COCO file: it holds no object with images')
        return
    for part, fields in _FIELDS.items():
        entries = content.get(part)
        if not isinstance(entries, list):
            yield CocoProblem('structure', f'it is not a COCO file: it has no list of {part}')
            continue
        one, ids = part.removesuffix('s').replace('categorie', 'category'), set()
        for position, entry in enumerate(entries):
            missing = [f for f in fields if f not in entry] if isinstance(entry, dict) else fields
            if missing:
                name = f'at position {position}' if 'id' in missing else repr(entry['id'])
                yield CocoProblem('structure', f'{one} {name} has no {missing[0]}')
                continue
            number = entry['id']
            wrong = _wrong_type(part, entry)
            if wrong:
                yield CocoProblem('structure', f'{one} {number!r} has {wrong} {entry[wrong]!r}')
            elif number in ids:
                yield CocoProblem('duplicate id', f'{one} {number!r} is there twice')
            else:
                ids.add(number)
        # pycocotools sorts them; those of annotations are numbered anew.
        if part != 'annotations' and len({type(number) for number in ids}) > 1:
            text = next(number for number in ids if isinstance(number, str))
            what = f'some ids of its {part} are numbers and some are text, such as {text!r}'
            yield CocoProblem('structure', what)


def _wrong_type(part: str, entry: dict) -> str | None:
    """Name of the first field whose value cannot be one."""
    if not isinstance(entry['id'], int | str):
        return 'id'
    if part == 'images':
        if not isinstance(entry['file_name'], str):
            return 'file_name'
        for side in ('height', 'width'):
            if not (isinstance(entry[side], int) and 0 < entry[side] <= LARGEST):
                return side
    elif part == 'annotations':
        for field in ('image_id', 'category_id'):
            if not isinstance(entry[field], int | str):
                return field
        if not isinstance(entry.get('area', 0), int | float):
            return 'area'
    elif not isinstance(entry['name'], str):
        return 'name'
    return None


def _are_pixels(values: Any) -> bool:
    """Whether they are finite numbers that may be coordinates; NaN fails a comparison."""
    return isinstance(values, list) and all(
        isinstance(value, int | float) and -LARGEST < value < LARGEST for value in values
    )


def _box_problem(annotation: dict, size: tuple[int, int]) -> tuple[str, str]:
    """Kind and description, or ('', '')."""
    box = annotation['bbox']
    if not (_are_pixels(box) and len(box) == 4):
        return 'box', f'its box {box!r:.80} is not four numbers of pixels'
    left, top, width, height = box
    if width < 0 or height < 0:
        return 'box', f'its box {box} has a negative size'
    if width < 1 or height < 1:
        return 'empty box', f'its box {box} is less than a pixel wide or high'
    if not annotation.get('area', 1) > 0:
        return 'empty box', f'its area is {annotation["area"]}'
    if left >= size[1] or top >= size[0] or left + width <= 0 or top + height <= 0:
        return 'box outside', f'its box {box} is outside of the {size[1]}x{size[0]} image'
    return '', ''


def mask_problem(annotation: dict, size: tuple[int, int], polygons_only: bool) -> tuple[str, str]:
    """Kind and description, or ('', '')."""
    mask = annotation.get('segmentation')
    if not mask:
        return 'no mask', 'it has no segmentation'
    if isinstance(mask, dict):
        kind, what = _run_length_problem(mask, size)
        if not kind and polygons_only and not annotation.get('iscrowd'):
            return 'not a polygon', 'its mask is run lengths, and poly2mask=False drops those'
        return kind, what
    if not isinstance(mask, list):
        return 'no mask', f'its segmentation {mask!r:.80} is neither polygons nor run lengths'
    short = [part for part in mask if not _are_pixels(part) or len(part) < 6 or len(part) % 2]
    if short:
        what = f'its polygon {short[0]!r:.80} is not three or more points in pixels'
        # By the first pycocotools decides what the list is; MMDetection drops short ones.
        usable = mask[0] is not short[0] and all(map(_are_pixels, short))
        return 'part of a polygon' if usable else 'polygon', what
    if all(
        min(part[0::2]) >= size[1]
        or min(part[1::2]) >= size[0]
        or max(part[0::2]) <= 0
        or max(part[1::2]) <= 0
        for part in mask
    ):
        return 'mask outside', f'its mask is outside of the {size[1]}x{size[0]} image'
    return '', ''


def _run_length_problem(mask: dict, size: tuple[int, int]) -> tuple[str, str]:
    """Kind and description, or ('', '')."""
    if mask.get('size') != list(size):
        return 'run lengths', (
            f'its run lengths are for height and width {mask.get("size")!r:.80}, but the image has '
            f'{list(size)}'
        )
    counts = mask.get('counts')
    if isinstance(counts, str):
        counts = _decompress(counts)
    if (
        not isinstance(counts, list)
        or not all(isinstance(c, int) and c >= 0 for c in counts)
        or sum(counts) != size[0] * size[1]
    ):
        return 'run lengths', f'its run lengths do not add up to {size[1]}x{size[0]} pixels'
    if not sum(counts[1::2]):
        return 'empty mask', 'its mask has no pixel'
    return '', ''


def _decompress(text: str) -> list[int] | None:
    """Undo COCO's compression of run lengths; None of what is none.

    Five bits a character, from 48 on, the least first; the sixth bit says that more follow. From
    the third on they are differences to the one before the last (pycocotools, ``rleFrString``).
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return None if shift else counts
