"""Matching found objects, and figures of a confusion matrix, against others' code."""

import numpy as np
import pytest
import torch
from mmpretrain.evaluation import SingleLabelMetric
from mmseg.evaluation import IoUMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnextv2_mm.analysis import class_figures, confusions, match_objects

CLASSES = 3


def some_objects(seed: int) -> dict[str, torch.Tensor]:
    """True and found objects, close to each other, of classes that are mostly right."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *size):
        return low + (high - low) * torch.rand(*size, generator=generator)

    number, more = seed % 7, 2 * (seed % 5)
    corner, size = uniform(0, 60, number, 2), uniform(10, 40, number, 2)
    boxes = torch.cat([corner, corner + size], 1)
    labels = torch.randint(0, CLASSES, (number,), generator=generator)
    from_true = torch.randint(0, max(number, 1), (more if number else 0,), generator=generator)
    found = boxes[from_true] + uniform(-4, 4, len(from_true), 4)
    found_labels = labels[from_true].clone()
    wrong = uniform(0, 1, len(from_true)) < 0.3
    found_labels[wrong] = (found_labels[wrong] + 1) % CLASSES
    return dict(
        boxes=boxes,
        labels=labels,
        ignored=uniform(0, 1, number) < 0.2,
        found_boxes=found,
        found_labels=found_labels,
        scores=uniform(0, 1, len(from_true)),
    )


def coco_counts(objects: dict[str, torch.Tensor]) -> tuple[list[int], list[int]]:
    """What pycocotools finds right and wrong of each class at an IoU of 0.5."""

    def xywh(boxes):
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    truth, found = COCO(), COCO()
    categories = [dict(id=i, name=str(i)) for i in range(CLASSES)]
    truth.dataset = dict(images=[dict(id=1)], categories=categories, annotations=[])
    found.dataset = dict(images=[dict(id=1)], categories=categories, annotations=[])
    for kind, dataset in (('', truth.dataset), ('found_', found.dataset)):
        for i, box in enumerate(xywh(objects[f'{kind}boxes'])):
            entry = dict(id=i + 1, image_id=1, bbox=box, area=box[2] * box[3])
            entry |= dict(category_id=int(objects[f'{kind}labels'][i]))
            entry['iscrowd'] = 0 if kind else int(objects['ignored'][i])
            entry |= dict(score=float(objects['scores'][i])) if kind else {}
            dataset['annotations'].append(entry)
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth, found, 'bbox')
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
    evaluation.evaluate()
    right, wrong = [0] * CLASSES, [0] * CLASSES
    for image in filter(None, evaluation.evalImgs):
        counted = ~image['dtIgnore'][0]
        matched = image['dtMatches'][0][counted] > 0
        right[image['category_id']] += int(matched.sum())
        wrong[image['category_id']] += int((~matched).sum())
    return right, wrong


@pytest.mark.parametrize('seed', range(60))
def test_objects_of_the_same_class_are_matched_as_in_coco(seed, capsys):
    objects = some_objects(seed)
    pairs = match_objects(**objects, num_classes=CLASSES)
    right, wrong = coco_counts(objects)
    for label in range(CLASSES):
        assert pairs.count((label, label)) == right[label]
        assert sum(found == label != true for true, found in pairs) == wrong[label]
    # Each true object once, but for the crowds.
    true = sorted(true for true, _ in pairs if true != CLASSES)
    assert true == sorted(objects['labels'][~objects['ignored']].tolist())


def test_what_is_left_is_taken_for_another_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    pairs = match_objects(
        boxes,
        torch.tensor([0, 1, 2]),
        torch.zeros(3, dtype=torch.bool),
        torch.cat([boxes[:2], boxes[:1], torch.tensor([[70.0, 70, 80, 80]])]),
        torch.tensor([0, 0, 1, 2]),  # right, taken for another, twice on one object, nowhere
        torch.tensor([0.5, 0.6, 0.9, 0.7]),
        num_classes=3,
    )
    assert sorted(pairs) == [(0, 0), (1, 0), (2, 3), (3, 1), (3, 2)]


def test_figures_are_those_of_mmpretrain_and_mmseg():
    generator = torch.Generator().manual_seed(0)
    true, found = torch.randint(0, 5, (2, 400), generator=generator)
    confusion = torch.bincount(true * 5 + found, minlength=25).view(5, 5).numpy()
    figures = class_figures(confusion, 5)
    expected = SingleLabelMetric.calculate(found, true, num_classes=5, average=None)
    for name, values in zip(('precision', 'recall', 'f1'), expected[:3], strict=True):
        assert 100 * figures[name] == pytest.approx(values.numpy(), rel=1e-5)
    assert figures['number'].tolist() == true.bincount().tolist()
    areas = IoUMetric.intersect_and_union(found, true, 5, 255)
    assert figures['iou'] == pytest.approx((areas[0] / areas[1]).numpy(), rel=1e-5)


def test_confusions_are_told_with_the_most_frequent_first():
    confusion = np.array([[9, 2, 0], [5, 1, 3], [0, 0, 7]])
    assert confusions(confusion) == [(1, 0, 5), (1, 2, 3), (0, 1, 2)]
