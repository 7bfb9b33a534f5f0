"""What MMEngine's runner needs beside the models."""

from .checkpoint_hook import CheckpointHook
from .fcmae_monitor import FCMAEMonitorHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .no_targets import NoTargetsHook
from .non_finite import NonFiniteHook
from .pictures import PictureHook
from .reconstruction_loss import ReconstructionLoss

__all__ = [
    'CheckpointHook',
    'EpochBasedTrainLoop',
    'FCMAEMonitorHook',
    'IterBasedTrainLoop',
    'LayerDecayOptimWrapperConstructor',
    'NoTargetsHook',
    'NonFiniteHook',
    'PictureHook',
    'ReconstructionLoss',
]
