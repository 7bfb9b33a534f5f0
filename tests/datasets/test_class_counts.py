"""Counts of classes in every kind of data set, however it is wrapped, against plain counting."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bad_files import HEIGHT, WIDTH, annotation, coco, picture, write_json
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from convnextv2_mm.datasets import ShapesClsDataset, ShapesDetDataset, ShapesSegDataset
from convnextv2_mm.datasets.class_counts import (
    count_classes,
    inner_datasets,
    listed,
    report_classes,
)
from convnextv2_mm.datasets.shapes.drawing import CLASSES, write_shapes

pytestmark = pytest.mark.long

LOAD = [dict(type='convnextv2_mm.LoadImageFromFile'), dict(type='convnextv2_mm.LoadAnnotations')]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('shapes') / 'data'
    write_shapes(root, num_train=12, num_val=2, size=64)
    return root


def counted(dataset, **options):
    return count_classes(list(inner_datasets(dataset)), **options)


def test_objects(shapes):
    content = json.loads((shapes / 'annotations/instances_train.json').read_text())
    pairs = [(a['category_id'] - 1, a['image_id']) for a in content['annotations']]
    counts = counted(ShapesDetDataset(str(shapes)))
    assert counts.unit == 'objects'
    assert counts.amounts == Counter(label for label, _ in pairs)
    assert counts.images == Counter(label for label, _ in set(pairs))
    assert (counts.samples, counts.ignored, list(counts.classes)) == (12, 0, list(CLASSES))


def test_pixels(shapes):
    maps = [np.asarray(Image.open(path)) for path in (shapes / 'masks/train').rglob('*.png')]
    counts = counted(ShapesSegDataset(str(shapes), pipeline=LOAD))
    assert counts.unit == 'pixels'
    for label in range(7):  # the files count from 1
        assert counts.amounts[label] == sum((values == label + 1).sum() for values in maps)
        assert counts.images[label] == sum((values == label + 1).any() for values in maps)
        assert counts.values[label + 1] == counts.amounts[label]
    assert (counts.samples, counts.ignored) == (12, 0)


def test_images(shapes):
    counts = counted(ShapesClsDataset(str(shapes)))
    for label, name in enumerate(CLASSES):
        number = len(list((shapes / 'images/train' / name).iterdir()))
        assert counts.amounts[label] == counts.images[label] == number
    assert counts.unit == 'images'


def test_without_labels_there_is_nothing_to_say(shapes):
    data = ShapesClsDataset(str(shapes), with_label=False)
    assert report_classes(list(inner_datasets(data))) == ('', False)


@pytest.mark.parametrize('task', ['Det', 'Seg', 'Cls'])
def test_wrapped_data_sets_are_counted_once(task, shapes):
    init_default_scope('mmengine')
    part = dict(type=f'convnextv2_mm.Shapes{task}Dataset', data_root=str(shapes))
    part |= dict(pipeline=LOAD) if task == 'Seg' else {}
    other = part | dict(split='val')
    plain, val = (counted(DATASETS.build(p)) for p in (part, other))
    times = DATASETS.build(dict(type='RepeatDataset', times=5, dataset=part))
    assert counted(times) == plain
    joined = DATASETS.build(dict(type='ConcatDataset', datasets=[part, other]))
    plain.add(val)
    assert counted(joined) == plain
    assert plain.samples == 14


def test_class_balanced_data_sets_are_counted_once(shapes):
    part = dict(type='convnextv2_mm.ShapesClsDataset', data_root=str(shapes))
    balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=part))
    assert len(balanced) > 12
    assert counted(balanced) == counted(DATASETS.build(part))


def test_a_part_of_a_data_set_is_counted_as_that(shapes):
    counts = counted(ShapesClsDataset(str(shapes), indices=5))
    assert counts.amounts.total() == 5


def test_label_maps_that_are_looked_at_are_spread_evenly(shapes):
    part = ShapesSegDataset(str(shapes), pipeline=LOAD)
    seen = []
    read = part.get_data_info
    part.get_data_info = lambda index: seen.append(index) or read(index)
    assert count_classes([part], max_maps=4).samples == 4
    assert seen == [0, 3, 6, 9]


def test_stock_data_sets_are_counted_too(shapes):
    part = dict(type='mmdet.CocoDataset', ann_file=f'{shapes}/annotations/instances_train.json')
    part |= dict(metainfo=dict(classes=CLASSES), data_prefix=dict(img=''))
    ours = counted(ShapesDetDataset(str(shapes)))
    assert counted(DATASETS.build(part)) == ours


def test_crowds_are_no_objects_and_absent_classes_are_named(tmp_path):
    picture().save(tmp_path / 'x.jpg')
    boxes = [annotation(1, 0), annotation(2, 0, iscrowd=1, category_id=2)]
    write_json(tmp_path / 'x.json', coco([('x.jpg', HEIGHT, WIDTH)], boxes))
    part = dict(type='convnextv2_mm.CocoDataset', ann_file=f'{tmp_path}/x.json')
    part |= dict(data_prefix=dict(img=f'{tmp_path}'))
    data = DATASETS.build(part)
    counts = counted(data)
    assert (counts.amounts, counts.ignored, counts.ignored_share) == (Counter([0]), 1, 0.5)
    sentence, warns = report_classes([data])
    assert warns
    assert sentence == (
        '79 of 80 classes have no object in all 1 images of the training set: bicycle, car, '
        'motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant and 69 more'
    )


def test_classes_with_an_empty_folder_are_named(tmp_path):
    for name in ('cat', 'dog', 'eel'):
        (tmp_path / name).mkdir()
    picture().save(tmp_path / 'dog/x.jpg')
    data = dict(type='convnextv2_mm.CustomDataset', data_prefix=str(tmp_path))
    sentence, warns = report_classes([DATASETS.build(data)])
    assert warns
    assert sentence == (
        '2 of 3 classes have no image in all 1 images of the training set: cat, eel'
    )


def test_names_in_a_sentence():
    assert listed('abc') == 'a, b, c'
    assert listed(range(1012)).endswith('8, 9 and 1,002 more')
