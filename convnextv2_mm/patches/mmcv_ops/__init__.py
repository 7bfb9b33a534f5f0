"""mmcv's compiled operators, for an mmcv that was installed without them.

The wheels of `onedl-mmcv` on the package index are pure Python: they lack the extension module
`mmcv._ext`, and `import mmdet` and `import mmseg` end in an ImportError. After `provide_mmcv_ops`,
Python finds a module in its place, which is built when mmcv asks for it. It computes what detectors
and segmentors use (NMS, Soft-NMS, RoIAlign, deformable convolution) with torchvision's operators
and plain PyTorch; every other operator is there to be imported and says, when called, how to get
the compiled one.

Signatures are those of mmcv/ops/csrc/pytorch/pybind.cpp, results go into the tensors that the
caller passes, and behaviour follows the C++ sources down to the order of equal scores. Two things
differ on purpose: fp16 and bf16 are computed in fp32 and rounded once, where the compiled operators
round every step (and do not know bf16); and a RoI of negative size is empty on the CPU as it is on
CUDA, where the compiled CPU operator stops.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType

__all__ = ['provide_mmcv_ops']

_EXT = 'mmcv._ext'


def provide_mmcv_ops() -> None:
    """Stand in for `mmcv._ext` where mmcv was installed without compiled operators.

    Call it before anything imports `mmcv.ops`, as mmdet and mmseg do: without operators that ends
    in an ImportError. It imports nothing itself, and further calls change nothing.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `mmcv._ext`: the compiled one if it is there and loads, else ours."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _EXT:
            return None
        compiled = PathFinder.find_spec(fullname, path)
        origin = compiled.origin if compiled else __file__
        return ModuleSpec(_EXT, _Loader(compiled), origin=origin)


class _Loader(Loader):
    def __init__(self, compiled: ModuleSpec | None) -> None:
        self.compiled = compiled

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        if self.compiled is not None:
            try:
                return module_from_spec(self.compiled)
            except ImportError as error:  # built for another PyTorch: slower operators beat none
                warnings.warn(
                    f"mmcv's compiled operators do not load ({error}); "
                    'PyTorch and torchvision operators take their place.',
                    stacklevel=2,
                )
                self.compiled = None
        return None

    def exec_module(self, module: ModuleType) -> None:
        if self.compiled is not None:
            self.compiled.loader.exec_module(module)  # type: ignore[union-attr]
            return
        module.__file__ = __file__
        import_module('.operators', __name__).put_into(module)
