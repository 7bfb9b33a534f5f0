"""Steps whose numbers cannot be used leave no trace, and too many of them end the run."""

import json
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from stopped_runs import Run
from torch import distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convnextv2_mm.engine import NonFiniteHook
from convnextv2_mm.engine.runner.resume import RunStopped, same
from convnextv2_mm.utils.distributed import leave_process_group

pytestmark = pytest.mark.long


@MODELS.register_module()
class Small(BaseModel):
    """A model with running statistics."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 1, 8)
        )

    fault = None

    def forward(self, inputs, data_samples=None, mode='loss'):
        loss = self.net(inputs).square().mean()
        if self.fault == 'loss':
            loss = loss + math.inf  # its gradients are finite
        elif self.fault is not None:  # the loss is finite
            weights = self.net[0].weight.float().sum()
            loss = loss + self.fault * (weights - weights.detach())
        return dict(loss=loss)


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


class Losses(Hook):
    """All losses of a run."""

    def before_train(self, runner):
        self.all = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.all.append(outputs['loss'].item())


class Fault(Spoil):
    """Let the model give an infinite loss, or a gradient of this size, in some iterations."""

    def before_train_iter(self, runner, batch_idx, data_batch):
        at_fault = runner.iter + 1 in self.iterations
        runner.model.fault = self.value if at_fault else None


CLIPPED = [None, dict(max_norm=1.0), dict(type='value', clip_value=1.0)]
MMENGINE = {
    'train_cfg': dict(type='mmengine.EpochBasedTrainLoop', max_epochs=4),
    'default_hooks.non_finite': None,
}


def step_by_step(optimizer, clip_grad=None, **wrapper):
    options = dict(_delete_=True, optimizer=OPTIMIZERS[optimizer], clip_grad=clip_grad, **wrapper)
    return SMALL | {'optim_wrapper': options, 'custom_hooks': [], 'param_scheduler': []}


@pytest.mark.parametrize('clip_grad', CLIPPED, ids=str)
@pytest.mark.parametrize('value', ['loss', 1e30])
@pytest.mark.parametrize('optimizer', ['fused AdamW', 'AdamW'])
def test_what_gradients_alone_do_not_show(optimizer, value, clip_grad, shapes, tmp_path):
    options = step_by_step(optimizer, clip_grad)
    theirs = Fault([5], value)
    Run(shapes, tmp_path / 'theirs', options | MMENGINE)(theirs)
    assert not same(theirs.states[4][0], theirs.states[3][0])  # MMEngine takes the step
    if value == 1e30 and clip_grad is None:  # and these weights never move again
        moment = theirs.states[-1][1][0]['exp_avg_sq']
        is_nan = moment.is_cuda and optimizer == 'fused AdamW'  # whose kernel adds inf - inf
        assert (moment.isnan() if is_nan else moment.isinf()).all()

    ours = Fault([5], value)
    Run(shapes, tmp_path / 'ours', options)(ours)
    assert same(ours.states[4], ours.states[3])
    assert not same(ours.states[5][0], ours.states[4][0])
    assert all(v.isfinite().all() for moment in ours.states[-1][1] for v in moment.values())


def test_large_gradients_that_can_be_used_are(shapes, tmp_path):
    """The square of the largest just fits; clipped, so must the norm of all of them."""
    size = 0.9 * math.sqrt(torch.finfo(torch.float32).max)
    for clip_grad, is_taken in ((None, True), (dict(max_norm=1.0), False)):
        fault = Fault([5], size)
        Run(shapes, tmp_path / str(is_taken), step_by_step('fused AdamW', clip_grad))(fault)
        assert same(fault.states[4], fault.states[3]) != is_taken
        assert all(v.isfinite().all() for moment in fault.states[-1][1] for v in moment.values())


@pytest.mark.parametrize('clip_grad', CLIPPED[:2], ids=str)
@pytest.mark.parametrize('optimizer', ['fused AdamW', 'AdamW'])
def test_loss_scale_is_not_a_large_gradient(optimizer, clip_grad, shapes, tmp_path, scaler_on_cpu):
    """A gradient that only its loss scale makes large is used; one that is large without is not."""
    scaled = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=2.0**20)
    for size, is_taken in ((1e15, True), (1e20, False)):
        fault = Fault([5], size)
        options = step_by_step(optimizer, clip_grad, **scaled)
        Run(shapes, tmp_path / str(is_taken), options)(fault)
        assert same(fault.states[4], fault.states[3]) != is_taken


@pytest.mark.parametrize('value', [math.nan, 'loss', 1e30])
@pytest.mark.parametrize('accumulative_counts', [1, 2])
def test_means_in_the_log_leave_the_step_out(accumulative_counts, value, shapes, tmp_path):
    options = step_by_step(
        'fused AdamW', dict(max_norm=1.0), accumulative_counts=accumulative_counts
    )
    options |= {
        'log_processor': dict(window_size=100, by_epoch=True),
        'default_hooks.checkpoint': None,
    }
    fault = (Spoil if value is math.nan else Fault)([1, 6], value)
    losses = Losses()
    runner = Run(shapes, tmp_path, options)(fault, losses)
    left_out = [1, 6] if accumulative_counts == 1 else [1, 2, 5, 6]
    kept = [loss for number, loss in enumerate(losses.all, 1) if number not in left_out]
    path = next(tmp_path.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert lines[-1]['loss'] == pytest.approx(sum(kept) / len(kept), rel=1e-6)
    assert math.isfinite(lines[-1]['grad_norm'])
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == len(kept)


def test_statistics_that_a_hook_has_changed_stay_so(shapes, tmp_path):
    """What changes between two steps is no part of the one that is left out."""

    class Change(Hook):
        def after_train_epoch(self, runner):
            norm = runner.model.net[1]
            norm.running_mean = torch.full_like(norm.running_mean, 7)  # as PreciseBNHook does

        def before_train_epoch(self, runner):
            assert runner.epoch == 0 or runner.model.net[1].running_mean[0] == 7

    fault = Fault([5], math.nan)  # the first of the second epoch
    Run(shapes, tmp_path, step_by_step('fused AdamW'))(fault, Change())
    assert fault.states[4][0]['net.1.running_mean'].unique().item() == 7


@pytest.mark.parametrize('rate', [-0.001, math.nan])
def test_learning_rate_of_a_schedule_ends_the_run(rate, shapes, tmp_path):
    schedule = dict(type='PolyLR', eta_min=rate, begin=2, end=6, by_epoch=False)
    options = step_by_step('SGD') | {'param_scheduler': [schedule]}
    with pytest.raises(RunStopped, match=r'iteration \d+: the learning rate .* 0 is (-0.00|nan)'):
        Run(shapes, tmp_path, options)()


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


def _one_of_two(rank, folder):
    """Three steps with each kind of optimizer; in the second, one process has an infinite loss."""
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
    moved = []
    for options in (dict(fused=True), {}):
        optimizer = torch.optim.AdamW(model.parameters(), **options)
        hook = NonFiniteHook()
        optimizer.register_step_pre_hook(hook._before_step)
        for fault in (0.0, math.inf if rank == 1 else 0.0, 0.0):
            before = model.module.weight.detach().clone()
            hook._begin_step()
            hook._backward(torch.Tensor.backward, model(torch.ones(1, 1)).sum() + fault)
            optimizer.step()
            optimizer.zero_grad()
            moved.append(not torch.equal(model.module.weight, before))
    (folder / f'{rank}.json').write_text(json.dumps(moved))
    leave_process_group()


def test_processes_leave_out_the_same_steps(without_gpus, tmp_path):
    torch.multiprocessing.start_processes(_one_of_two, (tmp_path,), 2, start_method='fork')
    for rank in range(2):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == [True, False, True] * 2


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='stop_after 0 is not allowed: 1 is least'):
        NonFiniteHook(stop_after=0)
