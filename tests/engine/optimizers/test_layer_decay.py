"""Layer decay: mmseg's numbering of ConvNeXt-B is the oracle for groups, a list for layers."""

import pytest
import torch
from mmseg.engine.optimizers.layer_decay_optimizer_constructor import get_layer_id_for_convnext
from torch import nn

from convnextv2_mm.engine import LayerDecayOptimWrapperConstructor
from convnextv2_mm.engine.optimizers.layer_decay import layer_id
from convnextv2_mm.models import FCMAE, ConvNeXtV2

TINY = dict(depths=[2, 2, 6, 2], channels=[8, 8, 8, 8])


class Detector(nn.Module):
    def __init__(self, arch=TINY):
        super().__init__()
        self.backbone = ConvNeXtV2(arch, out_indices=[0, 1, 2, 3])
        self.head = nn.Linear(8, 2)


def construct(model, **paramwise_cfg):
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05))
    return LayerDecayOptimWrapperConstructor(wrapper, paramwise_cfg)(model)


def options_by_name(optim_wrapper):
    return {
        name: (group['lr'], group['weight_decay'])
        for group in optim_wrapper.optimizer.param_groups
        for name in group['param_names']
    }


def test_groups_are_those_of_mmseg():
    with torch.device('meta'):
        model = ConvNeXtV2('base', out_indices=[0, 1, 2, 3])
    for name, _ in model.named_parameters():
        expected = get_layer_id_for_convnext(f'backbone.{name}', 12)
        assert layer_id(name, model.depths, 'group_wise') == (expected, 13), name


def test_layers_are_numbered_one_by_one():
    numbers = {}
    for name, _ in Detector().backbone.named_parameters():
        number, last = layer_id(name, TINY['depths'], 'layer_wise')
        numbers.setdefault('.'.join(name.split('.')[:3]), number)
        assert last == 13
    blocks = [numbers[f'stages.{s}.{b}'] for s, d in enumerate(TINY['depths']) for b in range(d)]
    assert blocks == list(range(1, 13))
    # The official rule: what comes before a stage has the number of its first block.
    downsampling = [numbers[f'downsample_layers.{s}.0'] for s in range(4)]
    assert downsampling == [1, 3, 5, 11]
    assert numbers['norm3.weight'] == 13


def test_rates_and_weight_decay_of_a_detector():
    options = options_by_name(construct(Detector(), decay_rate=0.9, decay_type='layer_wise'))
    assert options['backbone.stages.0.0.pointwise_conv1.weight'] == pytest.approx(
        (1e-2 * 0.9**12, 0.05)
    )
    assert options['backbone.stages.3.1.pointwise_conv1.weight'] == pytest.approx(
        (1e-2 * 0.9, 0.05)
    )
    assert options['head.weight'] == pytest.approx((1e-2, 0.05))
    wide = {name for name, parameter in Detector().named_parameters() if parameter.ndim > 1}
    assert {name for name, (_, weight_decay) in options.items() if weight_decay} == wide
    assert not any(name.endswith(('bias', 'gamma', 'beta')) for name in wide)


def test_every_trained_parameter_is_there_once():
    model = Detector()
    model.backbone.frozen_stages = 1
    model.train()
    optim_wrapper = construct(model, decay_rate=0.9)
    given = [p for group in optim_wrapper.optimizer.param_groups for p in group['params']]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(given) == len(trained) < len(list(model.parameters()))
    assert {id(p) for p in given} == {id(p) for p in trained}


def test_bare_backbone_and_fcmae():
    options = options_by_name(construct(ConvNeXtV2(TINY), decay_rate=0.5))
    assert options['stages.3.1.pointwise_conv1.weight'][0] == pytest.approx(5e-3)
    fcmae = FCMAE(
        dict(type='convnextv2_mm.SparseConvNeXtV2', arch=TINY),
        dict(type='convnextv2_mm.FCMAEDecoder', in_channels=8, embed_dims=8),
        dict(type='convnextv2_mm.FCMAEHead'),
    )
    optim_wrapper = construct(fcmae, decay_rate=1.0)
    groups = optim_wrapper.optimizer.param_groups
    assert [group['weight_decay'] for group in groups] == [0.0, 0.05]
    assert {group['lr'] for group in groups} == {1e-2}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'decay_rate None is not allowed'),
        (dict(decay_rate=1.2), r'decay_rate 1.2 is not allowed: it must be in \(0, 1\]'),
        (dict(decay_rate=0.9, decay_type='stage_wise'), "'stage_wise' is unknown"),
        (dict(decay_rate=0.9, num_layers=12), r"\['num_layers'\] unknown"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LayerDecayOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1.0)), options)


def test_model_without_a_backbone_is_named():
    with pytest.raises(ValueError, match='Linear holds no convnextv2_mm.ConvNeXtV2'):
        construct(nn.Linear(2, 2), decay_rate=0.9)
