"""Read a ConvNeXt from a file of any layout, under our names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architecture import Architecture, infer_architecture
from .naming import (
    READ,
    Naming,
    Weights,
    has_output_norms,
)
from .reading import (
    AVERAGED,
    ENTRIES,
    find_state_dict,
    read_file,
)


@dataclass
class Checkpoint:
    """The weights of a ConvNeXt, and what was found while reading them.

    Args:
        weights: Under our names; see :mod:`convnextv2_mm.checkpoints.naming`.
        architecture: The network they are of.
        layout: Name of the layout they came in.
        place: Where they were: the entry of the file, and the place of the backbone in that.
        dropped: What was left out: names of the file or of ours, and why.
        classes: Names of the classes of the classifier, if the file has them.
    """

    weights: Weights
    architecture: Architecture
    layout: str
    place: str
    dropped: list[tuple[list[str], str]]
    classes: list[str] | None = None


def read_checkpoint(
    source: str | Path, prefix: str | None = None, device: str = 'cpu'
) -> Checkpoint:
    """Read a ConvNeXt from a file of any layout.

    Args:
        source: As of :func:`~convnextv2_mm.checkpoints.reading.read_file`.
        prefix: Where the backbone lies, for a file with several.
        device: ``meta`` for shapes without values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or does not hold a whole ConvNeXt.
    """
    content = read_file(source, device)
    state, entry = find_state_dict(content, source)
    dropped = _describe_rest(content, entry) if entry else []
    try:
        layout, root = _find_backbone(state, prefix)
        weights, unknown = layout.to_ours(state, root)
        network = layout.beginnings(root, ('backbone.downsample_layers.', 'backbone.stages.'))
        if strangers := [name for name in unknown if name.startswith(network)]:
            raise ValueError(f'{strangers[0]} has no place in the layout of {layout.name}')
        if unknown:
            dropped.append((unknown, 'not of a ConvNeXt, its classifier or the decoder of FCMAE'))
        if reason := _why_no_head(weights, unknown, layout.beginnings(root, ('head.',))):
            weights = _drop(weights, 'head.', dropped, reason)
        if reason := _why_no_decoder(weights, unknown):
            weights = _drop(weights, 'neck.', dropped, reason)
        architecture = infer_architecture(weights)
    except ValueError as error:
        raise ValueError(f'checkpoint {source} is not of a whole ConvNeXt: {error}') from error
    place = ', '.join(part for part in (entry, root.rstrip('.')) if part)
    classes = _class_names(content)
    if classes and len(classes) != architecture.classes:
        classes = None  # those of a detector or segmentor
    return Checkpoint(weights, architecture, layout.name, place, dropped, classes)


def select_task(checkpoint: Checkpoint, task: str) -> None:
    """Keep what a task needs: ``backbone``, ``classification`` (with the classifier) or
    ``pretraining`` (with the decoder of FCMAE).

    Raises:
        ValueError: If the checkpoint does not have it.
    """
    needed = dict(backbone=None, classification='head.', pretraining='neck.')[task]
    if needed and not any(name.startswith(needed) for name in checkpoint.weights):
        part = 'classifier' if task == 'classification' else 'decoder of FCMAE'
        raise ValueError(f'task {task} needs a {part}, and the checkpoint has none')
    for part in ('head.', 'neck.'):
        if part != needed:
            reason = f'not needed for {task}'
            checkpoint.weights = _drop(checkpoint.weights, part, checkpoint.dropped, reason)
    checkpoint.architecture = infer_architecture(checkpoint.weights)
    if not checkpoint.architecture.classes:
        checkpoint.classes = None


def _find_backbone(state: Weights, prefix: str | None) -> tuple[Naming, str]:
    found = [(layout, root) for layout in READ for root in layout.find_roots(state)]
    if len(found) > 1 and prefix:
        found = [place for place in found if place[1] == prefix.rstrip('.') + '.'] or found
    if not found:
        names = list(state)
        raise ValueError(
            f'none of its {len(names)} weights is named as in the layouts of mmpretrain, the '
            f'official code, timm or transformers; the first is {names[0]}'
        )
    if len(found) > 1:
        roots = ', '.join(repr(root) for _, root in found)
        raise ValueError(f'it holds {len(found)} backbones: choose one by its prefix, of {roots}')
    return found[0]


def _describe_rest(content: dict[str, Any], entry: str) -> list[tuple[list[str], str]]:
    rest = [name for name in content if name != entry]
    raw = [name for name in rest if name in (*ENTRIES, 'ema_state_dict')]
    state = [name for name in rest if name not in raw]
    # MMEngine's hook swaps the two when it saves: state_dict is the average.
    averaged = entry in AVERAGED or 'ema_state_dict' in raw
    dropped = [(raw, f'{entry} is its moving average (EMA)' if averaged else f'{entry} is used')]
    dropped.append((state, 'state of the training'))
    return [(names, reason) for names, reason in dropped if names]


def _why_no_head(weights: Weights, unknown: list[str], beginnings: tuple[str, ...]) -> str | None:
    others = [name for name in unknown if name.startswith(beginnings)]
    if others:
        return f'not a linear classifier: it has {others[0]} too'
    if has_output_norms(weights) or 'backbone.norm3.weight' not in weights:
        return 'there is no norm before it'
    return None


def _why_no_decoder(weights: Weights, unknown: list[str]) -> str | None:
    if 'neck.mask_token' not in weights:
        return 'not the decoder of FCMAE: no mask token'
    others = [name for name in unknown if re.match(r'(.+\.)?neck\.', name)]
    return f'not the decoder of FCMAE: it has {others[0]} too' if others else None


def _drop(weights: Weights, part: str, dropped: list, reason: str) -> Weights:
    names = [name for name in weights if name.startswith(part)]
    if names:
        dropped.append((names, reason))
    return {name: tensor for name, tensor in weights.items() if name not in names}


def _class_names(content: Any) -> list[str] | None:
    meta = content.get('meta') if isinstance(content, dict) else None
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else None
    classes = dataset.get('classes') if isinstance(dataset, dict) else None
    return list(classes) if classes else None
