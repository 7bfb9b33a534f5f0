"""Hooks, optimizers, loops and config checks for MMEngine's runner."""

from .hooks.checkpoint_hook import CheckpointHook
from .hooks.fcmae_monitor_hook import FCMAEMonitorHook
from .hooks.no_targets_hook import NoTargetsHook
from .hooks.non_finite_hook import NonFiniteHook
from .hooks.visualization_hook import VisualizationHook
from .optimizers.layer_decay import LayerDecayOptimWrapperConstructor
from .runner.loops import EpochBasedTrainLoop, IterBasedTrainLoop

__all__ = [
    'CheckpointHook',
    'EpochBasedTrainLoop',
    'FCMAEMonitorHook',
    'IterBasedTrainLoop',
    'LayerDecayOptimWrapperConstructor',
    'NoTargetsHook',
    'NonFiniteHook',
    'VisualizationHook',
]
