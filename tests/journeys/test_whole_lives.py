"""The shipped configs live whole lives on data in the real formats, through the command line.

Train, validate, save the best, be stopped by a signal, go on, test, predict on a folder, convert,
export. Each config is the smallest of its task. Only data, image size, batch, intervals and number
of steps are changed; the two that come no smaller than Base get the widths of Atto.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from command_line import Command
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import ImageNet
from real_formats import write_real_formats

from convnextv2_mm.datasets.shapes.drawing import draw

CONFIGS = Path(__file__).parents[2] / 'configs'
NUM_TRAIN, NUM_VAL = 8, 4


@dataclass
class Task:
    """A shipped config, and what makes it short.

    Attributes:
        config: Below ``configs``.
        options: For ``--cfg-options``.
        metric: The scalar that its evaluation logs; None if it has none.
        has_validation: Whether it validates while it trains, and keeps the best checkpoint.
        has_tta: Whether it has test-time augmentation.
        steps: From the first to the last.
        exports: What goes to ONNX: ``'model'`` or ``'backbone'``. One of each is enough, since
            tests/tools/test_export_onnx.py has the other tasks.
    """

    config: str
    options: list[str]
    metric: str | None = None
    has_validation: bool = True
    has_tta: bool = False
    steps: int = 8
    exports: str | None = None


def both(*options: str) -> list[str]:
    """Options of the data loaders of validation and test."""
    return [f'{split}_dataloader.{option}' for split in ('val', 'test') for option in options]


LOADER = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=1']
SHORT = [*LOADER, 'optim_wrapper.accumulative_counts=1', 'default_hooks.logger.interval=1']
EPOCHS = [*SHORT, 'train_cfg.max_epochs=4']
CROP = 'train_dataloader.dataset.pipeline.1.scale=64'
TEST_CROP = ['dataset.pipeline.1.scale=80', 'dataset.pipeline.2.crop_size=64']
EVALUATION = ['batch_size=2', 'num_workers=1']
CLASSIFY = [*EPOCHS, CROP, *both(*EVALUATION, *TEST_CROP)]
DETECT = [
    *SHORT,
    'train_cfg.max_epochs=2',
    *both(*EVALUATION, 'dataset.pipeline.1.scale=(160,128)'),
    # The regions of a full step take two cores 20 seconds; and untrained heads are sure of nothing.
    'model.train_cfg.rpn_proposal.max_per_img=50',
    'model.test_cfg.rpn.max_per_img=50',
    'model.test_cfg.rcnn.max_per_img=10',
    'model.test_cfg.rcnn.score_thr=0.001',
]
ONE_STAGE = ['model.train_cfg.rcnn.sampler.num=8']
THREE_STAGES = [f'model.train_cfg.rcnn.{i}.sampler.num=8' for i in range(3)]
LSJ = [
    *DETECT,
    'model.data_preprocessor.batch_augments.0.size=(128,128)',
    'train_dataloader.dataset.pipeline.2.scale=(128,128)',
    'train_dataloader.dataset.pipeline.3.crop_size=(128,128)',
]
SEGMENT = [
    *SHORT,
    *both('num_workers=1', 'dataset.pipeline.1.scale=(256,64)'),
    'train_cfg.max_iters=8',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=4',
    'model.data_preprocessor.size=(64,64)',
    'model.test_cfg.crop_size=(64,64)',
    'model.test_cfg.stride=(48,48)',
    'train_dataloader.dataset.pipeline.2.scale=(256,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    *(f'tta_pipeline.1.transforms.0.{i}.scale=({256 + 64 * i},{64 + 16 * i})' for i in range(5)),
]
TASKS = {
    'fcmae': Task(
        'pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py',
        [*EPOCHS, CROP, *(f'test_dataloader.{option}' for option in (*EVALUATION, *TEST_CROP))],
        'fcmae/loss',
        has_validation=False,
        steps=16,
    ),
    'mocov3': Task(
        'ablations/mocov3_convnextv2-b_32xb128-300e_in1k-224px.py',
        [*EPOCHS, 'model.backbone.arch=atto', 'model.neck.in_channels=320']
        + [f'train_dataloader.dataset.pipeline.1.transforms.{i}.0.scale=64' for i in (0, 1)],
        has_validation=False,
        steps=16,
    ),
    'classification': Task(
        'classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py',
        CLASSIFY,
        'accuracy/top1',
        steps=16,
        exports='model',
    ),
    'linear-probe': Task(
        'classification/convnextv2-a_linear-probe_8xb512-accum4-90e-fcmae_in1k-224px.py',
        CLASSIFY,
        'accuracy/top1',
        steps=16,
    ),
    'mask-rcnn-lsj': Task(
        'detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py',
        [*LSJ, *ONE_STAGE],
        'coco/bbox_mAP',
        exports='backbone',
    ),
    'mask-rcnn-1x': Task(
        'detection/mask-rcnn_convnextv2-a_fpn_ms-1x-fcmae_coco.py',
        [*DETECT, *ONE_STAGE, 'train_dataloader.dataset.pipeline.2.scales=[(160,96),(160,128)]'],
        'coco/bbox_mAP',
    ),
    'cascade': Task(
        'detection/cascade-mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py',
        [*LSJ, *THREE_STAGES, 'model.backbone.arch=atto']
        + ['model.neck.in_channels=[40,80,160,320]'],
        'coco/bbox_mAP',
    ),
    'upernet-512': Task(
        'segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py',
        SEGMENT,
        'mIoU',
        has_tta=True,
    ),
    'upernet-640': Task(
        'segmentation/upernet_convnextv2-n_4xb4-160k-fcmae-in22k_ade20k-640px.py',
        [*SEGMENT, 'model.backbone.init_cfg=None'],  # the others start from the FCMAE of Atto
        'mIoU',
        has_tta=True,
    ),
}
AFTER_FCMAE = ['classification', 'linear-probe', 'mask-rcnn-lsj', 'mask-rcnn-1x', 'cascade']
AFTER_FCMAE += ['upernet-512']


class Life:
    """A task in a folder of its own, from its first step to its last.

    Args:
        task: What is trained.
        home: Folder with ``data``.
        options: More options.
    """

    def __init__(self, task: Task, home: Path, *options: str) -> None:
        self.task, self.home = task, home
        self.config = CONFIGS / task.config
        self.options = [*task.options, *options]
        self.work_dir = home / 'work_dirs' / self.config.stem

    def start(self, tool: str, *arguments: object) -> Command:
        """Start a tool on the config."""
        changes = ['--cfg-options', *self.options]
        return Command(tool, self.config, *arguments, *changes, folder=self.home)

    def train(self) -> None:
        """Train, be told to stop once something is saved, and go on to the end."""
        first = self.start('train')
        saved = 'best_*.pth' if self.task.has_validation else 'epoch_1.pth'
        first.wait_for(lambda: list(self.work_dir.glob(saved)))
        first.send(signal.SIGTERM)
        printed = first.end(128 + signal.SIGTERM)
        assert f'SIGTERM: the run is saved in {self.last}; go on with --resume' in printed
        self.start('train', '--resume').end()

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.work_dir / Path((self.work_dir / 'last_checkpoint').read_text()).name

    def logged(self, key: str) -> list:
        """All values of a scalar, in the order of the runs."""
        logs = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        entries = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        return [entry[key] for entry in entries if key in entry]


@pytest.fixture(scope='module')
def home(tmp_path_factory) -> Path:
    """A folder with the data sets, and one with photographs to predict on."""
    home = tmp_path_factory.mktemp('home')
    write_real_formats(home, NUM_TRAIN, NUM_VAL)
    for i, height in enumerate((96, 128)):
        image = draw(1, 'val', i, 128).image[:height, ::-1, ::-1]
        path = home / 'photographs' / ('park' if i else '') / f'{i}.{("jpg", "png")[i]}'
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), image)
    return home


@pytest.fixture(scope='module')
def fcmae(home) -> Life:
    life = Life(TASKS['fcmae'], home)
    life.train()
    return life


@pytest.fixture(scope='module', params=TASKS)
def life(request, home, fcmae) -> Life:
    """Each task, trained to its end."""
    if request.param == 'fcmae':
        return fcmae
    init = f'model.backbone.init_cfg.checkpoint={fcmae.last}'
    options = [init] if request.param in AFTER_FCMAE else []
    life = Life(TASKS[request.param], home, *options)
    life.train()
    return life


def test_a_stopped_run_takes_each_step_once(life):
    assert len(life.logged('loss')) == life.task.steps
    assert torch.load(life.last, weights_only=False)['meta']['iter'] == life.task.steps


def test_the_best_checkpoint_evaluates_as_it_did_in_training(life):
    checkpoint, expected = life.last, None
    if life.task.has_validation:
        (checkpoint,) = life.work_dir.glob('best_*.pth')
        expected = max(life.logged(life.task.metric))
    if life.task.metric is None:
        assert 'describes no test' in life.start('test', checkpoint).end(2)
        return
    test_dir = life.home / 'tests' / life.config.stem
    life.start('test', checkpoint, '--work-dir', test_dir).end()
    (log,) = test_dir.glob('*/*.json')
    found = json.loads(log.read_text())[life.task.metric]
    assert found > 0 if expected is None else found == pytest.approx(expected, rel=1e-4)


def test_it_tests_with_augmentation(life):
    test_dir = life.home / 'tta' / life.config.stem
    arguments = [life.last, '--work-dir', test_dir, '--tta']
    if life.task.has_tta:
        one_image = Life(life.task, life.home, 'test_dataloader.dataset.indices=1')
        one_image.start('test', *arguments).end()
        (log,) = test_dir.glob('*/*.json')
        assert 0 <= json.loads(log.read_text())['mIoU'] <= 100
    else:
        printed = life.start('test', *arguments).end(2)
        assert re.search('no tta_pipeline|describes no test', printed)


def test_it_predicts_on_a_folder(life):
    out = life.home / 'predictions' / life.config.stem
    command = life.start('infer', life.last, life.home / 'photographs', '--out', out)
    if life.task.metric is None:
        assert 'describes no test' in command.end(2)
        return
    command.end()
    assert {path.name for path in out.glob('*.png')} >= {'0.png', '1.png'}
    for i, height in enumerate((96, 128)):
        if life.task.metric == 'mIoU':
            labels = cv2.imread(str(out / f'{i}_labels.png'), cv2.IMREAD_UNCHANGED)
            assert labels.shape == (height, 128)
            assert 1 <= labels.min() and labels.max() <= 150  # as in ADE20K's files
            continue
        result = json.loads((out / f'{i}.json').read_text())
        if life.task.metric == 'accuracy/top1':
            assert result['label'] in ImageNet.METAINFO['classes']
        elif life.task.metric == 'coco/bbox_mAP':
            assert {entry['label'] for entry in result} <= set(CocoDataset.METAINFO['classes'])
        else:
            assert result['reconstruction_loss'] > 0


def test_its_backbone_leaves_for_mmpretrain(life):
    out = life.home / 'converted' / f'{life.config.stem}.pth'
    out.parent.mkdir(exist_ok=True)
    arguments = [life.last, out, '--task', 'backbone', '--to', 'mmpretrain']
    if life.task is TASKS['mocov3']:  # it has another backbone: the average over the steps
        arguments += ['--prefix', 'backbone.']
    Command('convert_checkpoint', *arguments, folder=life.home).end()
    weights = torch.load(life.last, weights_only=False)['state_dict']
    found = torch.load(out, weights_only=True)['state_dict']
    assert len(found) > 100
    for name, tensor in found.items():
        assert torch.equal(tensor, weights[name]), name


def test_it_leaves_as_onnx(life):
    if life.task.exports is None:
        return
    out = life.home / 'exported' / f'{life.config.stem}.onnx'
    out.parent.mkdir(exist_ok=True)
    which = ['--backbone'] if life.task.exports == 'backbone' else []
    life.start('export_onnx', life.last, out, *which).end()
    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    outputs = session.run(None, {'images': np.zeros((1, 3, 64, 96), np.float32)})
    assert all(np.isfinite(output).all() for output in outputs)
    if life.task.exports == 'model':
        assert outputs[0].shape == (1, 1000)
