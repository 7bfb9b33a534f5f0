"""Data of a user's own, from one command to predictions, as docs/own_data.md tells it."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_line import Command
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnextv2_mm.datasets.shapes.drawing import CLASSES, draw

NUMBER = 8
SMALL = ['--size', 64, '--epochs', 2, '--batch', 2, '--init', 'none']


@pytest.fixture(scope='module')
def home(tmp_path_factory) -> Path:
    """Drawings as photographs, in folders of classes, in COCO's format, and with label maps."""
    home = tmp_path_factory.mktemp('own')
    for name in ('photos', 'masks', *(f'classes/{c}' for c in ('one', 'two'))):
        (home / name).mkdir(parents=True)
    content = dict(images=[], annotations=[], categories=[])
    content['categories'] = [dict(id=2 * i + 5, name=name) for i, name in enumerate(CLASSES)]
    for i in range(NUMBER):
        drawing = draw(0, 'train', i, 64)
        image = drawing.image[: 64 - 8 * (i % 2), :, ::-1]
        labels = np.zeros(image.shape[:2], np.uint8)
        content['images'].append(
            dict(id=100 + i, file_name=f'{i}.png', height=image.shape[0], width=64)
        )
        for mask, label in zip(drawing.masks, drawing.labels, strict=True):
            mask = mask[: image.shape[0]].astype(np.uint8)
            labels[mask > 0] = 10 * (label + 1)  # not from 0 on, as many tools write them
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            outlines = [line.ravel().tolist() for line in outlines if len(line) > 2]
            if outlines:
                entry = dict(id=len(content['annotations']) + 1, image_id=100 + i, iscrowd=0)
                entry |= dict(category_id=2 * int(label) + 5, segmentation=outlines)
                box = [int(v) for v in cv2.boundingRect(mask)]
                content['annotations'].append(entry | dict(bbox=box, area=int(mask.sum())))
        cv2.imwrite(str(home / f'photos/{i}.png'), image)
        cv2.imwrite(str(home / f'masks/{i}.png'), labels)
        cv2.imwrite(str(home / f'classes/{("one", "two")[i % 2]}/{i}.png'), image)
    (home / 'instances.json').write_text(json.dumps(content))
    return home


def live(home: Path, task: str, *arguments: object, metric: str) -> tuple[Path, Path]:
    """Train with one command, test the best checkpoint and predict; where, and what is written."""
    work_dir, out = home / 'work_dirs' / task, home / 'predictions' / task
    command = Command(f'own/{task}', *arguments, *SMALL, '--work-dir', work_dir, folder=home)
    printed = command.end()
    assert 'own data: ' in printed
    start = printed.index('own data: ')
    assert printed[start : printed.index('Epoch(train)')].count('\n') < 40  # a screen
    (config,) = work_dir.glob('*.py')
    checkpoint = next(work_dir.glob('best_*.pth'), work_dir / 'epoch_2.pth')
    arguments = [config, checkpoint, '--work-dir', out, '--out', out / 'results.pkl']
    tested = Command('test', *arguments, folder=home).end()
    assert f'{metric}: ' in tested
    predict = Command('infer', config, checkpoint, home / 'photos', '--out', out, folder=home)
    predict.end()
    assert len(list(out.glob('*.png'))) >= NUMBER
    (out / 'errors/worst').mkdir(parents=True)
    (out / 'errors/worst/99_of_a_former_test.png').touch()
    arguments = [config, checkpoint, '--out', out / 'errors', '--work-dir', out]
    Command('analysis_tools/analyse_errors', *arguments, folder=home).end()
    check_errors(out / 'errors', tested, metric)
    arguments = [checkpoint, out / 'backbone.pth', '--task', 'backbone', '--to', 'mmpretrain']
    Command('convert_checkpoint', *arguments, folder=home).end()
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    for name, tensor in torch.load(out / 'backbone.pth')['state_dict'].items():
        assert torch.equal(tensor, trained[name]), name
    return work_dir, out


