"""Weights in the layouts of other libraries, in and out.

Importing it lets MMEngine's ``load_from`` read ``convnextv2://NAME``; see :mod:`.pretrained`.
"""

from .architecture import Architecture
from .checkpoint import Checkpoint, read_checkpoint, select_task
from .model_zoo import MODEL_ZOO, fetch
from .pretrained import read_backbone, read_state_dict
from .writing import FORMATS, write_checkpoint

__all__ = [
    'FORMATS',
    'MODEL_ZOO',
    'Architecture',
    'Checkpoint',
    'fetch',
    'read_backbone',
    'read_checkpoint',
    'read_state_dict',
    'select_task',
    'write_checkpoint',
]
