"""What is drawn on images: legible at any size, names apart, results that replace no others."""

from itertools import combinations
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample

from convnextv2_mm.engine.hooks.visualization_hook import VisualizationHook
from convnextv2_mm.visualization import drawing as pictures
from convnextv2_mm.visualization.drawing import (
    draw_names,
    draw_prediction,
    draw_sample,
    font_size,
    open_window,
    place_names,
    result_names,
)

META = dict(classes=('cat', 'dog'), palette=[(200, 0, 0), (0, 0, 200)])
GREY = 128


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def detections(boxes: list, scores: list, masks: np.ndarray | None = None) -> BaseDataElement:
    instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor(scores),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )
    if masks is not None:
        instances.masks = torch.from_numpy(masks)
    return BaseDataElement(pred_instances=instances)


def measure(height: int, width: int) -> tuple[int, int, int]:
    """Short side of a picture, and the height of a name and the width of an outline in it."""
    side = min(height, width)
    box = [side * 0.3, side * 0.4, side * 0.9, side * 0.9]
    picture = draw_sample(grey(height, width), detections([box], [0.9]), META, 'pred')
    side = min(picture.shape[:2])
    red = (picture == META['palette'][0]).all(-1)
    column = red[:, round(side * 0.9)]  # the right edge
    assert column[round(side * 0.41) : round(side * 0.89)].all()
    name = red[: round(side * 0.395), round(side * 0.3) : round(side * 0.5)].any(axis=1)
    outline = red[round(side * 0.65), round(side * 0.6) :]
    return side, int(np.count_nonzero(name)), int(np.count_nonzero(outline))


def test_names_and_lines_grow_with_the_image():
    sizes = [(150, 200), (480, 640), (1080, 1920), (2160, 3840)]
    measured = [measure(*size) for size in sizes]
    for side, name, outline in measured:
        assert side >= 384
        assert 12 <= name <= side / 15
        assert 0.025 * side <= name
        assert 1 <= outline <= name / 4
    names, outlines = ([m[i] for m in measured] for i in (1, 2))
    assert names[3] / names[1] == pytest.approx(font_size(grey(2160, 3840)) / 14, rel=0.25)
    assert outlines[3] >= 3 * outlines[1]
    assert outlines[1] >= 2


