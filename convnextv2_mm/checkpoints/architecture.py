"""Infer which ConvNeXt a set of weights belongs to, from its names and shapes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from ..models import ConvNeXtV2, FCMAEDecoder
from ..models.layers.feature_norms import FEATURE_NORMS, PAPER_GRN, build_feature_norm
from .naming import Weights

_REPLACEMENTS = {name: dict(type=name) for name in FEATURE_NORMS}
_REPLACEMENTS['GRN']['residual'] = False  # any but the paper's


@dataclass(frozen=True)
class Architecture:
    """The architecture of a ConvNeXt, as inferred from its weights.

    Args:
        depths: Blocks of each stage.
        channels: Channels of each stage.
        in_channels: Channels of the image.
        use_grn: V2.
        feature_norm: What an ablation has in place of GRN, of ``FEATURE_NORMS``; '' if nothing, or
            nothing with weights.
        has_layer_scale: V1.
        classes: Outputs of the classifier; 0 without one.
        has_decoder: With the decoder of FCMAE.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    in_channels: int = 3
    use_grn: bool = True
    feature_norm: str = ''
    has_layer_scale: bool = False
    classes: int = 0
    has_decoder: bool = False

    @property
    def version(self) -> int:
        """2 with GRN or what replaces it, 1 without."""
        return 2 if self.use_grn or self.feature_norm else 1

    @property
    def size(self) -> str | None:
        """Name of the size, or None if it has none."""
        for name, arch in ConvNeXtV2.arch_settings.items():
            if (self.depths, self.channels) == (tuple(arch['depths']), tuple(arch['channels'])):
                return name
        return None

    def __str__(self) -> str:
        depths, channels = (','.join(map(str, v)) for v in (self.depths, self.channels))
        parts = [f'ConvNeXt V{self.version} {self.size or "of a custom size"}']
        parts.append(f'depths {depths}, channels {channels}')
        if self.feature_norm:
            name = self.feature_norm
            parts.append('a variant of GRN' if name == 'GRN' else f'{name} in place of GRN')
        if self.in_channels != 3:
            parts.append(f'{self.in_channels} image channels')
        if self.classes:
            parts.append(f'{self.classes} classes')
        if self.has_decoder:
            parts.append('FCMAE decoder')
        return ', '.join(parts)


def infer_architecture(weights: Weights) -> Architecture:
    """Infer the architecture from weights under our names.

    Raises:
        ValueError: If weights are missing, or shapes do not fit one network.
    """
    depths, channels = {}, {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r'backbone\.stages\.(\d+)\.(\d+)\.depthwise_conv\.weight', name):
            stage, block = map(int, match.groups())
            depths[stage] = max(depths.get(stage, 0), block + 1)
            channels.setdefault(stage, len(tensor))
    if sorted(depths) != [0, 1, 2, 3]:
        raise ValueError(f'stages {sorted(depths)} have blocks, where ConvNeXt has stages 0 to 3')
    stem = weights.get('backbone.downsample_layers.0.0.weight')
    architecture = Architecture(
        depths=tuple(depths[i] for i in range(4)),
        channels=tuple(channels[i] for i in range(4)),
        in_channels=3 if stem is None or stem.ndim != 4 else stem.shape[1],
        use_grn=any('.grn.' in name for name in weights if name.startswith('backbone.')),
        feature_norm=_find_feature_norm(weights),
        has_layer_scale=any(re.fullmatch(r'backbone.*\d\.gamma', name) for name in weights),
        classes=len(weights['head.fc.bias']) if 'head.fc.bias' in weights else 0,
        has_decoder='neck.mask_token' in weights,
    )
    _check(architecture, weights)
    return architecture


def _find_feature_norm(weights: Weights) -> str:
    start = 'backbone.stages.0.0.feature_norm.'
    names = {name.removeprefix(start) for name in weights if name.startswith(start)}
    if not names:
        return ''
    for name, replacement in _REPLACEMENTS.items():
        with torch.device('meta'):
            if names == set(build_feature_norm(replacement, 4).state_dict()):
                return name
    raise ValueError(
        f'feature_norm has {", ".join(sorted(names))}, as none of {list(FEATURE_NORMS)}'
    )


def _check(architecture: Architecture, weights: Weights) -> None:
    expected = _expected_shapes(architecture, weights)
    optional = re.compile(r'backbone\.norm\d\.')
    missing = [name for name in expected if name not in weights and not optional.match(name)]
    if missing:
        raise ValueError(
            f'{len(missing)} of the {len(expected)} weights of a {architecture} are missing, such '
            f'as {missing[0]}'
        )
    for name, tensor in weights.items():
        if name not in expected:
            raise ValueError(f'{name} is no weight of a {architecture}')
        # What is in place of GRN has shapes of its own choice.
        if tuple(tensor.shape) != expected[name] and '.feature_norm.' not in name:
            raise ValueError(
                f'{name} has shape {tuple(tensor.shape)}, where a {architecture} has '
                f'{expected[name]}'
            )


def _expected_shapes(architecture: Architecture, weights: Weights) -> dict[str, tuple[int, ...]]:
    a = architecture
    with torch.device('meta'):
        backbone = ConvNeXtV2(
            arch=dict(depths=list(a.depths), channels=list(a.channels)),
            in_channels=a.in_channels,
            out_indices=[0, 1, 2, 3],
            use_grn=a.use_grn or a.feature_norm != '',
            feature_norm=_REPLACEMENTS.get(a.feature_norm, PAPER_GRN),
            layer_scale_init_value=1e-6 if a.has_layer_scale else 0.0,
        )
        parts = {'backbone': backbone}
        if a.has_decoder:
            blocks = {name.split('.')[2] for name in weights if name.startswith('neck.blocks.')}
            pixels = len(weights.get('neck.pred.bias', ())) // a.in_channels
            parts['neck'] = FCMAEDecoder(
                a.channels[-1],
                embed_dims=len(weights['neck.mask_token']),
                depth=len(blocks),
                patch_size=math.isqrt(pixels),
                out_channels=a.in_channels,
            )
        if a.classes:
            parts['head.fc'] = torch.nn.Linear(a.channels[-1], a.classes)
    return {
        f'{part}.{name}': tuple(tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
