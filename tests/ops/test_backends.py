"""The choice of an implementation, and what compilers make of the operators."""

import os
import subprocess
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


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from convnextv2_mm.ops import triton_depthwise_conv as conv, triton_gelu_grn_linear as gelu


def build(kernel, pointers, integers, constants):
    names = kernel.arg_names
    kinds = {n: '*bf16' if n in ('x', 'y', 'grad', 'grad_x') else '*fp32' for n in pointers}
    signature = {n: kinds.get(n, 'i32' if n in integers else 'constexpr') for n in names}
    signature.update({n: '*i32' for n in names if n == 'table'})
    source = ASTSource(kernel, signature, constants)
    kernel = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=1))
    assert kernel.asm['cubin']


for tile, dense in ((4, True), (2, False)):
    constants = dict(C=128, T=tile, R=-(-3 // tile), STRIDE=tile, BC=64)
    constants.update(IS_DENSE=dense, IS_EVEN=False)
    build(conv._conv_kernel, ('x', 'weight', 'bias', 'y'), ('H', 'W'),
          dict(constants, FLIP=True, HAS_BIAS=True))
    build(conv._weight_grad_kernel, ('x', 'grad', 'partial'), ('tiles', 'H', 'W'), constants)
sites = dict(C=512, PART=256, ROWS=16, BLOCK=128)
build(gelu._squares_kernel, ('x', 'partial'), ('sites',), sites)
build(gelu._apply_kernel, ('x', 'scale', 'beta', 'y'), ('sites',), sites)
build(gelu._grad_sums_kernel, ('x', 'grad', 'dots', 'totals'), ('sites',), sites)
build(gelu._grads_kernel, ('x', 'grad', 'scale', 'beta', 'per_norm', 'y', 'grad_x'), ('sites',),
      sites)
samples = dict(C=512, EPS=1e-6, BLOCK=512)
build(gelu._norm_kernel, ('partial', 'gamma', 'norm', 'scale'), ('parts',), samples)
build(gelu._grad_norm_kernel, ('dots', 'totals', 'norm', 'gamma', 'per_norm', 'grads'),
      ('parts', 'samples'), samples)
print('built')
"""


def test_kernels_compile_for_a_gpu():
    """The interpreter takes what the compiler refuses; the compiler needs no GPU."""
    pytest.importorskip('triton')
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == 'built', done.stderr[-2000:]