@pytest.mark.parametrize('seed', range(5))
def test_names_lie_in_the_image_and_apart(seed):
    rng = np.random.default_rng(seed)
    sizes = [(int(w), 18) for w in rng.integers(40, 120, 30)]
    corners = rng.uniform(-50, 450, (30, 2)).tolist()
    corners[10:20] = [corners[10]] * 10  # all of a heap
    places = place_names(sizes, corners, (480, 400))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places, sizes, strict=True)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 480
    for a, b in combinations(boxes, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_a_free_place_is_taken_as_it_is_and_a_full_image_is_left():
    assert place_names([(50, 20)], [(33, 47)], (100, 200)) == [(33, 47)]
    assert place_names([(100, 20)] * 3, [(0, 0)] * 3, (40, 100)) == [(0, 0), (0, 20), None]


def test_every_name_of_a_heap_is_seen_whole():
    names, colours = ['name'] * 12, [(20 * i, 255 - 20 * i, 0) for i in range(12)]
    picture = draw_names(grey(480, 640), names, [(320, 240)] * 12, colours)
    inks = []
    for colour in colours:
        rows, columns = np.nonzero((picture == colour).all(-1))
        ground = picture[rows.min() : rows.max() + 1]  # leader lines widen it, so take the middle
        inks.append(len(rows))
        assert ground.shape[0] >= 14
    # The same letters on grounds of the same size: a covered one would show less of its colour.
    assert min(inks) > 0.7 * np.median(inks)


def test_instances_are_drawn_from_the_threshold_on():
    mask = np.zeros((1, 400, 400), bool)
    mask[0, 100:300, 100:300] = True
    image = grey(400, 400)
    sample = detections([[100, 100, 300, 300]], [0.5], mask)
    picture = draw_sample(image, sample, META, 'pred', score_thr=0.5)
    blend = 0.6 * GREY + 0.4 * np.array(META['palette'][0])
    np.testing.assert_allclose(picture[200, 200], blend, atol=1)
    assert (picture[100, 200] == META['palette'][0]).all()
    assert (picture[350, 350] == GREY).all()
    assert (draw_sample(image, sample, META, 'pred', score_thr=0.51) == GREY).all()
    assert (draw_sample(image, sample, META, 'gt') == GREY).all()
    assert (image == GREY).all()  # what was given stays as it is


def test_the_best_of_many_instances_are_drawn():
    boxes = [[10 * i, 10, 10 * i + 8, 18] for i in range(40)]
    scores = [0.5 + 0.01 * i for i in range(40)]
    picture = draw_sample(grey(400, 400), detections(boxes, scores), META, 'pred')
    seen = [(picture[10:18, x : x + 8] != GREY).any() for x in range(0, 400, 10)]
    alone = draw_sample(grey(400, 400), detections(boxes[10:], scores[10:]), META, 'pred')
    assert (picture == alone).all() and any(seen)


def test_the_background_stays_as_it_is():
    labels = torch.zeros((1, 400, 400), dtype=torch.long)
    labels[:, 100:300, :200] = 1
    sample = BaseDataElement(pred_sem_seg=PixelData(data=labels))
    meta = META | dict(classes=('Background', *META['classes'][1:]))
    picture = draw_sample(grey(400, 400), sample, meta, 'pred')
    assert (picture[:, 210:] == GREY).all() and (picture[150, 100] != GREY).any()


def test_reconstructions_have_captions_and_are_enlarged():
    panel = torch.zeros(3, 64, 96)
    sample = BaseDataElement(reconstruction_loss=0.5, img_path='a/photo.jpg')
    for name in ('masked', 'reconstructed', 'original'):
        sample.set_field(panel, name)
    config = Config(dict(model=dict(data_preprocessor=dict(mean=[GREY] * 3, std=[1.0] * 3))))
    picture = draw_prediction(sample, config, {})
    assert picture.shape == (4 * 64, 3 * 4 * 96, 3)
    for left in (0, 384, 768):
        assert (picture[:20, left : left + 100] != GREY).any()
    assert (picture[30:] == GREY).all()


def test_segmentation_colours_classes_and_leaves_the_rest():
    labels = torch.full((1, 400, 400), 255)
    labels[:, 100:300, :200] = 1
    sample = BaseDataElement(gt_sem_seg=PixelData(data=labels))
    picture = draw_sample(grey(400, 400), sample, META, 'gt')
    blend = 0.5 * GREY + 0.5 * np.array(META['palette'][1])
    np.testing.assert_allclose(picture[120, 20], blend, atol=1)
    assert (picture[:, 210:] == GREY).all()
    assert (picture[120, 200] == 255).all()  # the border
    name = (picture == META['palette'][1]).all(-1)
    assert name[180:220, 80:120].any()  # in the middle of the class
    assert not name[:150].any()


def test_small_images_are_enlarged_with_their_annotations():
    mask = np.zeros((1, 50, 100), bool)
    mask[0, 10:40, 20:80] = True
    picture = draw_sample(grey(50, 100), detections([[20, 10, 80, 40]], [0.9], mask), META, 'pred')
    assert picture.shape == (400, 800, 3)
    assert (picture[80:320, 160] == META['palette'][0]).all()
    assert not (picture[200, 200] == GREY).any()
    assert (picture[200, 700] == GREY).all()


@pytest.mark.parametrize(
    ('fields', 'kind', 'names'),
    [
        (dict(gt_label=torch.tensor([1])), 'gt', ['dog']),
        (dict(gt_score=torch.tensor([0.3, 0.7])), 'gt', ['dog 0.70', 'cat 0.30']),
        (
            dict(pred_label=torch.tensor([0]), pred_score=torch.tensor([0.8, 0.2])),
            'pred',
            ['cat 0.80'],
        ),
    ],
)
def test_classes_of_an_image_are_named(fields, kind, names, monkeypatch):
    written = []
    monkeypatch.setattr(
        pictures, 'draw_names', lambda image, names, *_: written.extend(names) or image
    )
    draw_sample(grey(400, 400), BaseDataElement(**fields), META, kind)
    assert written == names


@pytest.mark.parametrize(
    ('images', 'names'),
    [
        (['a/1.jpg', 'a/2.jpg'], ['1', '2']),
        (['a/1.jpg', 'b/2.jpg'], ['1', '2']),
        (['a/1.jpg', 'b/1.jpg'], ['a/1', 'b/1']),
        (['x/a/1.jpg', 'x/b/c/1.jpg'], ['a/1', 'b/c/1']),
        (['a/1.jpg', 'a/1.png'], ['1.jpg', '1.png']),
        (['a/1.5.jpg', 'a/1.6.jpg'], ['1.5', '1.6']),
        (['a/1.jpg', './a/1.jpg'], ['1', '1']),
    ],
)
def test_results_have_names_of_their_own(images, names):
    assert [str(result_names(images)[image]) for image in images] == names


def test_hook_keeps_images_of_the_same_name_apart(tmp_path):
    files = [tmp_path / folder / '1.png' for folder in ('a', 'b')]
    for i, file in enumerate(files):
        file.parent.mkdir()
        cv2.imwrite(str(file), np.full((400, 400, 3), 100 * i, np.uint8))

    class Dataset(list):
        metainfo = META
        get_data_info = list.__getitem__

    dataset = Dataset(dict(img_path=str(file)) for file in files)
    config = Config(dict(test_dataloader=dict(dataset=dict(type='Any'))))
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset), cfg=config)
    hook = VisualizationHook(str(tmp_path / 'out'))
    hook.before_test(runner)
    samples = [DataSample(metainfo=info) for info in dataset]
    hook.after_test_iter(runner, 0, {}, samples)
    for i, folder in enumerate('ab'):
        assert (cv2.imread(str(tmp_path / 'out' / folder / '1.png')) == 100 * i).all()


def test_a_window_needs_a_display(monkeypatch):
    pyplot.switch_backend('agg')
    assert open_window() is None
    monkeypatch.setattr(pyplot, 'get_backend', lambda: 'TkAgg')
    assert open_window() is not None
