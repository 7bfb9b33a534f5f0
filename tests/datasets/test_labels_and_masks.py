"""COCO files as other tools write them: each is trained and scored as it is meant, or refused.

Where a case has a plain meaning, the same file as COCO would write it is the oracle; the scores are
those of pycocotools.
"""

import copy
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import HEIGHT, RUN, WIDTH, picture, write_json
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, init_default_scope
from pycocotools import mask as coco_mask

from convnextv2_mm.datasets import dataset_findings
from convnextv2_mm.datasets.coco_problems import EFFECTS, STOPS
from convnextv2_mm.engine.config.coco import (
    check_mask_transforms,
    check_tta,
    scores_masks,
    swap_coco_metric,
)
from convnextv2_mm.engine.config.reading import check_data, read_config
from convnextv2_mm.errors import BadData

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
DETECTION = ROOT / 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'
CASCADE = ROOT / 'configs/detection/cascade-mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
SMALL_BUDGET = ROOT / 'configs/detection/mask-rcnn_convnextv2-a_fpn_ms-1x-fcmae_coco.py'
DEMO = ROOT / 'configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py'
CLASSES = ('cat', 'dog', 'owl')
NAN = float('nan')


def outline(left: float, top: float, width: float, height: float) -> list[float]:
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom]


def good() -> dict:
    """Two images with two objects of each class, as COCO would write it."""
    boxes = [(20.0, 10.0, 60.0, 40.0), (5.0, 60.0, 30.0, 20.0), (90.0, 50.0, 20.0, 40.0)]
    annotations = [
        dict(
            id=1 + 3 * image + place,
            image_id=1 + image,
            category_id=1 + place,
            bbox=list(box),
            area=box[2] * box[3],
            iscrowd=0,
            segmentation=[outline(*box)],
        )
        for image in (0, 1)
        for place, box in enumerate(boxes)
    ]
    return dict(
        images=[dict(id=1 + i, file_name=f'{i}.jpg', height=HEIGHT, width=WIDTH) for i in (0, 1)],
        annotations=annotations,
        categories=[dict(id=1 + i, name=name) for i, name in enumerate(CLASSES)],
    )


@cache
def parsed(path: Path) -> Config:
    return read_config(str(path))


def real_config(path: Path = DETECTION) -> Config:
    config = copy.deepcopy(parsed(path))
    init_default_scope('mmdet')
    return config


def write(folder: Path, content: dict) -> Path:
    (folder / 'images').mkdir(exist_ok=True)
    for name in ('0.jpg', '1.jpg'):
        picture().save(folder / 'images' / name)
    return write_json(folder / 'x.json', content)


def part(folder: Path, split: str = 'train', **changes) -> ConfigDict:
    """Config of the shipped recipe's data set on what ``write`` wrote."""
    cfg = real_config()[f'{split}_dataloader'].dataset
    place = dict(data_root=str(folder), ann_file='x.json', data_prefix=dict(img='images'))
    cfg.update(place | dict(metainfo=dict(classes=CLASSES)) | changes)
    return cfg


def build(folder: Path, content: dict, split: str = 'train', **changes):
    write(folder, content)
    return DATASETS.build(part(folder, split, **changes))


def labels(dataset) -> list[list[str]]:
    """Names of the classes of all objects."""
    names = dataset.metainfo['classes']
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [[names[entry['bbox_label']] for entry in info['instances']] for info in infos]


