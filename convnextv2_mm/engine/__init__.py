"""What MMEngine's runner needs beside the models."""

from .fcmae_monitor import FCMAEMonitorHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pictures import PictureHook
from .reconstruction_loss import ReconstructionLoss

__all__ = [
    'FCMAEMonitorHook',
    'LayerDecayOptimWrapperConstructor',
    'PictureHook',
    'ReconstructionLoss',
]
