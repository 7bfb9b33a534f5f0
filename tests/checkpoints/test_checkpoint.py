"""What is found in a file: the layout, the network, the averaged weights; and what is wrong."""

import argparse

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from other_libraries import SMALL, build, randomize
from torch import nn

from convnextv2_mm.checkpoints import read_checkpoint, select_task
from convnextv2_mm.models import ConvNeXtV2, FCMAEDecoder


@pytest.fixture(scope='module')
def timm_state():
    return build('timm', 'atto').state_dict()


@pytest.fixture(scope='module')
def mm_state():
    return build('mmpretrain', SMALL).state_dict()


def saved(content, tmp_path, name='file.pth'):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def other(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def test_averaged_weights_of_timm_and_official_come_first(timm_state, tmp_path):
    training = dict(epoch=3, args=argparse.Namespace(lr=0.1), optimizer=dict(state={}))
    for raw, averaged in (('state_dict', 'state_dict_ema'), ('model', 'model_ema')):
        content = {raw: other(timm_state), averaged: timm_state, **training}
        checkpoint = read_checkpoint(saved(content, tmp_path))
        bias = checkpoint.weights['head.fc.bias']
        assert torch.equal(bias, timm_state['head.fc.bias'])
        assert checkpoint.place == averaged
        dropped = {name: reason for names, reason in checkpoint.dropped for name in names}
        assert 'moving average' in dropped[raw]
        assert dropped['optimizer'] == 'state of the training'


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = ConvNeXtV2(SMALL)
        self.head = nn.ModuleDict(dict(fc=nn.Linear(40, 3)))

    def forward(self, inputs, mode):
        return dict(loss=self.head['fc'](self.backbone(inputs)[0]).square().mean())


def test_averaged_weights_of_mmengine_come_first(tmp_path):
    """MMEngine keeps them under state_dict: as its own hook and runner write it."""
    runner = Runner(
        Classifier(),
        tmp_path,
        train_dataloader=dict(
            dataset=[dict(inputs=torch.randn(3, 32, 32))] * 4,
            sampler=dict(type=DefaultSampler, shuffle=False),
            collate_fn=dict(type='default_collate'),
            batch_size=2,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        experiment_name='average',
    )
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    checkpoint = read_checkpoint(tmp_path / 'epoch_1.pth')
    averaged = hook.ema_model.module.state_dict()
    raw = runner.model.state_dict()
    assert not torch.equal(averaged['head.fc.bias'], raw['head.fc.bias'])
    assert all(torch.equal(averaged[name], tensor) for name, tensor in checkpoint.weights.items())
    assert (['ema_state_dict'], 'state_dict is its moving average (EMA)') in checkpoint.dropped


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.module.', 'detector.'])
def test_wrapped_models_are_found(prefix, mm_state, tmp_path):
    state = {f'{prefix}{name}': tensor for name, tensor in mm_state.items()}
    checkpoint = read_checkpoint(saved(state, tmp_path))
    assert checkpoint.weights.keys() == mm_state.keys()


def test_one_of_several_backbones_is_chosen_by_its_prefix(mm_state, tmp_path):
    state = {f'student.{name}': tensor for name, tensor in mm_state.items()}
    state |= {f'teacher.{name}': tensor for name, tensor in other(mm_state).items()}
    path = saved(state, tmp_path)
    checkpoint = read_checkpoint(path, prefix='student.backbone')
    name = 'backbone.norm3.bias'
    assert torch.equal(checkpoint.weights[name], mm_state[name])
    with pytest.raises(
        ValueError, match="2 backbones: .* 'student.backbone.', 'teacher.backbone.'"
    ):
        read_checkpoint(path)
    with pytest.raises(ValueError, match='2 backbones'):
        read_checkpoint(path, prefix='backbone.')


def test_heads_that_are_no_linear_classifier_are_left_out(timm_state, tmp_path):
    state = timm_state | {'head.pre_logits.fc.weight': torch.zeros(320, 320)}
    checkpoint = read_checkpoint(saved(state, tmp_path))
    assert checkpoint.architecture.classes == 0
    assert any('head.pre_logits.fc.weight' in reason for _, reason in checkpoint.dropped)
    without_norm = {k: v for k, v in timm_state.items() if not k.startswith('head.norm')}
    checkpoint = read_checkpoint(saved(without_norm, tmp_path))
    assert checkpoint.architecture.classes == 0


def test_official_detector_of_v1_gives_its_backbone(tmp_path):
    state = randomize(
        ConvNeXtV2(SMALL, use_grn=False, layer_scale_init_value=1e-6, out_indices=range(4))
    ).state_dict()
    names = {'depthwise_conv': 'dwconv', 'pointwise_conv': 'pwconv'}
    official = {'neck.lateral_convs.0.conv.weight': torch.zeros(8, 8, 1, 1)}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        official[f'backbone.{name}'] = tensor
    checkpoint = read_checkpoint(saved(dict(state_dict=official, meta={}), tmp_path))
    assert (checkpoint.layout, checkpoint.architecture.version) == ('official', 1)
    assert checkpoint.weights.keys() == {f'backbone.{name}' for name in state}
    assert all(torch.equal(checkpoint.weights[f'backbone.{k}'], v) for k, v in state.items())
    assert ['neck.lateral_convs.0.conv.weight'] in [names for names, _ in checkpoint.dropped]


def test_task_keeps_what_it_needs(mm_state, tmp_path):
    decoder = FCMAEDecoder(40, embed_dims=16).state_dict()
    state = mm_state | {f'neck.{name}': tensor for name, tensor in decoder.items()}
    path = saved(state, tmp_path)
    for task, parts in (
        ('backbone', {'backbone'}),
        ('classification', {'backbone', 'head'}),
        ('pretraining', {'backbone', 'neck'}),
    ):
        checkpoint = read_checkpoint(path)
        assert (checkpoint.architecture.classes, checkpoint.architecture.has_decoder) == (10, True)
        select_task(checkpoint, task)
        assert {name.split('.')[0] for name in checkpoint.weights} == parts
        assert checkpoint.architecture.has_decoder == ('neck' in parts)
    path = saved({k: v for k, v in mm_state.items() if k.startswith('backbone')}, tmp_path)
    with pytest.raises(ValueError, match='needs a classifier'):
        select_task(read_checkpoint(path), 'classification')
    with pytest.raises(ValueError, match='needs a decoder'):
        select_task(read_checkpoint(path), 'pretraining')


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


WRONG = {
    'half the names missing': (
        lambda state: dict(list(state.items())[::2]),
        r'\d+ of the \d+ weights of a ConvNeXt V2 .* are missing, such as backbone',
    ),
    'a stage missing': (
        lambda state: without(state, 'stages.2.'),
        r'stages \[0, 1, 3\] have blocks, where ConvNeXt has stages 0 to 3',
    ),
    'shapes of no size': (
        lambda state: state | {'stages.1.downsample.1.weight': torch.zeros(90, 40, 2, 2)},
        r'downsample_layers.1.1.weight has shape \(90, 40, 2, 2\), where .* \(80, 40, 2, 2\)',
    ),
    'a shape that cannot be': (
        lambda state: state | {'stages.1.blocks.0.mlp.fc1.weight': torch.zeros(3)},
        r'mlp.fc1.weight has shape \(3,\), which it cannot have in the layout of timm',
    ),
    'GRN in some blocks only': (
        lambda state: without(state, 'stages.2.blocks.3.mlp.grn'),
        r'2 of the \d+ weights of a ConvNeXt V2 .* are missing, .*stages.2.3.grn.gamma',
    ),
    'layers that ConvNeXt has not': (
        lambda state: state | {'stages.0.blocks.0.se.fc1.weight': torch.zeros(8, 8)},
        r'stages.0.blocks.0.se.fc1.weight has no place in the layout of timm',
    ),
    'another network': (
        lambda state: dict(conv1=torch.zeros(3), fc=torch.zeros(3)),
        r'none of its 2 weights is named as in the layouts of .*; the first is conv1',
    ),
    'another stem': (
        lambda state: state | {'stem.0.weight': torch.zeros(20, 3, 3, 3)},
        r'downsample_layers.0.0.weight has shape \(20, 3, 3, 3\), where .* \(40, 3, 4, 4\)',
    ),
}


@pytest.mark.parametrize(('change', 'message'), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(change, message, timm_state, tmp_path):
    path = saved(change(timm_state), tmp_path)
    with pytest.raises(ValueError, match=f'^checkpoint .*file.pth is not of a whole.*{message}'):
        read_checkpoint(path)


@pytest.mark.parametrize('content', [[1, 2], {}, dict(state_dict={}), dict(epoch=1), 3])
def test_files_without_weights_are_refused(content, tmp_path):
    with pytest.raises(ValueError, match='holds no state dict'):
        read_checkpoint(saved(content, tmp_path))
