"""``init_cfg=dict(type='Pretrained', checkpoint=...)`` with the files of other libraries."""

from __future__ import annotations

import logging
from dataclasses import replace

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor

from ..models import ConvNeXtV2
from ..registry import WEIGHT_INITIALIZERS
from .architecture import infer_architecture
from .checkpoint import read_checkpoint
from .model_zoo import SCHEME
from .naming import Weights
from .reading import find_state_dict, read_file

STEM = 'downsample_layers.0.0.weight'


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class ConvNeXtPretrainedInit(PretrainedInit):
    """``Pretrained`` of a :class:`~convnextv2_mm.models.ConvNeXtV2`: reads files of any layout.

    Args:
        checkpoint: File, folder, URL, or ``convnextv2://NAME``.
        prefix: Where the backbone lies, for a file with several; else it is found.
        map_location: As of MMEngine.
        adapt_channels: Make weights for RGB fit another number of channels.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = 'cpu',
        adapt_channels: bool = False,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.adapt_channels = adapt_channels

    def __call__(self, module: ConvNeXtV2) -> None:
        adapt = self.adapt_channels
        weights = read_backbone(module, self.checkpoint, self.prefix, adapt_channels=adapt)
        load_state_dict(module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def read_backbone(
    backbone: ConvNeXtV2,
    source: str,
    prefix: str | None = None,
    device: str = 'cpu',
    adapt_channels: bool = False,
) -> Weights:
    """Read weights for ``backbone``; norms of its outputs may be missing.

    Of the weights of V2, a backbone with ``use_grn=False`` and no LayerScale takes all but GRN; and
    one with GRN and LayerScale takes those of V1, its GRN beginning as the identity (ablations of
    the paper, section 3.2). The log says so. With ``device='meta'`` only shapes are read. With
    ``adapt_channels`` weights for RGB fit any number of channels, see :func:`adapt_stem`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or one of another network.
    """
    checkpoint = read_checkpoint(source, prefix, device)
    own = backbone.state_dict()
    wanted = infer_architecture({f'backbone.{name}': tensor for name, tensor in own.items()})
    found = replace(checkpoint.architecture, classes=0, has_decoder=False)
    if found.in_channels != wanted.in_channels and adapt_channels:
        stem = checkpoint.weights[f'backbone.{STEM}']
        checkpoint.weights[f'backbone.{STEM}'] = adapt_stem(stem, wanted.in_channels)
        found = replace(found, in_channels=wanted.in_channels)
    if replace(found, use_grn=wanted.use_grn) != wanted:
        hint = ' (V1 needs use_grn=False, layer_scale_init_value=1e-6)' * (found.version == 1)
        if replace(found, in_channels=wanted.in_channels) == wanted:
            hint = ' (adapt_channels=True makes weights for RGB fit)'
        raise ValueError(f'checkpoint {source} is of a {found}, the config builds a {wanted}{hint}')
    if found.use_grn != wanted.use_grn:
        change = (
            'left out: the config has none' if found.use_grn else 'added: it starts as identity'
        )
        print_log(
            f'checkpoint {source} is of a {found}: GRN is {change}', 'current', logging.WARNING
        )
    weights = {k.removeprefix('backbone.'): v for k, v in checkpoint.weights.items()}
    weights = {name: tensor for name, tensor in weights.items() if name in own}
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f'checkpoint {source} does not fit: {name} has shape {tuple(tensor.shape)}, the '
                f'config builds {tuple(own[name].shape)}'
            )
    return weights


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Weights of the first convolution for another number of channels than RGB.

    For one channel the sum over the three, as for a grey image shown as RGB. For more, the three
    are repeated in turn and scaled by 3 / ``in_channels``, so that the sum stays alike. The rule is
    timm's (https://github.com/huggingface/pytorch-image-models, ``adapt_input_conv``).

    Args:
        weight: ``(C, 3, p, p)``.
        in_channels: Channels of the images.

    Returns:
        ``(C, in_channels, p, p)``.

    Raises:
        ValueError: If ``weight`` is for another number of channels.
    """
    if weight.shape[1] != 3:
        raise ValueError(
            f'adapt_channels takes weights for 3 channels, these are for {weight.shape[1]}'
        )
    full = weight.float()
    if in_channels == 1:
        return full.sum(1, keepdim=True).to(weight.dtype)
    repeated = full.repeat(1, -(-in_channels // 3), 1, 1)[:, :in_channels]
    return (repeated * (3 / in_channels)).to(weight.dtype)


def read_state_dict(source: str, device: str = 'cpu') -> Weights:
    """Read the weights of a whole model as ``load_from`` will: under the names of the file, or with
    ``convnextv2://`` under ours. With ``device='meta'`` only names and shapes are read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    if source.startswith(SCHEME):
        return read_checkpoint(source, device=device).weights
    return find_state_dict(read_file(source, device), source)[0]


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_convnextv2(filename: str, map_location: str | None = None) -> dict[str, Weights]:
    """Let ``load_from``, and ``Pretrained`` of other backbones, use ``convnextv2://NAME``.

    Args:
        filename: With the scheme.
        map_location: MMEngine passes it; the weights are on the CPU.
    """
    return dict(state_dict=read_state_dict(filename))
