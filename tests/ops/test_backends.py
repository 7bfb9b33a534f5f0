"""The choice of an implementation."""

import importlib
import sys

import pytest
import torch

from convnextv2_mm.ops import backends

OPERATORS = ('depthwise_conv', 'gelu_grn_linear')


@pytest.fixture(params=OPERATORS)
def operator(request):
    """Module of an operator, which has not made its choice yet."""
    module = importlib.import_module(f'convnextv2_mm.ops.{request.param}')
    module._is_triton_right.cache_clear()
    yield module
    module._is_triton_right.cache_clear()


@pytest.mark.long
def test_triton_is_tried_out(operator):
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    assert operator._is_triton_right(device)


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
    with pytest.warns(UserWarning, match=f"{name} uses backend 'torch' on cpu: Triton"):
        assert not operator._is_triton_right(torch.device('cpu'))


def test_auto_is_torch_on_a_cpu():
    assert not backends.is_for_triton(torch.randn(2))
