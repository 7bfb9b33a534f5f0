"""What a trained model gets wrong: figures of each class, confusions, and the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData

from ...analysis import class_figures, confusions, match_objects
from ...errors import BadData
from ...utils.atomic import write_csv
from ...visualization.channels import SHOWN, read_picture
from ...visualization.drawing import draw_prediction, draw_sample, result_names, write_image
from ...visualization.figures import write_figure
from ..browse import side_by_side
from ..test import build_runner

BACKGROUND = 'background'
LOSS = 'reconstruction_loss'
MOST_NAMES = 40  # more classes have no names in the figure


class Errors(NamedTuple):
    """What :func:`analyse_errors` found.

    Attributes:
        metrics: Those of the test.
        classes: Their names; for a detector, ``background`` is the last: nothing is, or was found.
        confusion: How often a class (row) was taken for another (column): images, pixels, or
            objects with an IoU of 0.5 and more.
        per_class: Figures of :func:`~convnextv2_mm.analysis.class_figures`.
        measure: What ``images`` has: the F1 of the objects of an image (``f1``), the mean IoU of
            its classes (``mean_iou``), the ``probability`` of its class or its
            ``reconstruction_loss``.
        images: Image files, the worst first.
    """

    metrics: dict[str, float]
    classes: list[str]
    confusion: np.ndarray
    per_class: dict[str, np.ndarray]
    measure: str
    images: dict[str, float]


def analyse_errors(
    config: str | Path | Config,
    checkpoint: str,
    out: str | Path,
    number: int = 16,
    score_thr: float = 0.3,
    work_dir: str | None = None,
    cfg_options: dict | None = None,
) -> Errors:
    """Test a model, and write what it gets wrong.

    Writes ``classes.csv``, ``confusion_matrix.csv`` and ``.png``, ``images.csv``, and into
    ``worst`` pictures of the worst images, what is true beside what was found. FCMAE has no
    classes, so that only the last two are written.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config, of any task.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        out: Folder.
        number: Pictures.
        score_thr: Detections with a lower score are left out.
        work_dir: Folder for the log of the test; by default that of the config.
        cfg_options: Changes of the config.

    Raises:
        Exception: As :func:`convnextv2_mm.apis.test.build_runner` does, before the first image.
        ValueError: If ``number`` is negative.
        BadData: If an image or label cannot be used.
    """
    runner = build_error_runner(config, checkpoint, number, score_thr, work_dir, cfg_options)
    return run_and_write(runner, Path(out), number, score_thr)


def build_error_runner(
    config: str | Path | Config,
    checkpoint: str,
    number: int,
    score_thr: float,
    work_dir: str | None = None,
    cfg_options: dict | None = None,
) -> Runner:
    """The runner of a test that also counts errors: see :func:`analyse_errors`."""
    if number < 0:
        raise ValueError(f'--number {number} is not allowed: it must be 0 or more')
    runner = build_runner(config, checkpoint, work_dir=work_dir, cfg_options=cfg_options)
    dataset, metrics = runner.test_loop.dataloader.dataset, runner.test_loop.evaluator.metrics
    for metric in metrics:
        if hasattr(metric, 'classwise'):  # of COCO; the others print their classes anyway
            metric.classwise = True
    metrics.append(ErrorCounts(dataset, score_thr))
    metrics[-1].dataset_meta = dataset.metainfo
    return runner


def run_and_write(runner: Runner, out: Path, number: int, score_thr: float) -> Errors:
    """Test, and write what is wrong: see :func:`analyse_errors`."""
    metrics = runner.test()
    counts = runner.test_loop.evaluator.metrics[-1]
    errors = counts.errors(metrics)
    write_errors(errors, out)
    worst = list(errors.images)[:number]
    names = result_names(list(errors.images))
    for former in (out / 'worst').glob('*.png'):  # of a former test, in another order
        former.unlink()
    for place, image in enumerate(worst, start=1):
        name = f'{place:0{len(str(len(worst)))}d}_{str(names[image]).replace("/", "_")}.png'
        picture = draw_error(runner, counts.places[image], score_thr)
        write_image(picture, out / 'worst' / name)
    return errors


class ErrorCounts(BaseMetric):
    """Counts what is taken for what, and measures how good each image is, in one process.

    Args:
        dataset: Of the test.
        score_thr: Detections with a lower score are left out.
    """

    default_prefix = 'errors'

    def __init__(self, dataset: Any, score_thr: float) -> None:
        super().__init__()
        self.dataset, self.score_thr = dataset, score_thr
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        self.places = {info['img_path']: i for i, info in enumerate(infos)}
        self.classes = list(dataset.metainfo.get('classes') or ())
        self.confusion: np.ndarray = np.zeros((len(self.classes) + 1,) * 2, np.int64)
        self.measure = LOSS

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count a batch."""
        for sample in data_samples:
            if 'pred_instances' in sample:
                value = self._count_objects(sample)
            elif 'pred_sem_seg' in sample:
                value = self._count_pixels(sample)
            elif 'pred_score' in sample:
                value = self._count_label(sample)
            else:
                value = sample[LOSS]
            self.results.append((sample['img_path'], value))

    def compute_metrics(self, results: list) -> dict:
        """Nothing for the log; MMEngine drops the results after this."""
        self.images = results
        return {}

    def errors(self, metrics: dict[str, float]) -> Errors:
        """What was counted, the worst images first."""
        classes, confusion = self.classes, self.confusion
        if self.measure == 'f1':
            classes = [*classes, BACKGROUND]
        else:
            confusion = confusion[: len(classes), : len(classes)]
        per_class = class_figures(confusion, len(self.classes))
        if self.measure != 'mean_iou':  # of pixels; objects have one each
            del per_class['iou']
        worst_first = sorted(self.images, key=lambda row: row[1], reverse=self.measure == LOSS)
        return Errors(metrics, classes, confusion, per_class, self.measure, dict(worst_first))

    def _count_objects(self, sample: dict) -> float:
        self.measure = 'f1'
        truth = load_objects(self.dataset.get_data_info(self.places[sample['img_path']]))
        predicted = sample['pred_instances']
        kept = predicted['scores'] >= self.score_thr
        pairs = match_objects(
            truth.bboxes,
            truth.labels,
            truth.ignored,
            predicted['bboxes'][kept].cpu(),
            predicted['labels'][kept].cpu(),
            predicted['scores'][kept].cpu(),
            len(self.classes),
        )
        np.add.at(self.confusion, tuple(np.array(pairs, int).reshape(-1, 2).T), 1)
        nothing = len(self.classes)
        right = sum(true == label for true, label in pairs)
        number = sum((true != nothing) + (label != nothing) for true, label in pairs)
        return 2 * right / number if number else 1.0

    def _count_pixels(self, sample: dict) -> float:
        self.measure = 'mean_iou'
        true, found = (sample[f'{kind}_sem_seg']['data'].cpu().flatten() for kind in ('gt', 'pred'))
        counted = true != self.dataset.ignore_index
        size = len(self.confusion)
        places = true[counted].long() * size + found[counted].long()
        confusion = torch.bincount(places, minlength=size**2).view(size, size).numpy()
        self.confusion += confusion
        figures = class_figures(confusion, len(self.classes))
        present = figures['number'] > 0
        return float(figures['iou'][present].mean()) if present.any() else 1.0

    def _count_label(self, sample: dict) -> float:
        self.measure = 'probability'
        if sample['gt_label'].numel() != 1:
            raise BadData(f'{sample["img_path"]} has several labels, which are not counted here')
        true, found = int(sample['gt_label']), int(sample['pred_label'])
        self.confusion[true, found] += 1
        return float(sample['pred_score'][true])


