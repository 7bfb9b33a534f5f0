"""The shapes set: what is on disk against the drawings, and the three views against each other."""

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image
from pycocotools.coco import COCO

from convnextv2_mm.datasets.shapes import drawing as shapes
from convnextv2_mm.datasets.shapes.drawing import (
    CLASSES,
    SEG_CLASSES,
    SEG_PALETTE,
    draw,
    write_shapes,
)

SET = dict(num_train=14, num_val=6, size=96, seed=3)
COUNTS = dict(train=14, val=6)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, **SET)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def drawings() -> list[tuple[str, int, shapes.Drawing]]:
    return [
        (split, index, draw(SET['seed'], split, index, SET['size']))
        for split, count in COUNTS.items()
        for index in range(count)
    ]


def same(a: shapes.Drawing, b: shapes.Drawing) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ('image', 'masks', 'labels'))


# --- drawings


def test_drawing_depends_on_seed_split_and_index_only():
    first = draw(0, 'train', 5)
    draw(0, 'train', 6)
    np.random.seed(1)
    assert same(first, draw(0, 'train', 5))
    assert not same(first, draw(1, 'train', 5))
    assert not same(first, draw(0, 'val', 5))
    assert not same(first, draw(0, 'train', 6))


@pytest.mark.parametrize('size', [32, 160])
def test_drawing_is_well_formed(size):
    seen = set()
    for index in range(40):
        drawing = draw(0, 'val', index, size)
        n = len(drawing.labels)
        assert 1 <= n <= 5
        assert drawing.image.shape == (size, size, 3) and drawing.image.dtype == np.uint8
        assert drawing.masks.shape == (n, size, size) and drawing.masks.dtype == bool
        assert drawing.labels.dtype == np.int64
        assert drawing.masks.sum(axis=0).max() == 1
        assert drawing.masks.any(axis=(1, 2)).all()
        seen.update(drawing.labels.tolist())
    assert seen == set(range(len(CLASSES)))


def test_no_shape_is_hidden_too_much():
    # The area of a whole shape is near 2 r^2, r at least 0.1 of the side; parts of up to about a
    # quarter may lie outside the image, and of the rest at least 35% must show.
    least = min(draw(0, 'train', index).masks.sum(axis=(1, 2)).min() for index in range(100))
    assert least > 0.35 * 0.75 * 1.7 * 16**2


@pytest.mark.parametrize('name, area', [('circle', 0.64 * np.pi), ('square', 2.0), ('cross', 2.1)])
def test_outlines_enclose_the_area_of_their_formula(name, area):
    v, u = np.mgrid[-1.5:1.5:600j, -1.5:1.5:600j]
    inside = (shapes._distance(name, u, v) < 0).mean() * 9
    assert inside == pytest.approx(area, rel=0.02)


def test_star_has_five_tips_and_triangle_three():
    turns = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    for name, radius, tips in (('star', 0.9, 5), ('triangle', 0.9, 3), ('square', 0.85, 4)):
        inside = shapes._distance(name, radius * np.cos(turns), radius * np.sin(turns)) < 0
        assert np.count_nonzero(inside & ~np.roll(inside, 1)) == tips


@pytest.mark.parametrize(
    'arguments, sentence',
    [((0, 'test', 0, 96), "split is 'test', but"), ((0, 'val', 0, 31), 'size is 31, but')],
)
def test_draw_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(*arguments)


# --- on disk


def test_same_seed_same_bytes_whatever_the_count(root, tmp_path):
    write_shapes(tmp_path / 'again', **SET)
    assert contents(tmp_path / 'again') == contents(root)

    write_shapes(tmp_path / 'fewer', **{**SET, 'num_train': 5, 'num_val': 2})
    fewer, all_files = contents(tmp_path / 'fewer'), contents(root)
    pictures = [name for name in fewer if name.endswith(('.jpg', '.png'))]
    assert len(pictures) == 2 * (5 + 2)
    assert all(fewer[name] == all_files[name] for name in pictures)


