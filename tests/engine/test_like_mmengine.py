"""A run with our loops and hooks ends like one with MMEngine's own, and so does a resumed one.

What they put in place of MMEngine's must not lose anything that a config or another library's hook
asks for. Each case is run with MMEngine's loop and checkpoint hook, then with ours, then with ours
again, killed on the way and taken up. The pipelines have nothing random in them, so that all hooks
must be called at the same places, with the same images, and the same numbers must come out.
"""

import gc
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from mmengine.runner import loops, runner
from stopped_runs import Kill, Killed, Run
from torch import nn

from convnextv2_mm.engine.runner.resume import same

pytestmark = pytest.mark.long


@MODELS.register_module()
class Probe(BaseModel):
    """Takes images of any size and of any library; its score is a function of its weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 1, 1)
        )
        for number, parameter in enumerate(self.net.parameters()):
            nn.init.constant_(parameter, 0.1 + 0.01 * number)
        self.bbox_head = nn.Identity()  # YOLOXModeSwitchHook sets something there

    def forward(self, inputs, data_samples=None, mode='tensor'):
        outputs = self.net(inputs).mean((1, 2, 3))
        if mode == 'predict':
            return [dict(score=float(value)) for value in outputs]
        return dict(loss=(outputs - 1).square().mean()) if mode == 'loss' else outputs


@METRICS.register_module()
class Score(BaseMetric):
    """The mean score."""

    def process(self, data_batch, data_samples):
        self.results += [sample['score'] for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results) / len(results))


class Trace(Hook):
    """What a run does: the stages with their places in it, the batches and the metrics."""

    def __init__(self, random):
        self.random = random
        self.steps, self.stages, self.metrics = {}, [], {}

    def before_train_iter(self, runner, batch_idx, data_batch):
        paths = [os.path.basename(sample.img_path) for sample in data_batch['data_samples']]
        images = [image.float() for image in data_batch['inputs']]
        seen = [tuple(image.shape) if self.random else float(image.std()) for image in images]
        pixel = [0.0 if self.random else float(image[0, 0, 0]) for image in images]
        self.steps[runner.iter] = (batch_idx, runner.epoch, paths, seen, pixel)

    def after_val_epoch(self, runner, metrics):
        self.metrics[runner.iter] = None if self.random else metrics


def _note_stage(stage):
    def note(self, runner, *args, **kwargs):
        self.stages.append((stage, runner.iter, runner.epoch))

    return note


for _stage in set(Hook.stages) - {'before_train_iter', 'after_val_epoch'}:
    setattr(Trace, _stage, _note_stage(_stage))

LOAD = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32)]
PLAIN = [*LOAD, dict(type='PackInputs')]
FLIPPED = [*LOAD, dict(type='RandomFlip', prob=1.0), dict(type='PackInputs')]
SCOPED = [dict(step, type=f'mmpretrain.{step["type"]}') for step in FLIPPED]
SHAPES = dict(type='convnextv2_mm.ShapesClsDataset', data_root='shapes', pipeline=PLAIN)
EPOCHS = {'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=2)}
ITERATIONS = {'train_cfg': dict(type='IterBasedTrainLoop', max_iters=16, val_interval=6)}
WORKERS = {'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True}
ENDLESS = {'train_dataloader.sampler.type': 'InfiniteSampler'}
SWITCH = dict(type='mmdet.PipelineSwitchHook', switch_epoch=2, switch_pipeline=SCOPED)
RECIPES = [dict(action_epoch=2, train_pipeline=SCOPED), dict(action_epoch=4, train_pipeline=PLAIN)]


def hooks(*given):
    return {'custom_hooks': list(given)}


def ema(**options):
    return hooks(dict(type='EMAHook', **options))


def dataset(kind, parts=None, **options):
    inside = {'datasets': [SHAPES] * parts} if parts else {'dataset': SHAPES}
    return {'train_dataloader.dataset': dict(_delete_=True, type=kind, **inside, **options)}


def checkpoints(**options):
    return {f'default_hooks.checkpoint.{name}': value for name, value in options.items()}


CASES = {
    'validation begins late, then more often': {
        'train_cfg': dict(
            type='EpochBasedTrainLoop',
            max_epochs=7,
            val_begin=2,
            val_interval=3,
            dynamic_intervals=[(5, 1)],
        )
    },
    'the same by iterations': {
        'train_cfg': dict(
            type='IterBasedTrainLoop',
            max_iters=16,
            val_begin=4,
            val_interval=5,
            dynamic_intervals=[(9, 2)],
        )
    },
    'endless sampler': ITERATIONS | ENDLESS,
    'endless sampler, 1 process': ITERATIONS | ENDLESS | WORKERS,
    'seed of the sampler': {'train_dataloader.sampler.seed': 11},
    'seed of an endless sampler': ITERATIONS | ENDLESS | {'train_dataloader.sampler.seed': 11},
    'drop_last': {'train_dataloader.drop_last': True},
    'num_batch_per_epoch': {'train_dataloader.num_batch_per_epoch': 2},
    'RepeatDataset': dataset('RepeatDataset', times=2),
    'ClassBalancedDataset': dataset('ClassBalancedDataset', oversample_thr=0.5),
    'ConcatDataset': dataset('ConcatDataset', parts=2),
    'RepeatAugSampler': {'train_dataloader.sampler.type': 'RepeatAugSampler'},
    'PipelineSwitchHook': hooks(SWITCH),
    'PipelineSwitchHook, 1 process': hooks(SWITCH) | {'train_dataloader.num_workers': 1},
    'PipelineSwitchHook, 1 persistent process': hooks(SWITCH) | WORKERS,
    'SwitchRecipeHook': hooks(dict(type='SwitchRecipeHook', schedule=RECIPES)),
    'SwitchRecipeHook, 1 persistent process': (
        hooks(dict(type='SwitchRecipeHook', schedule=RECIPES)) | WORKERS
    ),
    'SwitchRecipeHook, nested': (
        hooks(dict(type='SwitchRecipeHook', schedule=RECIPES)) | dataset('ConcatDataset', parts=2)
    ),
    'PreciseBNHook': hooks(dict(type='PreciseBNHook', num_samples=4)),
    'EMAHook from an epoch on': ema(momentum=0.2, begin_epoch=3),
    'EMAHook from an iteration on': ema(momentum=0.2, begin_iter=6, update_buffers=True),
    'StochasticWeightAverage': ema(ema_type='StochasticWeightAverage', begin_iter=3),
    'MomentumAnnealingEMA': ema(ema_type='MomentumAnnealingEMA', momentum=0.2, gamma=10),
    'ExpMomentumEMA': ema(ema_type='mmdet.ExpMomentumEMA', momentum=0.01, gamma=10, interval=2),
    "mmpretrain's EMAHook": hooks(
        dict(type='mmpretrain.EMAHook', momentum=0.2, evaluate_on_origin=True)
    ),
    'EarlyStoppingHook': hooks(
        dict(type='EarlyStoppingHook', monitor='score', rule='less', patience=1)
    )
    | {'train_cfg.val_interval': 1},
    'best checkpoints': checkpoints(save_best='score', rule='less', max_keep_ckpts=2),
    'published checkpoints': checkpoints(published_keys=['meta', 'state_dict'], save_begin=2),
    'few checkpoints': checkpoints(interval=3, save_last=False, filename_tmpl='at_{}.pth'),
}

BOXES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path'))
OBJECTS = dict(type='convnextv2_mm.ShapesDetDataset', data_root='shapes')
DETECTOR = {
    'default_scope': 'mmdet',
    'model.data_preprocessor': dict(type='DetDataPreprocessor', mean=[99], std=[50]),
    'train_dataloader.collate_fn': dict(type='pseudo_collate'),
    'val_dataloader.collate_fn': dict(type='pseudo_collate'),
    'train_dataloader.dataset': dict(OBJECTS, _delete_=True, pipeline=[*BOXES, PACK]),
    'val_dataloader.dataset': dict(OBJECTS, pipeline=[*BOXES, PACK]),
}
MOSAIC = dict(
    type='MultiImageMixDataset',
    dataset=dict(OBJECTS, pipeline=BOXES),
    pipeline=[dict(type='Mosaic', img_scale=(64, 64), prob=1.0), dict(type='MixUp'), PACK],
)
SOURCES = dict(type='ConcatDataset', datasets=[dict(OBJECTS, pipeline=[*BOXES, PACK])] * 2)
YOLOX = hooks(dict(type='YOLOXModeSwitchHook', num_last_epochs=2))
YOLOX |= {'train_dataloader.dataset': dict(MOSAIC, _delete_=True)}
DETECTION = {
    'AspectRatioBatchSampler': {
        'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler')
    },
    'AspectRatioBatchSampler by iterations': ITERATIONS
    | {'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler', drop_last=True)},
    'ClassAwareSampler': {
        'train_dataloader.sampler': dict(_delete_=True, type='ClassAwareSampler')
    },
    'GroupMultiSourceSampler': ITERATIONS
    | {
        'train_dataloader.dataset': dict(SOURCES, _delete_=True),
        'train_dataloader.sampler': dict(
            type='GroupMultiSourceSampler', _delete_=True, batch_size=2, source_ratio=[1, 1]
        ),
    },
    'YOLOXModeSwitchHook': YOLOX,
    'YOLOXModeSwitchHook, 1 persistent process': YOLOX | WORKERS,
}
CASES |= {name: DETECTOR | options for name, options in DETECTION.items()}

MMENGINE = {
    'default_hooks.checkpoint.type': 'mmengine.CheckpointHook',
    'default_hooks.non_finite': None,
}


def _state(runner):
    """All that training has changed."""
    averages = [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]
    schedules = [schedule.state_dict() for schedule in runner.param_schedulers]
    return [runner.model.state_dict(), runner.optim_wrapper.state_dict(), schedules, averages]


class Finished(Run):
    """A run of the probe with a trace of what it does."""

    def __init__(self, work_dir, *options):
        data = dict(_delete_=True, **SHAPES)
        loader = dict(
            batch_size=1, dataset=SHAPES, sampler=dict(type='DefaultSampler', shuffle=False)
        )
        base = EPOCHS | {
            'model': dict(
                type='mmengine.Probe',
                _delete_=True,
                data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[99], std=[50]),
            ),
            'train_dataloader.dataset': data,
            'val_dataloader': dict(loader, collate_fn=dict(type='default_collate')),
            'val_evaluator': dict(type='mmengine.Score'),
            'val_cfg': {},
            'custom_hooks': [],
            'randomness.diff_rank_seed': False,
        }
        for changes in options:
            base |= changes
        super().__init__('shapes', work_dir, base)
        self.is_random = 'Mosaic' in str(self.config.train_dataloader)

    def trace(self, *others, **kwargs):
        trace = Trace(self.is_random)
        try:
            self.end = _state(self(trace, *others, **kwargs))
        except Killed:
            pass
        return trace

    def files(self):
        names = (path.name for path in Path(self.config.work_dir).glob('*.pth'))
        return sorted(name.split('-')[0] for name in names)  # published ones end in a hash


@pytest.fixture(autouse=True)
def quick_at_the_data(shapes, monkeypatch):
    """Without what takes most of the time of such small runs, and is nothing of theirs."""
    monkeypatch.chdir(shapes.parent)
    monkeypatch.setattr(gc, 'collect', lambda: 0)
    monkeypatch.setattr(Config, 'pretty_text', 'a = 1')
    monkeypatch.setattr(runner, 'collect_env', dict)
    monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)  # of MMEngine between two passes


@pytest.mark.parametrize('case', CASES)
def test_run_ends_as_under_mmengine(case, tmp_path):
    options = CASES[case]
    theirs, ours = Finished(tmp_path / 'theirs', options), Finished(tmp_path / 'ours', options)
    theirs.config.merge_from_dict(MMENGINE)
    theirs.config.train_cfg.type = f'mmengine.{theirs.config.train_cfg.type}'
    expected, found = theirs.trace(), ours.trace()
    assert vars(found) == vars(expected)
    assert ours.files() == theirs.files()
    assert ours.is_random or same(ours.end, theirs.end)

    if 'EarlyStopping' in case:  # MMEngine saves nothing of what it has seen
        assert len(found.steps) < 16
        return
    if 'checkpoints' in case:  # test_checkpoint_hook.py resumes from them
        return
    done = len(found.steps) - 2
    resumed = Finished(tmp_path / 'resumed', options, checkpoints(by_epoch=False, interval=done))
    before = resumed.trace(Kill(done + 1, before=True))
    after = resumed.trace(resume=True)
    assert len(before.steps) == done
    assert before.steps | after.steps == found.steps
    assert before.metrics | after.metrics == found.metrics
    assert same(resumed.end, ours.end)


class Made(Hook):
    """Notes which checkpoints say that a validation follows, and which validations follow."""

    def __init__(self):
        self.told, self.followed = [], []

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.message_hub.get_info('saved_before_validation'):
            self.told.append(len(self.told) + len(self.followed))

    def before_val(self, runner):
        self.followed.append(len(self.told) + len(self.followed))


@pytest.mark.parametrize(
    'case', ['validation begins late, then more often', 'the same by iterations']
)
def test_checkpoints_know_of_the_validation_that_follows(case, tmp_path):
    by_epoch = 'iterations' not in case
    made = Made()
    Finished(tmp_path, CASES[case], checkpoints(by_epoch=by_epoch, interval=1)).trace(made)
    assert made.told and len(made.told) == len(made.followed)
    assert [follows - 1 for follows in made.followed] == made.told
