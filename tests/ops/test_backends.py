"""The choice of an implementation."""

import importlib
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from convnextv2_mm.ops import backends, choices

OPERATORS = ('depthwise_conv', 'gelu_grn_linear')
DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


@pytest.fixture(params=OPERATORS)
def operator(request, monkeypatch):
    """Module of an operator, which has not made its choice yet and may choose as on CUDA."""
    module = importlib.import_module(f'convnextv2_mm.ops.{request.param}')
    monkeypatch.setattr(module, 'is_for_triton', lambda x: True)
    backends.why_not_triton.cache_clear()
    yield module
    backends.why_not_triton.cache_clear()


def is_triton_right(operator):
    function = getattr(operator, operator.__name__.rpartition('.')[2])
    return backends.is_triton_right(function, operator.TRIED_SHAPES, DEVICE)


def first_call(operator, backend='auto'):
    """The operator on features that need a gradient, and these and its parameters."""
    generator = torch.Generator().manual_seed(1)
    shapes = operator.TRIED_SHAPES
    tensors = [torch.randn(s, generator=generator, device='cpu').to(DEVICE) for s in shapes]
    tensors[0].requires_grad_()
    function = getattr(operator, operator.__name__.rpartition('.')[2])
    return lambda *t: function(*t, backend=backend), tensors


@pytest.mark.long
def test_triton_is_tried_out(operator):
    assert is_triton_right(operator)


@pytest.mark.parametrize('is_missing', [True, False])
def test_falls_back_where_triton_is_missing_or_wrong(operator, monkeypatch, is_missing):
    name = operator.__name__.rpartition('.')[2]
    kernels = f'convnextv2_mm.ops.triton.{name}'
    if is_missing:
        monkeypatch.setitem(sys.modules, kernels, None)
    else:
        monkeypatch.setattr(
            importlib.import_module(kernels), f'triton_{name}', lambda x, *others: x * 2
        )
    with pytest.warns(UserWarning, match=f"{name} uses backend 'torch' on {DEVICE}: Triton"):
        assert not is_triton_right(operator)


def test_an_old_triton_is_named_with_the_one_that_is_needed(operator, monkeypatch):
    triton = pytest.importorskip('triton')
    monkeypatch.setattr(triton, '__version__', '3.2.0')
    monkeypatch.setattr(backends, '_agree', lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match=r'Triton 3\.2\.0 cannot compile it: 3\.3 or newer'):
        assert not is_triton_right(operator)


def test_no_room_to_try_is_no_verdict(operator, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError('no room')

    with monkeypatch.context() as patch:
        patch.setattr(backends, '_agree', full)
        with pytest.raises(torch.OutOfMemoryError):
            is_triton_right(operator)
    monkeypatch.setattr(backends, '_agree', lambda *args: True)
    assert is_triton_right(operator)


def under_checkpointing(call, tensors):
    y = checkpoint(call, *tensors, use_reentrant=False)
    y.sum().backward()
    return y


def under_inference_mode(call, tensors):
    with torch.inference_mode():
        return call(*tensors)


def under_autocast(call, tensors):
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return call(*tensors).float()


def under_another_default_device(call, tensors):
    with torch.device('meta'):
        return call(*tensors)


def in_one_graph(call, tensors):
    torch.compiler.reset()
    return torch.compile(call, fullgraph=True, backend='aot_eager')(*tensors)


@pytest.mark.long
@pytest.mark.parametrize(
    'way',
    [
        under_checkpointing,
        under_inference_mode,
        under_autocast,
        under_another_default_device,
        in_one_graph,
    ],
)
def test_triton_is_chosen_wherever_the_first_call_comes(operator, way, monkeypatch, recwarn):
    if operator.__name__.endswith('depthwise_conv'):  # one tile: on a CPU it is interpreted
        monkeypatch.setattr(operator, 'TRIED_SHAPES', ((1, 4, 4, 8), (8, 1, 7, 7), (8,)))
    expected = first_call(operator, 'torch')
    y = way(*first_call(operator))
    assert [str(w.message) for w in recwarn if 'uses backend' in str(w.message)] == []
    assert backends.why_not_triton.cache_info().currsize == 1
    assert is_triton_right(operator)
    tolerance = 2e-2 if way is under_autocast else 1e-2 if DEVICE.type == 'cuda' else 1e-5
    expected = way(*expected) if way is under_autocast else expected[0](*expected[1])
    assert (y - expected).norm() <= tolerance * expected.norm()


def test_auto_is_torch_on_a_cpu():
    assert not backends.is_for_triton(torch.randn(2))


@pytest.mark.parametrize('reason', [None, 'gives other results'])
def test_choices_are_told_with_their_reason(reason, monkeypatch):
    cpu, gpu = torch.device('cpu'), torch.device('cuda', 0)
    assert set(choices.backend_choices(cpu)) == set(OPERATORS)
    assert set(choices.backend_choices(cpu).values()) == {'torch, since Triton is for GPUs'}
    monkeypatch.setattr(backends, '_why_not', lambda *args: reason)
    backends.why_not_triton.cache_clear()
    expected = 'torch, since Triton gives other results' if reason else 'triton'
    assert set(choices.backend_choices(gpu).values()) == {expected}
    backends.why_not_triton.cache_clear()