def test_coco_annotations_are_the_drawings(root):
    for split, count in COUNTS.items():
        coco = COCO(str(root / 'annotations' / f'instances_{split}.json'))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        assert coco.getImgIds() == list(range(count))
        assert min(coco.getAnnIds()) == 1  # with 0, the evaluation would miss a match
        for index in range(count):
            drawing = draw(SET['seed'], split, index, SET['size'])
            annotations = coco.loadAnns(coco.getAnnIds([index]))
            assert [a['category_id'] - 1 for a in annotations] == drawing.labels.tolist()
            for annotation, mask in zip(annotations, drawing.masks, strict=True):
                assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
                (y0, x0), (y1, x1) = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
                assert annotation['bbox'] == [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
                assert annotation['area'] == np.count_nonzero(mask)
                assert annotation['iscrowd'] == 0


def test_run_lengths_of_masks_that_touch_the_corners():
    from pycocotools import mask as oracle

    for bits in itertools.product([False, True], repeat=6):
        mask = np.array(bits).reshape(2, 3)
        counts = shapes._run_lengths(mask)
        encoded = oracle.frPyObjects(dict(size=[2, 3], counts=counts), 2, 3)
        assert sum(counts) == 6
        assert np.array_equal(oracle.decode(encoded), mask)


def test_images_and_label_maps_are_the_drawings(root):
    for split, index, drawing in drawings():
        areas = [np.count_nonzero(mask) for mask in drawing.masks]
        folder = CLASSES[drawing.labels[areas.index(max(areas))]]
        image = np.asarray(Image.open(root / f'images/{split}/{folder}/{split}_{index:06d}.jpg'))
        assert np.abs(image.astype(int) - drawing.image).mean() < 3  # JPEG's loss

        file = Image.open(root / f'masks/{split}/{folder}/{split}_{index:06d}.png')
        assert file.mode == 'L'
        expected = np.ones((SET['size'], SET['size']), np.uint8)
        for mask, label in zip(drawing.masks, drawing.labels, strict=True):
            expected[mask] = 2 + label
        assert np.array_equal(np.asarray(file), expected)


# --- made once, whole or not at all


def test_second_call_leaves_the_set_alone(root, monkeypatch):
    monkeypatch.setattr(shapes, 'draw', None)
    before = contents(root)
    write_shapes(root, **SET)
    assert contents(root) == before


def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def stop(jobs):
        yield from jobs[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / 'shapes', **SET, progress=stop)
    assert list(tmp_path.iterdir()) == []
    write_shapes(tmp_path / 'shapes', **SET)
    assert (tmp_path / 'shapes' / 'meta.json').is_file()


def test_killed_process_leaves_no_root(tmp_path):
    def die(jobs):
        yield from jobs[:7]
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write_shapes(tmp_path / 'shapes', **SET, progress=die)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / 'shapes').exists()
    write_shapes(tmp_path / 'shapes', **SET)
    assert (tmp_path / 'shapes' / 'meta.json').is_file()


def test_slower_of_two_writers_uses_the_set_of_the_faster(tmp_path):
    target = tmp_path / 'shapes'

    def overtaken(jobs):
        yield from jobs
        write_shapes(target, **SET)
        (target / 'winner').touch()

    write_shapes(target, **SET, progress=overtaken)
    assert (target / 'winner').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


def test_slower_writer_of_another_set_is_told(tmp_path):
    def overtaken(jobs):
        yield from jobs
        write_shapes(tmp_path / 'shapes', **{**SET, 'seed': 4})

    with pytest.raises(ValueError, match='seed=4, but seed=3 was asked for'):
        write_shapes(tmp_path / 'shapes', **SET, progress=overtaken)


def test_other_parameters_are_refused(root):
    before = contents(root)
    with pytest.raises(ValueError) as error:
        write_shapes(root, **{**SET, 'num_val': 7, 'size': 64})
    assert str(root) in str(error.value)
    assert 'num_val=6, size=96, but num_val=7, size=64 was asked for' in str(error.value)
    assert contents(root) == before


@pytest.mark.parametrize('meta', [None, 'not json', '[]', '{"format": "other"}'])
def test_foreign_folder_is_refused(tmp_path, meta):
    (tmp_path / 'thesis.tex').write_text('dear')
    if meta is not None:
        (tmp_path / 'meta.json').write_text(meta)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r'is no shapes set \(it holds .*thesis\.tex\): give'):
        write_shapes(tmp_path, **SET)
    assert contents(tmp_path) == before


def test_file_is_refused_and_empty_folder_is_filled(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='is no shapes set'):
        write_shapes(tmp_path / 'file', **SET)
    (tmp_path / 'empty').mkdir()
    write_shapes(tmp_path / 'empty', num_train=1, num_val=1, size=32)
    assert (tmp_path / 'empty' / 'meta.json').is_file()


@pytest.mark.parametrize('wrong', [dict(num_train=0), dict(size=16), dict(seed=-1), dict(seed=0.5)])
def test_parameters_out_of_range(tmp_path, wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f'{name} is {value}, but must be an integer >= '):
        write_shapes(tmp_path / 'shapes', **{**SET, **wrong})
    assert list(tmp_path.iterdir()) == []


