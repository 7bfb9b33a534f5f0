from functools import partial

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper

from convnextv2_mm.datasets.shapes.drawing import write_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Seven drawings for training: the last batch of an epoch is smaller."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=7, num_val=2, size=64, seed=0)
    return root


@pytest.fixture
def scaler_on_cpu(monkeypatch):
    """Let MMEngine's mixed precision run without a GPU."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = partial(torch.amp.GradScaler, device='cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
