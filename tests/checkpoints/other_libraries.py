"""ConvNeXt as timm, transformers and mmpretrain build it, with random weights that all matter."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.models import ImageClassifier
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)

from convnextv2_mm.models import ConvNeXtV2

LIBRARIES = ('timm', 'transformers', 'mmpretrain')
SMALL = dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 40])


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter: GRN, LayerScale and norms too, so that none can be left out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_matrix = parameter.squeeze().ndim > 1
            parameter.normal_(std=0.03 if is_matrix else 0.3, generator=generator)
            if 'norm' in name and name.endswith('weight'):
                parameter.add_(1)
    return module.eval()


def build(library: str, arch: str | dict, version: int = 2, classes: int = 10) -> nn.Module:
    """A classifier of a library, random."""
    sizes = ConvNeXtV2.arch_settings[arch] if isinstance(arch, str) else arch
    depths, channels = sizes['depths'], sizes['channels']
    # No time spent on an initialisation that is not used; mmpretrain cannot be built there.
    with torch.device('cpu' if library == 'mmpretrain' else 'meta'):
        if library == 'timm' and isinstance(arch, str):
            name = f'convnextv2_{arch}' if version == 2 else f'convnext_{arch}'
            model = timm.create_model(name, num_classes=classes)
        elif library == 'timm':
            model = timm.models.convnext.ConvNeXt(
                depths=depths,
                dims=channels,
                use_grn=version == 2,
                ls_init_value=None if version == 2 else 1e-6,
                num_classes=classes,
            )
        elif library == 'transformers':
            config_class, model_class = (
                (ConvNextV2Config, ConvNextV2ForImageClassification)
                if version == 2
                else (ConvNextConfig, ConvNextForImageClassification)
            )
            # ConvNeXt has 1e-6 everywhere; transformers' default for the last norm is 1e-12.
            config = config_class(
                depths=depths, hidden_sizes=channels, num_labels=classes, layer_norm_eps=1e-6
            )
            model = model_class(config)
        else:
            options = dict(use_grn=True, layer_scale_init_value=0.0) if version == 2 else {}
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                model = ImageClassifier(
                    backbone=dict(type='ConvNeXt', arch=arch, **options),
                    head=dict(type='LinearClsHead', num_classes=classes, in_channels=channels[-1]),
                )
    if library != 'mmpretrain':
        model = model.to_empty(device='cpu')
    return randomize(model)


def save(library: str, model: nn.Module, path: Path) -> None:
    """Write a model as its library does."""
    if library == 'transformers':
        model.save_pretrained(path)
    elif library == 'timm':
        save_file(model.state_dict(), path)
    else:
        torch.save(dict(state_dict=model.state_dict()), path)


def reopen(library: str, path: Path, arch: str | dict, version: int = 2) -> nn.Module:
    """Read what was written for a library with its own loader, strictly."""
    if library == 'transformers':
        model_class = (
            ConvNextV2ForImageClassification if version == 2 else (ConvNextForImageClassification)
        )
        model, report = model_class.from_pretrained(path, output_loading_info=True)
        assert not any(report.values())
    elif library == 'timm' and isinstance(arch, str):
        name = f'convnextv2_{arch}' if version == 2 else f'convnext_{arch}'
        model = timm.create_model(name, num_classes=10, checkpoint_path=str(path))
    else:
        model = build(library, arch, version)
        load = timm.models.load_checkpoint if library == 'timm' else load_checkpoint
        load(model, str(path), strict=True)
    return model.eval()


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs of the classifier."""
    with torch.no_grad():
        outputs = model(images)
    return outputs if isinstance(outputs, Tensor) else outputs.logits