def score(
    folder: Path,
    content: dict,
    found: tuple[str, ...] = CLASSES,
    shift: float = 0.0,
    kind: str = 'convnextv2_mm.CocoMetric',
    **options,
) -> dict[str, float]:
    """Scores of predicting the objects of ``good()`` of some classes on the annotations.

    Args:
        folder: Where to write.
        content: The annotations to score on.
        found: Classes whose objects are predicted; the labels are places in ``CLASSES``.
        shift: Pixels by which the predictions are too far to the right.
        kind: The metric.
        options: Of the metric.
    """
    path = write(folder, content)
    init_default_scope('mmdet')
    options = dict(metric=['bbox', 'segm']) | options
    metric = METRICS.build(dict(type=kind, ann_file=str(path), **options))
    metric.dataset_meta = dict(classes=CLASSES)
    dataset = DATASETS.build(part(folder, 'val'))
    for index in range(len(dataset)):
        boxes, indices, masks = [], [], []
        for annotation in good()['annotations'][3 * index : 3 * index + 3]:
            name = CLASSES[annotation['category_id'] - 1]
            if name in found:
                left, top, width, height = annotation['bbox']
                boxes.append([left + shift, top, left + shift + width, top + height])
                indices.append(CLASSES.index(name))
                part_of = [outline(left + shift, top, width, height)]
                masks.append(coco_mask.decode(coco_mask.frPyObjects(part_of, HEIGHT, WIDTH)))
        found_here = dict(
            bboxes=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.linspace(0.9, 0.5, len(boxes)),
            labels=torch.tensor(indices, dtype=torch.int64),
            masks=torch.from_numpy(np.stack(masks)[..., 0]),
        )
        number = dataset.get_data_info(index)['img_id']
        sample = dict(img_id=number, ori_shape=(HEIGHT, WIDTH), pred_instances=found_here)
        metric.process({}, [sample])
    return metric.evaluate(len(dataset))


@pytest.fixture
def log(tmp_path):
    """Gives the log so far."""
    logger = MMLogger.get_instance(str(tmp_path), log_file=str(tmp_path / 'log'))
    yield (tmp_path / 'log').read_text
    MMLogger._instance_dict.pop(logger.instance_name)


# --- Polygons of whole numbers ---


def small_objects(number: type) -> dict:
    """Many objects of 4 to 16 pixels with corners at whole numbers, which are of a type."""
    generator = np.random.default_rng(0)
    content = good() | dict(annotations=[])
    for image in (1, 2):
        for _ in range(40):
            width, height = generator.integers(4, 17, 2).tolist()
            left = int(generator.integers(0, WIDTH - width))
            top = int(generator.integers(0, HEIGHT - height))
            entry = dict(id=1 + len(content['annotations']), image_id=image, category_id=1)
            entry |= dict(bbox=[left, top, width, height], area=width * height, iscrowd=0)
            corners = [number(value) for value in outline(left, top, width, height)]
            content['annotations'].append(entry | dict(segmentation=[corners]))
    return content


def boxes_after_jitter(folder: Path, content: dict, poly2mask: bool, kind: str) -> np.ndarray:
    folder.mkdir()
    write(folder, content)
    cfg = part(folder, type=kind)
    cfg.pipeline[1].poly2mask = poly2mask
    if not kind.startswith('convnextv2_mm'):
        del cfg['skip_bad_data']
    dataset = DATASETS.build(cfg)
    np.random.seed(0)
    samples = [dataset[i % 2]['data_samples'] for i in range(2 if poly2mask else 8)]
    return torch.cat([sample.gt_instances.bboxes.tensor for sample in samples]).numpy()


@pytest.mark.parametrize('poly2mask', [False, True])
def test_polygons_of_whole_numbers_are_cut_as_those_of_floats(poly2mask, tmp_path):
    own = 'convnextv2_mm.CocoDataset'
    # MMDetection's data set on floats is the oracle.
    right = boxes_after_jitter(tmp_path / 'a', small_objects(float), poly2mask, 'CocoDataset')
    boxes = boxes_after_jitter(tmp_path / 'b', small_objects(int), poly2mask, own)
    np.testing.assert_array_equal(boxes, right)
    if not poly2mask:
        wrong = boxes_after_jitter(tmp_path / 'c', small_objects(int), False, 'CocoDataset')
        assert wrong.shape != right.shape or np.abs(wrong - right).max() > 0.9


# --- Categories by name ---


def in_another_order() -> dict:
    """The content of ``good`` with the categories listed in another order, under other ids."""
    content = good()
    numbers = {1: 30, 2: 20, 3: 10}
    for annotation in content['annotations']:
        annotation['category_id'] = numbers[annotation['category_id']]
    content['categories'] = [dict(id=20, name='dog'), dict(id=30, name='cat')]
    content['categories'].append(dict(id=10, name='owl'))
    return content