def load_objects(info: dict, with_masks: bool = False) -> InstanceData:
    """The true objects of an entry of MMDetection's data sets: boxes, labels, crowds, masks."""
    has_masks = with_masks and any('mask' in entry for entry in info['instances'])
    load = TRANSFORMS.build(dict(type='mmdet.LoadAnnotations', with_mask=has_masks))
    loaded = load(info | dict(ori_shape=(info['height'], info['width'])))
    masks = dict(masks=loaded['gt_masks']) if has_masks else {}
    return InstanceData(
        bboxes=loaded['gt_bboxes'].tensor,
        labels=torch.from_numpy(loaded['gt_bboxes_labels']),
        ignored=torch.from_numpy(loaded['gt_ignore_flags']),
        **masks,
    )


@torch.no_grad()
def draw_error(runner: Runner, index: int, score_thr: float) -> np.ndarray:
    """What is true beside what was found, for one image of the test: ``(H, W, 3)`` uint8 RGB."""
    loader = runner.test_loop.dataloader
    sample: BaseDataElement = runner.model.test_step(loader.collate_fn([loader.dataset[index]]))[0]
    meta = loader.dataset.metainfo
    found = draw_prediction(sample, runner.cfg, meta, score_thr)
    if 'reconstructed' in sample:
        return found
    if 'pred_instances' in sample:
        sample.gt_instances = load_objects(loader.dataset.get_data_info(index), with_masks=True)
    shown = runner.cfg.get('picture_channels', SHOWN)
    image = read_picture(sample.img_path, runner.cfg.test_dataloader.dataset, shown)
    return side_by_side(draw_sample(image, sample, meta, 'gt'), found)


