"""How each library names and shapes the weights of ConvNeXt: one table per library, used both ways.

A row of a table says how one of our names is called there, and in what form the tensor is kept if
not in ours. In names, ``{i}`` is a stage, ``{j}`` a block, ``{k}`` a layer of a stem or of a
downsampling, ``{n}`` a pointwise convolution, ``{h}`` anything in the layer that stands for GRN and
``{p}`` weight or bias; ``{root}`` is where the
backbone lies in the file, and ``{outer}`` the same without the library's own name for it.

Ours are the names of mmpretrain: ``backbone.``, with ``norm3`` for the norm before the classifier,
``head.fc.`` for the classifier, and ``neck.`` for the decoder of FCMAE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

Weights = dict[str, Tensor]


class Form(NamedTuple):
    """How a library keeps a tensor: made from ours, and made ours again."""

    store: Callable[[Tensor], Tensor]
    restore: Callable[[Tensor], Tensor]


def _store_depthwise_taps(weight: Tensor) -> Tensor:
    """``(C, 1, k, k)`` to ``(k², C)``, taps in column-major order."""
    return weight[:, 0].mT.flatten(1).T


def _restore_depthwise_taps(taps: Tensor) -> Tensor:
    size = math.isqrt(len(taps))
    return taps.T.unflatten(1, (size, size)).mT[:, None]


def _store_taps(weight: Tensor) -> Tensor:
    """``(out, in, k, k)`` to ``(k², in, out)``, taps in column-major order."""
    return weight.mT.flatten(2).permute(2, 1, 0)


def _restore_taps(taps: Tensor) -> Tensor:
    size = math.isqrt(len(taps))
    return taps.permute(2, 1, 0).unflatten(2, (size, size)).mT


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _to_vector(tensor: Tensor) -> Tensor:
    return tensor.flatten()


def _to_matrix(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


SAME = Form(_same, _same)
VECTOR = Form(_same, _to_vector)  # (C)
ROW = Form(lambda vector: vector[None], _to_vector)  # (1, C)
CHANNELS_LAST = Form(lambda vector: vector[None, None, None], _to_vector)  # (1, 1, 1, C)
CHANNELS_FIRST = Form(lambda vector: vector[None, :, None, None], _to_vector)  # (1, C, 1, 1)
LINEAR = Form(_same, _to_matrix)  # (out, in)
CONV_1X1 = Form(lambda matrix: matrix[..., None, None], _to_matrix)  # (out, in, 1, 1)
DEPTHWISE_TAPS = Form(_store_depthwise_taps, _restore_depthwise_taps)  # (k², C)
TAPS = Form(_store_taps, _restore_taps)  # (k², in, out)

# mmpretrain.ConvNeXt and ours; the decoder and what replaces GRN are ours alone.
_MM = {
    'backbone.downsample_layers.{i}.{k}.{p}': '{root}downsample_layers.{i}.{k}.{p}',
    'backbone.stages.{i}.{j}.depthwise_conv.{p}': '{root}stages.{i}.{j}.depthwise_conv.{p}',
    'backbone.stages.{i}.{j}.norm.{p}': '{root}stages.{i}.{j}.norm.{p}',
    'backbone.stages.{i}.{j}.pointwise_conv{n}.weight': (
        '{root}stages.{i}.{j}.pointwise_conv{n}.weight',
        LINEAR,  # linear_pw_conv=False keeps (out, in, 1, 1)
    ),
    'backbone.stages.{i}.{j}.pointwise_conv{n}.bias': '{root}stages.{i}.{j}.pointwise_conv{n}.bias',
    'backbone.stages.{i}.{j}.grn.gamma': ('{root}stages.{i}.{j}.grn.gamma', VECTOR),
    'backbone.stages.{i}.{j}.grn.beta': ('{root}stages.{i}.{j}.grn.beta', VECTOR),
    'backbone.stages.{i}.{j}.feature_norm.{h}': '{root}stages.{i}.{j}.feature_norm.{h}',
    'backbone.stages.{i}.{j}.gamma': '{root}stages.{i}.{j}.gamma',
    'backbone.norm{i}.{p}': '{root}norm{i}.{p}',
    'head.fc.{p}': '{outer}head.fc.{p}',
    'neck.proj.{p}': '{outer}neck.proj.{p}',
    'neck.mask_token': '{outer}neck.mask_token',
    'neck.blocks.{j}.depthwise_conv.{p}': '{outer}neck.blocks.{j}.depthwise_conv.{p}',
    'neck.blocks.{j}.norm.{p}': '{outer}neck.blocks.{j}.norm.{p}',
    'neck.blocks.{j}.pointwise_conv{n}.{p}': '{outer}neck.blocks.{j}.pointwise_conv{n}.{p}',
    'neck.blocks.{j}.grn.gamma': '{outer}neck.blocks.{j}.grn.gamma',
    'neck.blocks.{j}.grn.beta': '{outer}neck.blocks.{j}.grn.beta',
    'neck.pred.{p}': '{outer}neck.pred.{p}',
}
_MMPRETRAIN = {
    ours: theirs
    for ours, theirs in _MM.items()
    if not ours.startswith('neck.') and '.feature_norm.' not in ours
}

# facebookresearch/ConvNeXt and ConvNeXt-V2, models/selfsup/fcmae.py: the dense decoder.
_OFFICIAL_DECODER = {
    'neck.proj.weight': ('{outer}proj.weight', CONV_1X1),
    'neck.proj.bias': '{outer}proj.bias',
    'neck.mask_token': ('{outer}mask_token', CHANNELS_FIRST),
    'neck.blocks.{j}.depthwise_conv.{p}': '{outer}decoder.{j}.dwconv.{p}',
    'neck.blocks.{j}.norm.{p}': '{outer}decoder.{j}.norm.{p}',
    'neck.blocks.{j}.pointwise_conv{n}.{p}': '{outer}decoder.{j}.pwconv{n}.{p}',
    'neck.blocks.{j}.grn.gamma': ('{outer}decoder.{j}.grn.gamma', CHANNELS_LAST),
    'neck.blocks.{j}.grn.beta': ('{outer}decoder.{j}.grn.beta', CHANNELS_LAST),
    'neck.pred.weight': ('{outer}pred.weight', CONV_1X1),
    'neck.pred.bias': '{outer}pred.bias',
}
# models/convnextv2.py; norms per stage are those of the detection and segmentation code of V1.
_OFFICIAL = {
    'backbone.downsample_layers.{i}.{k}.{p}': '{root}downsample_layers.{i}.{k}.{p}',
    'backbone.stages.{i}.{j}.depthwise_conv.{p}': '{root}stages.{i}.{j}.dwconv.{p}',
    'backbone.stages.{i}.{j}.norm.{p}': '{root}stages.{i}.{j}.norm.{p}',
    'backbone.stages.{i}.{j}.pointwise_conv{n}.{p}': '{root}stages.{i}.{j}.pwconv{n}.{p}',
    'backbone.stages.{i}.{j}.grn.gamma': ('{root}stages.{i}.{j}.grn.gamma', CHANNELS_LAST),
    'backbone.stages.{i}.{j}.grn.beta': ('{root}stages.{i}.{j}.grn.beta', CHANNELS_LAST),
    'backbone.stages.{i}.{j}.gamma': '{root}stages.{i}.{j}.gamma',
    'backbone.norm3.{p}': '{root}norm.{p}',
    'backbone.norm{i}.{p}': '{root}norm{i}.{p}',
    'head.fc.{p}': '{root}head.{p}',
    **_OFFICIAL_DECODER,
}
# models/convnextv2_sparse.py: what the pre-training writes.
_OFFICIAL_SPARSE = {
    'backbone.downsample_layers.0.{k}.{p}': '{root}downsample_layers.0.{k}.{p}',
    'backbone.downsample_layers.{i}.0.{p}': '{root}downsample_layers.{i}.0.ln.{p}',
    'backbone.downsample_layers.{i}.1.weight': ('{root}downsample_layers.{i}.1.kernel', TAPS),
    'backbone.downsample_layers.{i}.1.bias': ('{root}downsample_layers.{i}.1.bias', ROW),
    'backbone.stages.{i}.{j}.depthwise_conv.weight': (
        '{root}stages.{i}.{j}.dwconv.kernel',
        DEPTHWISE_TAPS,
    ),
    'backbone.stages.{i}.{j}.depthwise_conv.bias': ('{root}stages.{i}.{j}.dwconv.bias', ROW),
    'backbone.stages.{i}.{j}.norm.{p}': '{root}stages.{i}.{j}.norm.ln.{p}',
    'backbone.stages.{i}.{j}.pointwise_conv{n}.{p}': '{root}stages.{i}.{j}.pwconv{n}.linear.{p}',
    'backbone.stages.{i}.{j}.grn.gamma': ('{root}stages.{i}.{j}.grn.gamma', ROW),
    'backbone.stages.{i}.{j}.grn.beta': ('{root}stages.{i}.{j}.grn.beta', ROW),
    **_OFFICIAL_DECODER,
}

# timm/models/convnext.py
_TIMM = {
    'backbone.downsample_layers.0.{k}.{p}': '{root}stem.{k}.{p}',
    'backbone.downsample_layers.{i}.{k}.{p}': '{root}stages.{i}.downsample.{k}.{p}',
    'backbone.stages.{i}.{j}.depthwise_conv.{p}': '{root}stages.{i}.blocks.{j}.conv_dw.{p}',
    'backbone.stages.{i}.{j}.norm.{p}': '{root}stages.{i}.blocks.{j}.norm.{p}',
    'backbone.stages.{i}.{j}.pointwise_conv{n}.weight': (
        '{root}stages.{i}.blocks.{j}.mlp.fc{n}.weight',
        LINEAR,
    ),
    'backbone.stages.{i}.{j}.pointwise_conv{n}.bias': '{root}stages.{i}.blocks.{j}.mlp.fc{n}.bias',
    'backbone.stages.{i}.{j}.grn.gamma': ('{root}stages.{i}.blocks.{j}.mlp.grn.weight', VECTOR),
    'backbone.stages.{i}.{j}.grn.beta': ('{root}stages.{i}.blocks.{j}.mlp.grn.bias', VECTOR),
    'backbone.stages.{i}.{j}.gamma': '{root}stages.{i}.blocks.{j}.gamma',
    'backbone.norm3.{p}': '{root}head.norm.{p}',
    'head.fc.{p}': '{root}head.fc.{p}',
}
# timm's Atto to Nano (conv_mlp=True)
_TIMM_CONV_MLP = _TIMM | {
    'backbone.stages.{i}.{j}.pointwise_conv{n}.weight': (
        '{root}stages.{i}.blocks.{j}.mlp.fc{n}.weight',
        CONV_1X1,
    ),
}

# transformers/models/convnext and convnextv2
_TRANSFORMERS = {
    'backbone.downsample_layers.0.0.{p}': '{root}embeddings.patch_embeddings.{p}',
    'backbone.downsample_layers.0.1.{p}': '{root}embeddings.layernorm.{p}',
    'backbone.downsample_layers.{i}.{k}.{p}': (
        '{root}encoder.stages.{i}.downsampling_layer.{k}.{p}'
    ),
    'backbone.stages.{i}.{j}.depthwise_conv.{p}': '{root}encoder.stages.{i}.layers.{j}.dwconv.{p}',
    'backbone.stages.{i}.{j}.norm.{p}': '{root}encoder.stages.{i}.layers.{j}.layernorm.{p}',
    'backbone.stages.{i}.{j}.pointwise_conv{n}.{p}': (
        '{root}encoder.stages.{i}.layers.{j}.pwconv{n}.{p}'
    ),
    'backbone.stages.{i}.{j}.grn.gamma': (
        '{root}encoder.stages.{i}.layers.{j}.grn.weight',
        CHANNELS_LAST,
    ),
    'backbone.stages.{i}.{j}.grn.beta': (
        '{root}encoder.stages.{i}.layers.{j}.grn.bias',
        CHANNELS_LAST,
    ),
    'backbone.stages.{i}.{j}.gamma': '{root}encoder.stages.{i}.layers.{j}.layer_scale_parameter',
    'backbone.norm3.{p}': '{root}layernorm.{p}',
    'head.fc.{p}': '{outer}classifier.{p}',
}


@dataclass(frozen=True)
class Naming:
    """The table of one library, with what reads and writes it.

    Args:
        name: Name of the library, with what is special.
        table: Our names, each with theirs, or with theirs and the form of the tensor.
        homes: What the library calls the place of the backbone in a file; the first is written.
    """

    name: str
    table: dict[str, str | tuple[str, Form]] = field(repr=False)
    homes: tuple[str, ...] = ('',)

    def rows(self, root: str) -> Iterable[tuple[str, str, Form]]:
        """Our name, their name and the form, for a backbone that lies at ``root``."""
        home = max((home for home in self.homes if root.endswith(home)), key=len)
        places = {'{root}': root, '{outer}': root.removesuffix(home)}
        for ours, theirs in self.table.items():
            theirs, form = (theirs, SAME) if isinstance(theirs, str) else theirs
            place, name = re.fullmatch(r'(\{\w+\})(.+)', theirs).groups()
            yield ours, places[place] + name, form

    def find_roots(self, names: Iterable[str]) -> list[str]:
        """Prefixes of the backbones of this layout: ``['backbone.']``, or ``['']``."""
        theirs = next(theirs for ours, theirs, _ in self.rows('') if '.depthwise_conv.' in ours)
        block = _regex(theirs.replace('{p}', 'weight'))
        pattern = re.compile(rf'(?P<root>(?:.+\.)?){block}')
        return sorted({match['root'] for name in names if (match := pattern.fullmatch(name))})

    def beginnings(self, root: str, ours: tuple[str, ...]) -> tuple[str, ...]:
        """How their names begin, with one component, where ours begin with one of ``ours``."""
        return tuple(
            {
                re.match(rf'{re.escape(root)}\w+\.|\w+\.', theirs)[0]
                for name, theirs, _ in self.rows(root)
                if name.startswith(ours)
            }
        )

    def to_ours(self, state: Weights, root: str) -> tuple[Weights, list[str]]:
        """Give a state dict our names and forms.

        Returns:
            The weights, and the names that the table does not have.

        Raises:
            ValueError: If a tensor cannot be brought to our form.
        """
        rows = [(re.compile(_regex(theirs)), ours, form) for ours, theirs, form in self.rows(root)]
        weights, unknown = {}, []
        for name, tensor in state.items():
            for pattern, ours, form in rows:
                if match := pattern.fullmatch(name):
                    try:
                        weights[ours.format(**match.groupdict())] = form.restore(tensor)
                    except (RuntimeError, IndexError) as error:
                        shape = tuple(tensor.shape)
                        raise ValueError(
                            f'{name} has shape {shape}, which it cannot have in the layout of '
                            f'{self.name}'
                        ) from error
                    break
            else:
                unknown.append(name)
        return weights, unknown

    def from_ours(self, weights: Weights) -> tuple[Weights, list[str]]:
        """Give our weights the names and forms of this layout.

        Returns:
            The state dict, and our names that the layout has no place for.
        """
        rows = [
            (re.compile(_regex(ours)), theirs, form)
            for ours, theirs, form in self.rows(self.homes[0])
        ]
        if has_output_norms(weights):  # norm3 is one of them, not the norm before a classifier
            rows = [row for row in rows if not row[0].pattern.startswith(r'backbone\.norm3')]
        state, left_out = {}, []
        for name, tensor in weights.items():
            for pattern, theirs, form in rows:
                if match := pattern.fullmatch(name):
                    state[theirs.format(**match.groupdict())] = form.store(tensor)
                    break
            else:
                left_out.append(name)
        return state, left_out


def has_output_norms(weights: Iterable[str]) -> bool:
    """Whether each stage has a norm of its own, as for detection and segmentation."""
    return any(re.match(r'backbone\.norm[012]\.', name) for name in weights)


_PLACES = {
    'i': r'\d+',
    'j': r'\d+',
    'k': '[01]',
    'n': '[12]',
    'h': r'[\w.]+',
    'p': 'weight|bias',
}


def _regex(template: str) -> str:
    return re.sub(r'\\{(\w)\\}', lambda m: f'(?P<{m[1]}>{_PLACES[m[1]]})', re.escape(template))


MM = Naming('mm', _MM, ('backbone.', ''))
MMPRETRAIN = Naming('mmpretrain', _MMPRETRAIN, ('backbone.', ''))
OFFICIAL = Naming('official', _OFFICIAL, ('', 'encoder.'))
OFFICIAL_SPARSE = Naming('official sparse FCMAE', _OFFICIAL_SPARSE, ('encoder.', ''))
TIMM = Naming('timm', _TIMM)
TIMM_CONV_MLP = Naming('timm', _TIMM_CONV_MLP)
TRANSFORMERS = Naming('transformers', _TRANSFORMERS, ('convnextv2.', 'convnext.', ''))
TRANSFORMERS_V1 = Naming('transformers', _TRANSFORMERS, ('convnext.', 'convnextv2.', ''))
READ = (MM, OFFICIAL, OFFICIAL_SPARSE, TIMM, TRANSFORMERS)