def test_labels_go_by_name_in_training_and_pictures(tmp_path):
    right = labels(build(tmp_path, good()))
    assert right == [list(CLASSES)] * 2
    assert labels(build(tmp_path, in_another_order())) == right
    turned = dict(metainfo=dict(classes=tuple(reversed(CLASSES))))
    assert labels(build(tmp_path, good(), **turned)) == right
    stock = part(tmp_path, type='CocoDataset', **turned)
    del stock['skip_bad_data']
    assert labels(DATASETS.build(stock)) == [list(reversed(CLASSES))] * 2  # what this is about


def test_labels_go_by_name_in_evaluation(tmp_path):
    options = dict(classwise=True)
    right = score(tmp_path, good(), found=('cat', 'owl'), **options)
    assert right['coco/cat_precision'] == right['coco/owl_precision'] == 1
    assert right['coco/dog_precision'] == 0
    assert 0.6 < right['coco/bbox_mAP'] == right['coco/segm_mAP'] < 0.7
    assert score(tmp_path, in_another_order(), found=('cat', 'owl'), **options) == right
    stock = dict(kind='mmdet.CocoMetric', **options)
    assert score(tmp_path, good(), found=('cat', 'owl'), **stock) == right


def test_a_validation_file_may_have_another_order_than_the_training_file(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    train = build(tmp_path / 'a', in_another_order())
    val = build(tmp_path / 'b', good(), 'val')
    assert labels(train) == labels(val)


def test_stock_metric_is_replaced_where_it_scores_our_data(capsys):
    for name in ('CocoMetric', 'mmdet.CocoMetric'):
        config = real_config()
        config.val_evaluator = [ConfigDict(type=name, metric='bbox'), ConfigDict(type='VOCMetric')]
        inner = ConfigDict(type=name)
        config.test_evaluator = ConfigDict(type='Evaluator', metrics=[inner])
        swap_coco_metric(config)
        assert [m.type for m in config.val_evaluator] == ['convnextv2_mm.CocoMetric', 'VOCMetric']
        assert config.test_evaluator.metrics[0].type == 'convnextv2_mm.CocoMetric'
        said = 'val_evaluator and test_evaluator: convnextv2_mm.CocoMetric instead of CocoMetric'
        assert said in capsys.readouterr().err
    # MMDetection's data set goes by the order of the file, and so must its metric.
    config = real_config()
    config.val_dataloader.dataset = ConfigDict(
        type='RepeatDataset', times=1, dataset=ConfigDict(type='CocoDataset')
    )
    with pytest.raises(ValueError, match='val_evaluator convnextv2_mm.CocoMetric is not allowed'):
        swap_coco_metric(config)
    config.val_evaluator.type = 'CocoMetric'
    swap_coco_metric(config)
    assert config.val_evaluator.type == 'CocoMetric'


@pytest.mark.parametrize('path', [DETECTION, CASCADE, SMALL_BUDGET, DEMO])
def test_shipped_recipes_score_by_name(path):
    config = real_config(path)
    for metric in (config.val_evaluator, config.test_evaluator):
        assert metric.type == 'convnextv2_mm.CocoMetric'
        assert metric.metric == ['bbox', 'segm']
    assert scores_masks(config, 'val')


@pytest.mark.parametrize('kind', ['CocoDataset', 'convnextv2_mm.CocoDataset'])
def test_check_dataset_names_labels_that_stock_data_sets_permute(kind, tmp_path):
    dataset = DATASETS.build({**part(tmp_path, 'val', type=kind), 'lazy_init': True})
    assert not list(dataset_findings.coco_findings(dataset, good(), True))
    findings = list(dataset_findings.coco_findings(dataset, in_another_order(), True))
    if kind == 'CocoDataset':
        (finding,) = findings
        assert "x.json: category 'dog' gets the label of 'cat', since MMDet" in finding.sentence
    else:
        assert not findings


def twin_category(objects: bool) -> dict:
    """Two categories named dog, the first one with objects if told."""
    content = good()
    content['categories'].insert(0, dict(id=0, name='dog', supercategory='none'))
    if objects:
        content['annotations'][0]['category_id'] = 0
    return content


def test_of_two_categories_of_one_name_the_one_with_objects_is_used(tmp_path, log):
    right = labels(build(tmp_path, good()))
    assert labels(build(tmp_path, twin_category(False))) == right
    said = "x.json: categories 0 and 2 have the name 'dog', of which 2 alone has objects"
    assert said in log()
    options = dict(found=('dog',), classwise=True)
    assert score(tmp_path, twin_category(False), **options) == score(tmp_path, good(), **options)


# --- Values of single annotations ---


def changed(**changes) -> dict:
    """The content of ``good`` with changes of each annotation; a function is given the old value,
    and where it gives ... the field is taken away."""
    content = good()
    for annotation in content['annotations']:
        for key, change in changes.items():
            annotation[key] = change(annotation.get(key))
            if annotation[key] is ...:
                del annotation[key]
    return content


def renumbered(kind: type) -> dict:
    """All ids and sizes of another type."""
    content = changed(id=kind, image_id=kind, category_id=kind)
    for entry in content['images']:
        entry.update(id=kind(entry['id']), height=kind(HEIGHT), width=kind(WIDTH))
    for entry in content['categories']:
        entry['id'] = kind(entry['id'])
    return content


def named_ids() -> dict:
    content = changed(image_id=lambda i: f'image {i}', category_id=lambda i: f'kind {4 - i}')
    for entry in content['images']:
        entry['id'] = f'image {entry["id"]}'
    for entry in content['categories']:
        entry['id'] = f'kind {4 - entry["id"]}'
    return content


def padded_ids() -> dict:
    content = changed(image_id=lambda i: f'{i + 8:02}')
    for entry in content['images']:
        entry['id'] = f'{entry["id"] + 8:02}'
    return content


def mixed_types() -> dict:
    """Text where entries have numbers, and numbers where they have text."""
    content = changed(image_id=str)
    for entry in content['categories']:
        entry['id'] = str(entry['id'])
    return content


def negative_ids() -> dict:
    content = changed(category_id=lambda i: i - 3, image_id=lambda i: -i)
    for entry in content['categories']:
        entry['id'] -= 3
    for entry in content['images']:
        entry['id'] *= -1
    return content


def with_unused_category() -> dict:
    """As Roboflow writes it: the first category is the name of all."""
    content = good()
    content['categories'].insert(0, dict(id=0, name='animals', supercategory='none'))
    return content


# Files that mean what ``good`` means.
PLAIN = {
    'iscrowd missing': changed(iscrowd=lambda _: ...),
    'iscrowd false': changed(iscrowd=lambda _: False),
    'iscrowd 0.0': changed(iscrowd=float),
    'annotation ids from 0': changed(id=lambda i: i - 1),
    'ids and sizes of floats': renumbered(float),
    'ids and sizes of text': renumbered(str),
    'some ids of text': mixed_types(),
    'names for ids': named_ids(),
    'numbers of two digits': padded_ids(),
    'negative ids': negative_ids(),
    'an unused category': with_unused_category(),
    'no area': changed(area=lambda _: ...),
    'area of null': changed(area=lambda _: None),
    'whole numbers': changed(
        segmentation=lambda parts: [[int(v) for v in parts[0]]],
        bbox=lambda box: [int(v) for v in box],
    ),
    'a flat list': changed(segmentation=lambda parts: parts[0]),
    'closed twice': changed(segmentation=lambda parts: [parts[0] + 2 * parts[0][:2]]),
}


@pytest.fixture(scope='module')
def right_scores(tmp_path_factory):
    """Of boxes whose IoUs are between 0.6 and 0.9, so that thresholds and sizes matter."""
    scores = score(tmp_path_factory.mktemp('right'), good(), shift=4.0, classwise=True)
    assert 0.2 < scores['coco/bbox_mAP'] < 0.8
    return scores


@pytest.mark.parametrize('name', PLAIN)
def test_files_of_plain_meaning_train_and_score_as_coco_would_write_them(
    name, tmp_path, right_scores
):
    content = copy.deepcopy(PLAIN[name])
    data, right = build(tmp_path, content), build(tmp_path, good())
    assert labels(data) == labels(right)
    for index in range(2):
        ours, theirs = data.get_data_info(index), right.get_data_info(index)
        assert (ours['height'], ours['width']) == (HEIGHT, WIDTH)
        for found, expected in zip(ours['instances'], theirs['instances'], strict=True):
            assert found['bbox'] == expected['bbox']
            assert found['ignore_flag'] == 0
            if name != 'closed twice':
                assert found['mask'] == expected['mask']
                assert all(type(value) is float for value in found['mask'][0])
        np.random.seed(index)
        ours = data[index]['data_samples'].gt_instances
        np.random.seed(index)
        theirs = right[index]['data_samples'].gt_instances
        assert torch.equal(ours.bboxes.tensor, theirs.bboxes.tensor)
    assert score(tmp_path, copy.deepcopy(PLAIN[name]), shift=4.0, classwise=True) == right_scores


def test_other_values_stay_as_they_are():
    from convnextv2_mm.datasets.coco_values import normalize_values

    for value in ('a', '٣', '1_000', ' 3', '--3', '', 3.5, NAN, float('inf'), None, [], {}, True):
        entry = dict(id=1, height=value, width=1)
        normalize_values(dict(images=[entry]))
        assert entry['height'] is value
    for content in ([], 'x', None, dict(images=7, annotations=[1, None, 'x'], categories={})):
        normalize_values(content)
    for mask in ('x', 7, [[]], [['20'] * 6], [[None] * 6], [[10**400] * 6], [{}], [[[1, 2]]]):
        annotation = dict(segmentation=mask)
        normalize_values(dict(annotations=[annotation]))
        assert annotation['segmentation'] == mask


def test_an_annotation_with_id_0_is_found_as_others_are(tmp_path):
    content = changed(id=lambda i: i - 1)
    assert score(tmp_path, content)['coco/bbox_mAP'] == 1
    stock = score(tmp_path, content, kind='mmdet.CocoMetric')
    assert stock['coco/bbox_mAP'] < 1  # what this is about


def test_area_is_that_of_the_mask_as_pycocotools_counts_it(tmp_path):
    from convnextv2_mm.datasets.coco_api import CheckedCOCO

    content = changed(area=lambda _: ...)
    triangle, tiny = [20.0, 10.0, 80.0, 10.0, 20.0, 50.0], [5.1, 60.1, 5.3, 60.1, 5.3, 60.3]
    content['annotations'][0]['segmentation'] = [triangle]
    content['annotations'][1]['segmentation'] = RUN
    content['annotations'][2]['segmentation'] = [tiny]
    del content['annotations'][3]['segmentation']
    api = CheckedCOCO(str(write(tmp_path, content)), masks=False)
    areas = [annotation['area'] for annotation in api.dataset['annotations']]
    drawn = coco_mask.decode(coco_mask.frPyObjects([triangle], HEIGHT, WIDTH))
    assert areas[:2] == [drawn.sum(), RUN['counts'][1]]
    assert areas[2:4] == [20 * 40, 60 * 40]  # no pixel, and no mask: of the box


def test_annotations_of_null_are_a_test_set(tmp_path):
    for change in (dict(annotations=None), {}):
        content = good()
        del content['annotations']
        data = build(tmp_path, content | change, 'val')
        assert labels(data) == [[], []]
        with pytest.raises(BadData, match=r'no image to use is in .*x.json'):
            build(tmp_path, content | change)


# --- What stops ---


def all_objects(**changes) -> dict:
    return changed(**{key: lambda _, value=value: value for key, value in changes.items()})


def first_object(**changes) -> dict:
    content = good()
    content['annotations'][0] |= changes
    return content


def twice_the_first_file() -> dict:
    content = good()
    content['images'][1]['file_name'] = '0.jpg'
    return content


def some_text_ids() -> dict:
    content = good()
    content['images'][0]['id'] = 'first'
    return content


def without_size() -> dict:
    content = good()
    del content['images'][0]['width']
    return content


def of_other_classes() -> dict:
    content = good()
    content['categories'].append(dict(id=4, name='fox'))
    content['annotations'].append(content['annotations'][0] | dict(id=99, category_id=4))
    return content


BIG = [[1e9, *outline(20, 10, 60, 40)[1:]]]
# Content, the kind of the problem, and what is said of it.
PROBLEMS = {
    'two names': (
        twin_category(True),
        'same name',
        "categories 0 and 2 have the name 'dog', and 1 and 2 objects: give them one id, or two",
    ),
    'null for crowd': (first_object(iscrowd=None), 'crowd', 'iscrowd None is neither 0 nor 1'),
    'text for crowd': (first_object(iscrowd='0'), 'crowd', "iscrowd '0' is neither 0 nor 1"),
    'only crowds': (
        all_objects(iscrowd=1),
        'only crowds',
        'all 6 objects are crowd regions, .*: set their iscrowd to 0',
    ),
    'no masks': (
        changed(segmentation=lambda _: ...),
        'no masks',
        'none of 6 objects has a mask: use a model without mask head, with_mask=False',
    ),
    'empty masks': (all_objects(segmentation=[]), 'no masks', 'none of 6 objects has a mask'),
    'mixed ids': (
        some_text_ids(),
        'structure',
        "some ids of its images are numbers and some are text, such as 'first'",
    ),
    'no width': (without_size(), 'structure', 'image 1 has no width'),
    'polygon of NaN': (
        first_object(segmentation=[[NAN, *outline(20, 10, 60, 40)[1:]]]),
        'polygon',
        'annotation 1 of 0.jpg: its polygon .*nan.* is not three or more points in pixels',
    ),
    'polygon of 1e9': (
        first_object(segmentation=BIG),
        'polygon',
        'annotation 1 of 0.jpg: its polygon .*1000000000.0.* is not three or more points',
    ),
    'box of text': (
        first_object(bbox=['20', '10', '60', '40']),
        'box',
        'annotation 1 of 0.jpg: its box .* is not four numbers of pixels',
    ),
    'same file': (
        twice_the_first_file(),
        'same file',
        '1 files are there more than once, such as 0.jpg: each entry has the objects of its own',
    ),
    'other classes': (
        of_other_classes(),
        'no class',
        "1 objects of 1 categories outside of metainfo.classes, such as 'fox', count as background",
    ),
    'empty category': (
        twin_category(False),
        'empty category',
        "categories 0 and 2 have the name 'dog', of which 2 alone has objects and is taken",
    ),
}


@pytest.mark.parametrize('name', PROBLEMS)
def test_training_and_check_dataset_say_the_same(name, tmp_path, log):
    content, kind, said = copy.deepcopy(PROBLEMS[name])
    write(tmp_path, content)
    effect = EFFECTS[kind][0]
    if effect == STOPS:
        with pytest.raises(BadData, match=said):
            DATASETS.build(part(tmp_path))
    else:
        DATASETS.build(part(tmp_path))
        (line,) = [line for line in log().splitlines() if 'x.json' in line]
        assert f'{kind}: 1' in line or 'are left out' not in line
    assert found_by_check_dataset(tmp_path, 'train', kind, said) == effect


@pytest.mark.parametrize('name', PROBLEMS)
def test_evaluation_and_check_dataset_say_the_same(name, tmp_path, log):
    content, kind, said = copy.deepcopy(PROBLEMS[name])
    cfg = part(tmp_path, 'val')
    # As in the demo: what the pipeline does not load is scored all the same.
    cfg.pipeline = [step for step in cfg.pipeline if 'LoadAnnotations' not in step.type]
    path = write(tmp_path, content)
    metric = METRICS.build(
        dict(type='convnextv2_mm.CocoMetric', ann_file=str(path), metric=['bbox', 'segm'])
    )
    effect = EFFECTS[kind][1]
    if effect == STOPS:
        with pytest.raises(BadData, match=said):
            metric.dataset_meta = dict(classes=CLASSES)
    else:
        metric.dataset_meta = dict(classes=CLASSES)
        assert metric._coco_api.dataset['annotations']
        assert 'x.json: ' in log()
    assert found_by_check_dataset(tmp_path, 'val', kind, said, cfg) == effect


def found_by_check_dataset(
    folder: Path, split: str, kind: str, said: str, cfg: ConfigDict | None = None
) -> str:
    """What the tool says that a run does with the one problem there is."""
    dataset = DATASETS.build({**(cfg or part(folder, split)), 'lazy_init': True})
    content = json.loads((folder / 'x.json').read_text())
    findings = list(dataset_findings.coco_findings(dataset, content, split == 'val'))
    (finding,) = [finding for finding in findings if finding.kind == kind]
    assert re.search(said, finding.sentence)
    assert not [f for f in findings if f.effect == STOPS and f.kind != kind]
    return finding.effect


def test_every_mask_of_run_lengths_needs_bitmaps(tmp_path):
    content = all_objects(segmentation=RUN)
    said = 'the masks of all 6 objects are run lengths, .*: set poly2mask=True in LoadAnnotations'
    with pytest.raises(BadData, match=said):
        build(tmp_path, content)
    cfg = part(tmp_path)
    assert found_by_check_dataset(tmp_path, 'train', 'no polygons', said, cfg) == STOPS
    cfg.pipeline[1].poly2mask = True
    data = DATASETS.build(cfg)
    assert labels(data) == [list(CLASSES)] * 2
    assert len(data[0]['data_samples'].gt_instances.masks)
    assert score(tmp_path, content)['coco/segm_mAP'] >= 0  # a polygon is no need of the metric


def test_boxes_without_masks_are_enough_without_a_mask_head(tmp_path):
    content = changed(segmentation=lambda _: ...)
    write(tmp_path, content)
    cfg = part(tmp_path)
    cfg.pipeline[1].with_mask = False
    assert labels(DATASETS.build(cfg)) == [list(CLASSES)] * 2
    metric = dict(type='convnextv2_mm.CocoMetric', ann_file=str(tmp_path / 'x.json'), metric='bbox')
    METRICS.build(metric).dataset_meta = dict(classes=CLASSES)


def test_an_evaluator_with_another_file_than_its_data_set_ends_the_run(tmp_path):
    metric = METRICS.build(
        dict(type='convnextv2_mm.CocoMetric', ann_file=str(write(tmp_path, good())))
    )
    metric.dataset_meta = dict(classes=CLASSES)
    for number, shape in ((7, (HEIGHT, WIDTH)), (1, (WIDTH, HEIGHT))):
        sample = dict(img_id=number, ori_shape=shape, pred_instances={})
        with pytest.raises(BadData, match=f'x.json has no image {number} of height and width'):
            metric.process({}, [sample])


# --- Transforms and test-time augmentation ---


@pytest.mark.parametrize('name', ['MixUp', 'Mosaic', 'CopyPaste', 'RandomErasing', 'RandomShift'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_transforms_that_part_boxes_from_masks_are_refused(name, wrapped):
    loader = real_config().train_dataloader
    step = ConfigDict(type=f'mmdet.{name}')
    if wrapped:
        outer = [ConfigDict(type='RandomApply', transforms=[step])]
        loader.dataset = ConfigDict(
            type='MultiImageMixDataset', dataset=loader.dataset, pipeline=outer
        )
    else:
        loader.dataset.pipeline.insert(2, step)
    with pytest.raises(ValueError, match=f'{name} is not allowed after LoadAnnotations with '):
        check_mask_transforms(loader.dataset)
    with pytest.raises(ValueError, match=f'{name} is not allowed'):
        check_data(loader)
    inner = loader.dataset.dataset if wrapped else loader.dataset
    if name in ('CopyPaste', 'RandomErasing'):
        inner.pipeline[1].poly2mask = True
    else:
        inner.pipeline[1].with_mask = False
    check_mask_transforms(loader.dataset)


@pytest.mark.parametrize('path', [DETECTION, CASCADE])
def test_masks_cannot_be_merged_by_test_time_augmentation(path):
    config = real_config(path)
    config.tta_model = ConfigDict(type='mmdet.DetTTAModel')
    with pytest.raises(ValueError, match='--tta is not allowed for a model with a mask head'):
        check_tta(config)
    for head in ('mask_head', 'mask_roi_extractor'):
        config.model.roi_head.pop(head)
    config.test_evaluator.metric = 'bbox'
    check_tta(config)
