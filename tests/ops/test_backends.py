"""The choice of an implementation."""

import sys

import pytest
import torch

from convnextv2_mm.ops import backends


@pytest.fixture
def fresh_choice():
    backends._is_triton_right.cache_clear()
    yield
    backends._is_triton_right.cache_clear()


def test_triton_is_tried_out(fresh_choice):
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    assert backends._is_triton_right(device)


@pytest.mark.parametrize('is_missing', [True, False])
def test_falls_back_where_triton_is_missing_or_wrong(fresh_choice, monkeypatch, is_missing):
    if is_missing:
        monkeypatch.setitem(sys.modules, 'convnextv2_mm.ops.triton_depthwise_conv', None)
    else:
        from convnextv2_mm.ops import triton_depthwise_conv

        monkeypatch.setattr(
            triton_depthwise_conv, 'triton_depthwise_conv', lambda x, w, b, _: x * w.mean() + b
        )
    with pytest.warns(UserWarning, match="backend 'torch' is used on cpu: Triton's kernels"):
        assert not backends._is_triton_right(torch.device('cpu'))


def test_auto_is_torch_on_a_cpu():
    assert not backends.is_for_triton(torch.randn(2))
