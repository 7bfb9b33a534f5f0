"""The monitor of pre-training: what it shows is true, and training goes as it would without."""

import json
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from convnextv2_mm.analysis import choose_blocks, watch_features
from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.engine import FCMAEMonitorHook
from convnextv2_mm.engine.hooks.fcmae_monitor_hook import _undisturbed
from convnextv2_mm.models import SparseConvNeXtV2
from convnextv2_mm.visualization.drawing import draw_reconstruction

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['convnextv2_mm'])
model = dict(
    type='convnextv2_mm.FCMAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[124, 116, 104], std=[58, 57, 57], to_rgb=True
    ),
    backbone=dict(
        type='convnextv2_mm.SparseConvNeXtV2',
        arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]),
        drop_path_rate=0.5,
        frozen_stages=1,
    ),
    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=16, embed_dims=16),
    head=dict(type='convnextv2_mm.FCMAEHead'),
)
loader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
load = dict(type='LoadImageFromFile')
crop = dict(type='RandomResizedCrop', scale=64)
flip = dict(type='RandomFlip', prob=0.5)
pack = dict(type='PackInputs')
data = dict(type='convnextv2_mm.ShapesClsDataset', data_root='{root}')
train_dataloader = dict(dataset=dict(split='train', pipeline=[load, crop, flip, pack], **data))
train_dataloader.update(loader)
# Random on purpose: the monitor keeps what it read, and gives the random state back.
test_dataloader = dict(dataset=dict(split='val', pipeline=[load, crop, flip, pack], **data))
test_dataloader.update(loader)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
test_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=2, clip_grad=dict(max_norm=1.0)
)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=8, num_val=5, size=64, seed=0)
    return root


def build(shapes, work_dir, hooks, **options):
    config = Config.fromstring(CONFIG.replace('{root}', str(shapes)), '.py')
    config.merge_from_dict(options)
    config.work_dir, config.experiment_name = str(work_dir), work_dir.name
    config.custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', **hook) for hook in hooks]
    init_default_scope('mmpretrain')
    return Runner.from_cfg(config)


def scalars(work_dir):
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.long
def test_training_is_bit_equal_with_and_without(shapes, tmp_path):
    runners = [
        build(shapes, tmp_path / name, hooks)
        for name, hooks in (
            ('without', []),
            ('with', [dict(interval=1, num_images=3), dict(interval=1, by_epoch=False)]),
        )
    ]
    for runner in runners:
        torch.manual_seed(1)
        np.random.seed(1)
        runner.train()
    without, monitored = runners
    for name, value in without.model.state_dict().items():
        assert torch.equal(value, monitored.model.state_dict()[name]), name
    states = [runner.optim_wrapper.optimizer.state_dict()['state'] for runner in runners]
    for number, state in states[0].items():
        for name, value in state.items():
            assert torch.equal(value, states[1][number][name])
    losses = [
        [e['loss'] for e in scalars(tmp_path / n) if 'loss' in e] for n in ('without', 'with')
    ]
    assert losses[0] == losses[1]
    # The monitor did run, also between two steps that accumulate one gradient.
    assert sum('monitor/loss' in entry for entry in scalars(tmp_path / 'with')) == 1 + 3 + 1 + 6
    modes = [[part.training for part in runner.model.modules()] for runner in runners]
    assert modes[0] == modes[1]
    assert True in modes[0] and False in modes[0]


def test_shown_figures_are_those_of_the_model(shapes, tmp_path):
    runner = build(shapes, tmp_path / 'run', [dict(interval=2, num_images=3)])
    runner.train()
    shown = [entry for entry in scalars(tmp_path / 'run') if 'monitor/loss' in entry]
    assert [entry['step'] for entry in shown] == [0, 4, 6]  # before, 2 epochs, the last

    (hook,) = (hook for hook in runner.hooks if isinstance(hook, FCMAEMonitorHook))
    model = runner.model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(hook.batch, False)
        samples = model.predict(**data)
        features = {}
        with watch_features(choose_blocks(model.backbone), features.__setitem__):
            model.backbone(data['inputs'])
    losses = [sample.reconstruction_loss for sample in samples]
    assert len(losses) == 3
    assert shown[-1]['monitor/loss'] == pytest.approx(np.mean(losses))
    dataset = DATASETS.build(runner.cfg.test_dataloader.dataset)
    spaced = [dataset.get_data_info(index)['img_path'] for index in (0, 2, 4)]
    assert [sample.img_path for sample in samples] == spaced
    for name, block in choose_blocks(model.backbone).items():
        maps = features[name].flatten(1, -2).double()
        maps = maps / maps.norm(dim=1, keepdim=True)
        expected = ((1 - maps.transpose(1, 2) @ maps) / 2).mean().item()
        assert shown[-1][f'cosine_distance/{name}'] == pytest.approx(expected, rel=1e-5)
        assert shown[-1][f'grn_gamma/{name}'] == pytest.approx(block.grn.gamma.norm().item())
        assert shown[-1][f'grn_beta/{name}'] == pytest.approx(block.grn.beta.norm().item())
    assert shown[0]['grn_gamma/stages.3.0'] == 0 < shown[-1]['grn_gamma/stages.3.0']

    pictures = sorted(tmp_path.glob('run/*/vis_data/vis_image/*.png'))
    assert [path.name for path in pictures] == [f'reconstructions_{step}.png' for step in (0, 4, 6)]
    found = [cv2.imread(str(path))[..., ::-1] for path in pictures]
    assert found[0].shape == (3 * 64, 3 * 64, 3)
    expected = np.concatenate([draw_reconstruction(sample, runner.cfg) for sample in samples])
    np.testing.assert_array_equal(found[-1], expected)
    # Masks and originals stay the same; what is reconstructed does not.
    np.testing.assert_array_equal(found[0][:, :64], found[-1][:, :64])
    np.testing.assert_array_equal(found[0][:, 128:], found[-1][:, 128:])
    assert (found[0][:, 64:128] != found[-1][:, 64:128]).any()


def test_all_random_states_are_given_back():
    model = torch.nn.Dropout()
    drawn = []
    for _ in range(2):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        if drawn:
            with _undisturbed(model):
                assert not model.training
                random.random(), np.random.rand(), torch.rand(1)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    assert model.training


def test_v1_has_no_grn_to_show(shapes, tmp_path):
    options = {'model.backbone.use_grn': False, 'model.backbone.layer_scale_init_value': 1e-6}
    runner = build(shapes, tmp_path / 'run', [{}], **options, **{'train_cfg.max_epochs': 1})
    runner.train()
    keys = {key for entry in scalars(tmp_path / 'run') for key in entry}
    assert 'cosine_distance/stages.0.0' in keys
    assert not any(key.startswith('grn_') for key in keys)


@pytest.mark.parametrize('options', [dict(interval=0), dict(num_images=0)])
def test_wrong_options_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=f'{name} 0 of FCMAEMonitorHook is not allowed'):
        FCMAEMonitorHook(**options)


def test_other_models_are_refused(shapes, tmp_path):
    runner = build(shapes, tmp_path / 'run', [{}])
    runner.model = SparseConvNeXtV2('atto')
    with pytest.raises(ValueError, match='is for FCMAE, not for SparseConvNeXtV2'):
        runner.call_hook('before_train')
