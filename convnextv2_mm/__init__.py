"""ConvNeXt V2 and FCMAE for OpenMMLab.

Importing the package is all a config needs: ``custom_imports = dict(imports=['convnextv2_mm'])``
makes everything under the scope ``convnextv2_mm`` known. Nothing is imported before it is asked
for; what changes in other libraries is listed in :mod:`convnextv2_mm.patches`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .utils.opencv import check_opencv

check_opencv()  # before mmengine and mmcv import it

from . import registry  # noqa: E402, F401
from .patches.config_packages import register_config_packages  # noqa: E402
from .patches.mmcv_ops import provide_mmcv_ops  # noqa: E402
from .version import __version__  # noqa: E402

provide_mmcv_ops()
register_config_packages()
if 'mmengine.runner.checkpoint' in sys.modules:
    from . import checkpoints  # noqa: F401  # its loader learns convnextv2://

if TYPE_CHECKING:  # for editors and type checkers
    from .apis.analysis.errors import analyse_errors
    from .apis.analysis.reconstruction import reconstruct
    from .apis.browse import browse_dataset
    from .apis.conversion import convert
    from .apis.dataset_check import check_dataset
    from .apis.export import export_onnx
    from .apis.features import extract_features
    from .apis.flops import count_flops
    from .apis.inference import load_backbone, load_model, predict
    from .apis.knn import evaluate_knn
    from .apis.predictions import save_predictions
    from .apis.sweep import sweep
    from .apis.test import test
    from .apis.train import train
    from .checkpoints import MODEL_ZOO, fetch, read_checkpoint, write_checkpoint
    from .models import FCMAE, ConvNeXtV2, FCMAEDecoder, FCMAEHead, SparseConvNeXtV2
    from .patches import safe_loading

_PUBLIC = {
    'models': ['ConvNeXtV2', 'FCMAE', 'FCMAEDecoder', 'FCMAEHead', 'SparseConvNeXtV2'],
    'checkpoints': ['MODEL_ZOO', 'fetch', 'read_checkpoint', 'write_checkpoint'],
    'apis.train': ['train'],
    'apis.test': ['test'],
    'apis.inference': ['load_backbone', 'load_model', 'predict'],
    'apis.predictions': ['save_predictions'],
    'apis.export': ['export_onnx'],
    'apis.features': ['extract_features'],
    'apis.conversion': ['convert'],
    'apis.dataset_check': ['check_dataset'],
    'apis.browse': ['browse_dataset'],
    'apis.sweep': ['sweep'],
    'apis.flops': ['count_flops'],
    'apis.knn': ['evaluate_knn'],
    'apis.analysis.errors': ['analyse_errors'],
    'apis.analysis.reconstruction': ['reconstruct'],
    'patches': ['safe_loading'],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    'ConvNeXtV2',
    'FCMAE',
    'FCMAEDecoder',
    'FCMAEHead',
    'MODEL_ZOO',
    'SparseConvNeXtV2',
    '__version__',
    'analyse_errors',
    'browse_dataset',
    'check_dataset',
    'convert',
    'count_flops',
    'evaluate_knn',
    'export_onnx',
    'extract_features',
    'fetch',
    'load_backbone',
    'load_model',
    'predict',
    'read_checkpoint',
    'reconstruct',
    'safe_loading',
    'save_predictions',
    'sweep',
    'test',
    'train',
    'write_checkpoint',
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(import_module(f'.{_HOME[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