def write_errors(errors: Errors, out: Path) -> None:
    """Write the tables and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    values = ((image, f'{value:.4f}') for image, value in errors.images.items())
    write_csv(out / 'images.csv', [('image', errors.measure), *values])
    if not errors.confusion.any():
        return
    names = errors.classes
    columns = ([f'{v:.4g}' for v in values.tolist()] for values in errors.per_class.values())
    rows = zip(names, *columns, strict=False)  # background has none
    write_csv(out / 'classes.csv', [['class', *errors.per_class], *rows])
    matrix = zip(names, *errors.confusion.T.tolist(), strict=True)
    write_csv(out / 'confusion_matrix.csv', [['true', *names], *matrix])
    write_figure(draw_confusion(errors.confusion, names), out / 'confusion_matrix.png')


def draw_confusion(confusion: np.ndarray, names: Sequence[str]) -> Figure:
    """The matrix, as shares of each row."""
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    side = max(4, min(0.32 * len(names), 14))
    figure = Figure(figsize=(side + 1.5, side + 1), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap='Blues')
    figure.colorbar(image, ax=axis, shrink=0.6, label='share of the true class')
    axis.set(xlabel='found', ylabel='true')
    if len(names) <= MOST_NAMES:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        for true, found in zip(*np.nonzero(shares >= 0.005), strict=True):
            colour = 'white' if shares[true, found] > 0.5 else 'black'
            text = f'{100 * shares[true, found]:.0f}'
            axis.text(found, true, text, ha='center', va='center', color=colour, fontsize=6)
    return figure


def describe(errors: Errors, most: int = 5) -> str:
    """The most frequent confusions and the worst images, in a line each."""
    lines = []
    for true, found, count in confusions(errors.confusion)[:most]:
        names = errors.classes[true], errors.classes[found]
        if errors.measure == 'f1' and found == len(errors.classes) - 1:
            lines.append(f'{names[0]} not found: {count}')
        elif errors.measure == 'f1' and true == len(errors.classes) - 1:
            lines.append(f'{names[1]} found where there is none: {count}')
        else:
            lines.append(f'{names[0]} taken for {names[1]}: {count}')
    for image, value in list(errors.images.items())[:most]:
        lines.append(f'{image}: {errors.measure} {value:.3f}')
    return '\n'.join(lines)
