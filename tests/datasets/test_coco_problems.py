"""What is found in COCO annotations, against pycocotools where it can be asked."""

import numpy as np
import pytest
from bad_files import BAD_ANNOTATIONS, HEIGHT, WIDTH, annotation, coco
from pycocotools import mask as coco_mask

from convnextv2_mm.datasets.coco_problems import _decompress, find_coco_problems
from convnextv2_mm.datasets.coco_values import normalize_values

IMAGE = ('x.jpg', HEIGHT, WIDTH)


@pytest.mark.parametrize('name', BAD_ANNOTATIONS)
def test_kinds(name):
    changes, kind = BAD_ANNOTATIONS[name]
    content = coco([IMAGE], [annotation(1, 0), annotation(2, 0, **changes)])
    found = list(find_coco_problems(content, polygons_only=True))
    assert [problem.kind for problem in found] == [kind] * bool(kind)
    for problem in found:
        assert problem.annotation == 2
        assert problem.sentence.startswith('annotation 2')
        assert ('of x.jpg' in problem.sentence) == (name != 'unknown image')
        assert len(problem.sentence) < 250


def test_boxes_alone_need_no_masks():
    content = coco([IMAGE], [annotation(1, 0, segmentation=None), annotation(2, 0, area=0)])
    assert [p.annotation for p in find_coco_problems(content, masks=False)] == [2]


def remove(part, field):
    def change(content):
        del content[part][0][field]

    return change


def set_to(part, field, value):
    def change(content):
        content[part][0][field] = value

    return change


def repeat(part):
    def change(content):
        content[part].append(content[part][0])

    return change


STRUCTURE = [
    (remove('images', 'id'), 'image at position 0 has no id'),
    (remove('images', 'height'), 'image 0 has no height'),
    (remove('images', 'file_name'), 'image 0 has no file_name'),
    (remove('annotations', 'image_id'), 'annotation 1 has no image_id'),
    (remove('annotations', 'bbox'), 'annotation 1 has no bbox'),
    (remove('categories', 'name'), 'category 1 has no name'),
    (set_to('images', 'width', 0), 'image 0 has width 0'),
    (set_to('images', 'height', 1e9), 'image 0 has height 1000000000.0'),
    (set_to('images', 'file_name', ['x.jpg']), "image 0 has file_name ['x.jpg']"),
    (set_to('annotations', 'id', []), 'annotation [] has id []'),
    (set_to('annotations', 'category_id', {}), 'annotation 1 has category_id {}'),
    (set_to('annotations', 'area', 'large'), "annotation 1 has area 'large'"),
    (repeat('images'), 'image 0 is there twice'),
    (repeat('annotations'), 'annotation 1 is there twice'),
    (repeat('categories'), 'category 1 is there twice'),
    (lambda content: content.pop('images'), 'it is not a COCO file: it has no list of images'),
    (lambda content: content['annotations'].append(7), 'annotation at position 1 has no id'),
]


@pytest.mark.parametrize(('change', 'sentence'), STRUCTURE, ids=[s for _, s in STRUCTURE])
def test_structure(change, sentence):
    content = coco([IMAGE], [annotation(1, 0)])
    change(content)
    found = list(find_coco_problems(content))
    assert [problem.sentence for problem in found] == [sentence]
    assert found[0].kind == ('duplicate id' if 'twice' in sentence else 'structure')


def test_other_json_and_a_secret_test_set():
    assert [p.kind for p in find_coco_problems([1, 2])] == ['structure']
    content = coco([IMAGE], [])
    del content['annotations']
    normalize_values(content)
    assert not list(find_coco_problems(content))


def test_classes_that_are_not_there():
    content = coco([IMAGE], [annotation(1, 0)])
    assert not list(find_coco_problems(content, classes=['person', 'dog']))
    (found,) = find_coco_problems(content, classes=['person', 'dogs', 'cats'])
    assert found.kind == 'classes'
    assert "2 of 3 classes are not among its categories, such as 'dogs'" in found.sentence


def test_compressed_run_lengths_are_read_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 5), (64, 97), (500, 500)):
        for density in (0.0, 0.01, 0.5, 1.0):
            mask = np.asfortranarray(rng.random((height, width)) < density)
            text = coco_mask.encode(mask)['counts'].decode()
            flat = np.concatenate([[False], mask.ravel(order='F')])
            starts = np.flatnonzero(flat[1:] != flat[:-1])
            expected = np.diff(starts, prepend=0, append=mask.size).tolist()
            assert _decompress(text) == expected
            run_lengths = dict(size=[height, width], counts=text)
            box = dict(bbox=[0, 0, width, height], area=1)
            content = coco([('x', height, width)], [annotation(1, 0, segmentation=run_lengths)])
            content['annotations'][0] |= box
            kinds = [p.kind for p in find_coco_problems(content)]
            assert kinds == ([] if mask.any() else ['empty mask'])
