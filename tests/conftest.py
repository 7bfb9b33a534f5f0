import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # read when the kernels are defined

from mmengine.registry import DefaultScope  # noqa: E402

import convnextv2_mm  # noqa: E402, F401  # before a test imports mmdet or mmseg: compat/mmcv_ops.py


@pytest.fixture(autouse=True)
def no_default_scope():
    """Forget the scope that a test before has set, as a new process would."""
    DefaultScope._instance_dict.clear()