# --- the three views


def view(name: str, root: Path, split: str, pipeline: list[dict], **kwargs):
    """Build a view from the outermost registry, as a runner of any scope does."""
    return DATASETS.build(
        dict(
            type=f'convnextv2_mm.{name}',
            data_root=str(root),
            split=split,
            pipeline=pipeline,
            **kwargs,
        )
    )


DET_PIPELINE = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.Resize', scale=(SET['size'], SET['size']), keep_ratio=True),
    dict(type='mmdet.PackDetInputs'),
]
SEG_PIPELINE = [
    dict(type='mmseg.LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.PackSegInputs'),
]
CLS_PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_views_agree_with_the_drawings(root, split):
    det = view('ShapesDetDataset', root, split, DET_PIPELINE, test_mode=True)
    seg = view('ShapesSegDataset', root, split, SEG_PIPELINE)
    cls = view('ShapesClsDataset', root, split, CLS_PIPELINE)
    bare = view('ShapesClsDataset', root, split, CLS_PIPELINE, with_label=False)
    assert len(det) == len(seg) == len(cls) == len(bare) == COUNTS[split]
    assert det.metainfo['classes'] == cls.metainfo['classes'] == CLASSES
    assert seg.metainfo['classes'] == SEG_CLASSES
    assert len(SEG_PALETTE) == len(set(SEG_PALETTE)) == len(SEG_CLASSES)

    def index_of(sample: dict) -> int:
        return int(Path(sample['data_samples'].img_path).stem.split('_')[1])

    by_index = {index_of(sample): sample for sample in seg}
    classes = {index_of(sample): sample for sample in cls}
    for sample in det:
        index = index_of(sample)
        drawing = draw(SET['seed'], split, index, SET['size'])
        instances = sample['data_samples'].gt_instances
        assert not len(sample['data_samples'].ignored_instances)
        assert instances.labels.tolist() == drawing.labels.tolist()
        assert np.array_equal(instances.masks.masks, drawing.masks)
        boxes = instances.masks.get_bboxes(dst_type='hbox').tensor
        assert np.array_equal(instances.bboxes.tensor, boxes)

        label_map = by_index[index]['data_samples'].gt_sem_seg.data[0].numpy()
        expected = np.einsum('nhw,n->hw', drawing.masks, drawing.labels + 1)
        assert np.array_equal(label_map, expected)

        largest = drawing.labels[drawing.masks.sum(axis=(1, 2)).argmax()]
        assert classes[index]['data_samples'].gt_label.item() == largest
        for other in (sample, by_index[index], classes[index]):
            image = other['inputs'].numpy()[::-1].transpose(1, 2, 0)  # BGR
            assert np.abs(image.astype(int) - drawing.image).mean() < 3


def test_image_folder_of_few_images_still_has_all_classes(tmp_path):
    make = dict(num_train=1, num_val=1, size=64)
    data = view('ShapesClsDataset', tmp_path / 'shapes', 'val', CLS_PIPELINE, make=make)
    assert len(data) == 1
    assert list(data.folder_to_idx) == list(CLASSES)


@pytest.mark.parametrize('name', ['ShapesDetDataset', 'ShapesSegDataset', 'ShapesClsDataset'])
def test_view_makes_the_set_on_first_use(root, tmp_path, name, monkeypatch):
    target = tmp_path / 'deep' / 'shapes'
    assert len(view(name, target, 'train', [], make=SET)) == COUNTS['train']
    assert contents(target) == contents(root)
    monkeypatch.setattr(shapes, 'draw', None)
    assert len(view(name, target, 'val', [], make=SET)) == COUNTS['val']


def test_view_refuses(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no shapes set: make it with .*make_shapes'):
        view('ShapesDetDataset', tmp_path / 'none', 'train', [])
    with pytest.raises(ValueError, match="split is 'test', but must be one of train, val"):
        view('ShapesSegDataset', root, 'test', [])
    with pytest.raises(ValueError, match='seed=3, but seed=8 was asked for'):
        view('ShapesClsDataset', root, 'train', [], make={**SET, 'seed': 8})


def test_folder_can_be_moved(root, tmp_path):
    moved = Path(shutil.copytree(root, tmp_path / 'moved'))
    write_shapes(moved, **SET)
    meta = json.loads((moved / 'meta.json').read_text())
    assert {name: meta[name] for name in SET} == SET