def check_errors(folder: Path, tested: str, metric: str) -> None:
    """Compare what the analysis of errors counted with what the test says."""

    def rows(name):
        with (folder / name).open(newline='') as file:
            return list(csv.DictReader(file))

    value = float(tested.split(f'{metric}: ')[1].split()[0])
    images = rows('images.csv')
    assert len(list((folder / 'worst').iterdir())) == len(images) > 0
    if metric == 'fcmae/loss':
        losses = [float(row['reconstruction_loss']) for row in images]
        assert losses == sorted(losses, reverse=True)
        assert sum(losses) / len(losses) == pytest.approx(value, abs=1e-3)
        return
    classes = rows('classes.csv')
    counts = np.array([list(map(int, list(r.values())[1:])) for r in rows('confusion_matrix.csv')])
    assert (folder / 'confusion_matrix.png').is_file()
    if metric == 'accuracy/top1':
        assert 100 * np.trace(counts) / len(images) == pytest.approx(value, abs=1e-3)
    elif metric == 'mIoU':
        ious = [float(row['iou']) for row in classes]
        assert 100 * np.nanmean(ious) == pytest.approx(value, abs=0.01)
    else:
        assert [int(row['number']) for row in classes] == counts.sum(1)[:-1].tolist()


def test_classify(home):
    _, out = live(home, 'classify', home / 'classes', metric='accuracy/top1')
    with (out / 'predictions.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [Path(row['image']).name for row in rows] == [f'{i}.png' for i in range(NUMBER)]
    for row in rows:
        scores = {name: float(row[name]) for name in ('one', 'two')}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert row['label'] == max(scores, key=scores.get)


def test_pretrain_then_detect(home):
    photos = [home / 'photos', '--masks', home / 'masks']
    work_dir, _ = live(home, 'pretrain', *photos, metric='fcmae/loss')
    files = ['--train', home / 'instances.json', '--images', home / 'photos']
    files += ['--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0']
    init = ['--init', work_dir / 'epoch_2.pth']
    work_dir, out = live(home, 'detect', *files, *init, metric='coco/bbox_mAP')
    (config,) = work_dir.glob('*.py')
    for name, *options in (('confusion_matrix',), ('analyze_results', '--topk', '1')):
        arguments = ['mmdet', name, config, out / 'results.pkl', out / name, *options]
        Command('openmmlab', *arguments, folder=home).end()
    assert (out / 'confusion_matrix/confusion_matrix.png').is_file()
    assert len(list((out / 'analyze_results/bad').iterdir())) == 1
    # What another program reads: pycocotools, with the ids of the user's own file.
    truth = COCO(home / 'instances.json')
    found = truth.loadRes(str(out / 'predictions.json'))
    assert {a['image_id'] for a in found.anns.values()} <= set(truth.imgs)
    assert {a['category_id'] for a in found.anns.values()} <= set(truth.cats)
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] >= 0


def test_segment(home):
    work_dir, out = live(home, 'segment', home / 'photos', home / 'masks', metric='mIoU')
    values = {int(v) for i in range(NUMBER) for v in np.unique(cv2.imread(f'{home}/masks/{i}.png'))}
    with (out / 'legend.csv').open(newline='') as file:
        legend = {int(row['value']): row['class'] for row in csv.DictReader(file)}
    assert legend == {value: str(value) for value in values}
    for i in range(NUMBER):
        found = cv2.imread(str(out / f'{i}_labels.png'), cv2.IMREAD_UNCHANGED)
        assert found.shape == cv2.imread(str(home / f'photos/{i}.png')).shape[:2]
        assert set(np.unique(found)) <= values  # the numbers of the user's own files


def test_a_mistake_ends_in_one_sentence(home):
    command = Command('own/segment', home / 'photos', home / 'classes', folder=home)
    (line,) = [line for line in command.end(2).splitlines() if line.startswith('error: ')]
    assert 'no label map of the same name' in line
