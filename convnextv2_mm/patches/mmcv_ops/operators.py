"""The module that stands in for ``mmcv._ext``: the operators, and what is said of those missing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torchvision

from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .nms import nms, softnms
from .roi_align import roi_align_backward, roi_align_forward


def put_into(module: ModuleType) -> None:
    """Give a module our operators, and an answer for every other one."""
    for op in (
        get_compiler_version,
        get_compiling_cuda_version,
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    ):
        setattr(module, op.__name__, op)
    module.__getattr__ = _missing_op  # type: ignore[method-assign]


def _missing_op(name: str) -> Callable:
    """Answer for operators that this file lacks (`__getattr__` of the module, PEP 562)."""
    if name.startswith('_'):  # Python looks for these itself, and no operator is named so
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def op(*args, **kwargs):
        raise RuntimeError(
            f"mmcv's operator {name!r} needs mmcv's compiled extension, which this installation "
            'lacks: build it where PyTorch, setuptools>=80 and a compiler are installed (and set '
            'FORCE_CUDA=1 if no GPU is visible there) with `pip install --force-reinstall '
            '--no-deps --no-build-isolation --no-binary onedl-mmcv onedl-mmcv`'
        )

    op.__name__ = op.__qualname__ = name
    return op


def get_compiler_version() -> str:
    """What the environment log of a run shows as "MMCV Compiler"."""
    return f'none (operators of torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """What the environment log of a run shows as "MMCV CUDA Compiler"."""
    return 'not available'
