"""Steps whose gradients are not finite leave no trace, and too many of them end the run."""

import json
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from stopped_runs import Run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convnextv2_mm.engine import NonFiniteHook
from convnextv2_mm.engine.resume import RunStopped, same


@MODELS.register_module()
class Small(BaseModel):
    """A model with running statistics."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 1, 8)
        )

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=self.net(inputs).square().mean())


SMALL = {
    'model': dict(
        _delete_=True,
        type='mmengine.Small',
        data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[99], std=[50]),
    ),
    'default_hooks.checkpoint': None,
}
OPTIMIZERS = {
    'fused AdamW': dict(type='AdamW', lr=0.1, fused=True),
    'AdamW': dict(type='AdamW', lr=0.1),
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1),
}


class Spoil(Hook):
    """Put a value into the images of some iterations, and note the state after all of them."""

    def __init__(self, iterations, value=math.nan):
        self.iterations = iterations
        self.value = value
        self.states = []

    def before_train_iter(self, runner, batch_idx, data_batch):
        if runner.iter + 1 in self.iterations:
            data_batch['inputs'] = data_batch['inputs'].float()
            data_batch['inputs'][0, 0, 0, 0] = self.value

    def after_train_iter(self, runner, *args, **kwargs):
        model = {k: v.clone() for k, v in runner.model.state_dict().items() if 'num_b' not in k}
        moments = runner.optim_wrapper.optimizer.state.values()
        moments = [{k: v.clone() for k, v in moment.items()} for moment in moments]
        self.states.append((model, moments))


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AmpOptimWrapper'])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_step_leaves_no_trace(optimizer, wrapper, value, shapes, tmp_path, scaler_on_cpu):
    options = {'type': wrapper, 'optimizer': OPTIMIZERS[optimizer]}
    if wrapper == 'AmpOptimWrapper':
        options |= dict(dtype='bfloat16', loss_scale=1.0)
    wrapper = dict(_delete_=True, accumulative_counts=2, **options)
    run = Run(shapes, tmp_path, SMALL | {'optim_wrapper': wrapper, 'custom_hooks': []})
    spoil = Spoil([5, 10], value)
    hook = run(spoil).hooks
    hook = next(h for h in hook if isinstance(h, NonFiniteHook))
    assert hook.total == 2
    states = spoil.states  # by iteration, from 0
    assert same(states[5], states[3]) and same(states[9], states[7])  # steps 3 and 5 of 8
    for before, after in ((1, 3), (5, 7), (9, 11), (11, 13), (13, 15)):
        assert not same(states[after][0], states[before][0])
    assert all(v.isfinite().all() for v in states[-1][0].values())
    files = sorted(path.name for path in (tmp_path / 'non_finite').iterdir())
    assert files == ['iter_10_rank_0.json', 'iter_6_rank_0.json']
    told = json.loads((tmp_path / 'non_finite' / 'iter_6_rank_0.json').read_text())
    assert told['losses'][0] in ('nan', 'inf')
    assert math.isfinite(float(told['losses'][1]))
    assert len(told['files']) == 4 and all(name.endswith('.jpg') for name in told['files'])


def test_run_ends_after_many_in_a_row(shapes, tmp_path):
    options = {'optim_wrapper.accumulative_counts': 1, 'default_hooks.non_finite.stop_after': 3}
    run = Run(shapes, tmp_path, options)
    spoil = Spoil([2, 3, 5, 9, 10, 11, 12])
    with pytest.raises(RunStopped, match='3 steps in a row up to iteration 11 .*non_finite'):
        run(spoil)
    assert len(list((tmp_path / 'non_finite').iterdir())) == 6
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert all(v.isfinite().all() for v in checkpoint['state_dict'].values())


def test_float16_that_overflows_is_told_of(shapes, tmp_path, scaler_on_cpu, capsys):
    wrapper = dict(
        _delete_=True,
        type='AmpOptimWrapper',  # float16 is its default, on a GPU
        loss_scale=dict(init_scale=4.0),
        optimizer=OPTIMIZERS['fused AdamW'],
    )
    run = Run(shapes, tmp_path, SMALL | {'optim_wrapper': wrapper, 'custom_hooks': []})
    run(Spoil([3, 4, 7, 9]))
    warnings = [line for line in capsys.readouterr().out.splitlines() if 'bfloat16' in line]
    assert len(warnings) == 1  # of four steps left out
    assert 'has fallen to 0.5' in warnings[0]


class NoHostReads(TorchDispatchMode):
    """Refuse the operators whose result's value Python waits for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ('_local_scalar_dense', 'nonzero', 'equal.default', 'item')
        assert not any(name in str(func) for name in waiting), f'{func} waits for the device'
        return func(*args, **(kwargs or {}))


def test_fused_step_does_not_wait_for_the_device():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.register_step_pre_hook(NonFiniteHook()._before_step)
    for gradient, moves in ((math.nan, False), (1.0, True)):
        weight.grad = torch.full_like(weight, gradient)
        before = weight.detach().clone()
        with NoHostReads():
            optimizer.step()
        assert torch.equal(weight, before) != moves


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='interval 0 and stop_after 3 must both be 1 or more'):
        NonFiniteHook(interval=0, stop_after=3)
