"""A warning for a log interval with nothing to learn from, and for nothing less."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from stopped_runs import Run
from torch import nn


@MODELS.register_module()
class Mean(BaseModel):
    """Learns something from any batch."""

    def __init__(self, decode_head=None, **kwargs):
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(()))
        if decode_head is not None:
            self.decode_head = nn.Module()
            self.decode_head.ignore_index = decode_head['ignore_index']

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=(self.scale * inputs.mean()).square())


class Empty(Hook):
    """Take the targets out of the batches of some iterations, up to one image of each batch."""

    priority = 'VERY_HIGH'

    def __init__(self, iterations, label=255, keep=0):
        self.iterations, self.label, self.keep = iterations, label, keep

    def before_train_iter(self, runner, batch_idx, data_batch):
        samples = data_batch['data_samples']
        for sample in samples[self.keep :] if runner.iter + 1 in self.iterations else []:
            if 'gt_sem_seg' in sample:
                sample.gt_sem_seg.data[:] = self.label
            else:
                sample.gt_instances = sample.gt_instances[:0]


BOXES = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
MASKS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
TASKS = {
    'mmdet': ('convnextv2_mm.ShapesDetDataset', [*BOXES, dict(type='PackDetInputs')]),
    'mmseg': ('convnextv2_mm.ShapesSegDataset', [*MASKS, dict(type='PackSegInputs')]),
}


def warnings(shapes, work_dir, capsys, scope, empty, **options):
    """What is told in a run of 16 batches of 2 images, of 1 at the end of each epoch of 4."""
    kind, pipeline = TASKS[scope]
    preprocessor = dict(type='DetDataPreprocessor', mean=[99], std=[50])
    if scope == 'mmseg':
        preprocessor |= dict(type='SegDataPreProcessor', size=(64, 64))
    model = dict(type='mmengine.Mean', _delete_=True, data_preprocessor=preprocessor, **options)
    changes = {
        'default_scope': scope,
        'model': model,
        'custom_hooks': [],
        'default_hooks.logger.interval': 5,
        'default_hooks.checkpoint': None,
        'train_dataloader.collate_fn': dict(type='pseudo_collate'),
        'train_dataloader.dataset.type': kind,
        'train_dataloader.dataset.pipeline': pipeline,
    }
    run = Run(shapes, work_dir, changes)
    capsys.readouterr()
    run(empty)
    lines = capsys.readouterr().out.splitlines()
    return [line.split(' - ')[-1] for line in lines if 'check_dataset.py' in line]


@pytest.mark.parametrize('scope', TASKS)
def test_interval_without_a_target_is_told(scope, shapes, tmp_path, capsys):
    told = warnings(shapes, tmp_path, capsys, scope, Empty(range(3, 13)))
    assert len(told) == 2  # of ten batches in a row
    assert told[0].startswith('iteration 7: the 9 images of the last 5 batches have no ')
    cause = 'metainfo.classes' if scope == 'mmdet' else 'label 255, which is ignored'
    assert cause in told[0]


@pytest.mark.parametrize('scope', TASKS)
def test_less_than_that_is_not(scope, shapes, tmp_path, capsys):
    most = set(range(1, 17)) - {5, 10, 15}
    assert not warnings(shapes, tmp_path / 'a', capsys, scope, Empty(most))
    assert not warnings(shapes, tmp_path / 'b', capsys, scope, Empty({1, 2, 3}, keep=1))


def test_ignored_label_is_that_of_the_model(shapes, tmp_path, capsys):
    head = dict(decode_head=dict(ignore_index=0))
    assert not warnings(shapes, tmp_path / 'a', capsys, 'mmseg', Empty(range(1, 17)), **head)
    told = warnings(shapes, tmp_path / 'b', capsys, 'mmseg', Empty(range(1, 17), label=0), **head)
    assert len(told) == 3 and 'label 0, which is ignored' in told[0]
