"""Write a checkpoint in the layout of a library, atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..utils.atomic import atomic_write
from . import naming as layouts
from .architecture import Architecture
from .checkpoint import Checkpoint
from .naming import Naming, Weights, has_output_norms

FORMATS = ('mm', 'mmpretrain', 'timm', 'transformers', 'official')
# Sizes that timm.create_model builds with 1x1 convolutions, and those that it has no name for.
_TIMM_CONV_MLP = ('atto', 'femto', 'pico', 'nano')
_NOT_IN_TIMM = ((1, 'huge'), (2, 'xlarge'))
# What a layout may have no place for: all the rest is the network.
_PARTS_APART = ('head.', 'neck.', 'backbone.norm')


def write_checkpoint(checkpoint: Checkpoint, destination: Path, to: str) -> str:
    """Write a checkpoint for another library.

    What the layout has no place for is added to ``checkpoint.dropped``.

    Args:
        checkpoint: What to write.
        destination: A file, or for ``transformers`` a folder that does not exist yet. With the
            ending ``.safetensors`` timm's file is one.
        to: One of ``FORMATS``.

    Returns:
        How to open it.

    Raises:
        FileExistsError: If the destination is a folder.
        FileNotFoundError: If the folder of the destination does not exist.
        ValueError: If the layout cannot hold this network, or the name does not fit it.
    """
    architecture = checkpoint.architecture
    _check_destination(destination, to)
    layout = _choose_naming(architecture, to)
    state, left_out = layout.from_ours(checkpoint.weights)
    network = [name for name in left_out if not name.startswith(_PARTS_APART)]
    if network:
        raise ValueError(f'{network[0]} has no place in the layout of {layout.name}')
    if left_out:
        checkpoint.dropped.append((left_out, f'the layout of {to} has no place for them'))
    # Views of larger tensors would be written with all of these.
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    with atomic_write(destination) as path:
        if to == 'transformers':
            path.mkdir()
            save_file(state, path / 'model.safetensors', metadata={'format': 'pt'})
            config = _transformers_config(checkpoint)
            (path / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
        elif destination.suffix == '.safetensors':
            save_file(state, path, metadata={'format': 'pt'})
        else:
            torch.save(_file_content(checkpoint, state, to), path)
    return _how_to_open(checkpoint, destination, to)


def _check_destination(destination: Path, to: str) -> None:
    if not destination.parent.is_dir():
        raise FileNotFoundError(f'folder {destination.parent} of {destination} does not exist')
    if to == 'transformers':
        if destination.exists():
            raise FileExistsError(f'{destination} exists: transformers needs a new folder')
        if destination.suffix in ('.pth', '.pt', '.bin', '.safetensors'):
            raise ValueError(f'{destination} is the name of a file: transformers needs a folder')
    elif destination.is_dir():
        raise FileExistsError(f'{destination} is a folder: {to} needs a file')
    elif destination.suffix == '.safetensors' and to != 'timm':
        raise ValueError(f'{destination} is not allowed: only timm reads safetensors of its own')


def _choose_naming(architecture: Architecture, to: str) -> Naming:
    if to == 'transformers' and architecture.use_grn and architecture.has_layer_scale:
        raise ValueError('transformers has no ConvNeXt with both GRN and LayerScale')
    if to == 'transformers':
        return layouts.TRANSFORMERS if architecture.use_grn else layouts.TRANSFORMERS_V1
    if to == 'timm':
        conv_mlp = architecture.size in _TIMM_CONV_MLP
        return layouts.TIMM_CONV_MLP if conv_mlp else layouts.TIMM
    if to == 'official':
        return layouts.OFFICIAL_SPARSE if architecture.has_decoder else layouts.OFFICIAL
    return dict(mm=layouts.MM, mmpretrain=layouts.MMPRETRAIN)[to]


def _file_content(checkpoint: Checkpoint, state: Weights, to: str) -> dict[str, Any]:
    if to == 'timm':
        return state
    if to == 'official':
        return dict(model=state)
    meta = {}
    if checkpoint.classes:
        meta['dataset_meta'] = dict(classes=checkpoint.classes)
    return dict(meta=meta, state_dict=state)


def _transformers_config(checkpoint: Checkpoint) -> dict[str, Any]:
    architecture = checkpoint.architecture
    name = 'ConvNextV2' if architecture.use_grn else 'ConvNext'
    config = dict(
        architectures=[name + ('ForImageClassification' if architecture.classes else 'Model')],
        model_type=name.lower(),
        num_channels=architecture.in_channels,
        depths=architecture.depths,
        hidden_sizes=architecture.channels,
        layer_norm_eps=1e-6,  # of the last norm; the default, 1e-12, is not that of the paper
    )
    if not architecture.use_grn:
        config['layer_scale_init_value'] = 1e-6 if architecture.has_layer_scale else 0.0
    if architecture.classes:
        labels = checkpoint.classes or [f'LABEL_{i}' for i in range(architecture.classes)]
        config['id2label'] = dict(enumerate(labels))
        config['label2id'] = {label: i for i, label in enumerate(labels)}
    return config


def _how_to_open(checkpoint: Checkpoint, destination: Path, to: str) -> str:
    a = checkpoint.architecture
    arch = repr(a.size) if a.size else f'dict(depths={[*a.depths]}, channels={[*a.channels]})'
    scale = 1e-6 if a.has_layer_scale else 0.0
    pretrained = f"init_cfg=dict(type='Pretrained', checkpoint='{destination}', prefix='backbone.')"
    if to == 'mm':
        return pretrained
    if to == 'mmpretrain':
        return (
            f"dict(type='mmpretrain.ConvNeXt', arch={arch}, use_grn={a.use_grn}, "
            f'layer_scale_init_value={scale}, {pretrained})'
        )
    if to == 'transformers':
        name = _transformers_config(checkpoint)['architectures'][0]
        return f"transformers.{name}.from_pretrained('{destination}')"
    if to == 'official':
        if a.has_decoder:
            return f'main_finetune.py --finetune {destination}'
        return f"model.load_state_dict(torch.load('{destination}')['model'], strict=False)"
    if not a.size or (a.version, a.size) in _NOT_IN_TIMM:
        model = f'timm.models.convnext.ConvNeXt(depths={a.depths}, dims={a.channels}, '
        model += f'use_grn={a.use_grn}, ls_init_value={scale or None}, num_classes={a.classes})'
        return f"timm.models.load_checkpoint({model}, '{destination}', strict=False)"
    options = f'num_classes={a.classes}, '
    if 'backbone.norm3.weight' in checkpoint.weights and not has_output_norms(checkpoint.weights):
        options += f"checkpoint_path='{destination}'"
    else:  # timm reads a checkpoint_path strictly, and wants the norm of the classifier
        options += 'pretrained=True, pretrained_strict=False, '
        options += f"pretrained_cfg_overlay=dict(file='{destination}')"
    return f"timm.create_model('convnext{'v2' if a.use_grn else ''}_{a.size}', {options})"
