"""Parameters and multiply-adds of the model of a config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from prettytable import PrettyTable
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..engine.config.reading import check_model, read_config
from ..models import FCMAE
from ..ops import PatchLayout
from ..ops.patch_layout import patch_grid


class Flops(NamedTuple):
    """What one image costs.

    Attributes:
        model: The model, on the meta device.
        counts: Multiply-adds by module and operator; the name of the model itself is ''.
        visible: Visible and all patches, for the sparse encoder of FCMAE; else None.
        dense: Multiply-adds of that encoder with all patches visible.
    """

    model: nn.Module
    counts: dict[str, dict[object, int]]
    visible: tuple[int, int] | None = None
    dense: int = 0

    @property
    def total(self) -> int:
        """Multiply-adds of the whole model."""
        return sum(self.counts[''].values())

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def count_flops(
    config: str | Path | Config, shape: tuple[int, int], cfg_options: dict | None = None
) -> Flops:
    """Count parameters and multiply-adds of a config's model, part by part, for one image.

    A multiply-add is one FLOP here, as in the papers of ConvNeXt; counted are those of
    convolutions, linear layers and attention. Detectors of two stages work on as many proposals
    and masks as their test_cfg allows. FCMAE: visible sites only. Nothing is computed: the largest
    model needs no memory.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        shape: Height and width of the image that the network gets, padding included.
        cfg_options: Changes of the config.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If the model does not run on an image of this size, or needs more than one.
    """
    config = read_config(config, cfg_options)
    config.model.get('backbone', {}).pop('init_cfg', None)  # weights do not matter
    # On the meta device, where attention is made of products that are counted.
    model = revert_sync_batchnorm(check_model(config.model)).eval().to('meta')
    is_packed = []  # whether the features of FCMAE's encoder are those of visible patches
    if isinstance(model, FCMAE):
        first = model.backbone.stages[0][0]
        first.register_forward_pre_hook(lambda _, x: is_packed.append(x[0].ndim == 5))
    counts = count(model, shape)
    if not any(is_packed):
        return Flops(model, counts)
    grid = patch_grid(shape, model.backbone.patch_size)
    visible = PatchLayout.random(1, grid, model.mask_ratio).visible.shape[1]
    patches = grid[0] * grid[1]
    return Flops(model, counts, (visible, patches), leave_out_masked(counts, visible, patches))


def forward_of(model: nn.Module) -> Callable[[Tensor], object]:
    """What counts as the forward pass of a model."""
    if isinstance(model, FCMAE):
        return model.loss
    if hasattr(model, 'roi_head'):
        return partial(detect, model)
    return partial(model.forward, mode='tensor')


def detect(model: nn.Module, images: Tensor) -> None:
    """A detector of two stages without what depends on values: NMS, and where RoIs lie."""
    model.rpn_head(model.extract_feat(images))
    # mmdet 2, whose figures the papers give, counted 1000 proposals and 100 masks.
    for part, regions in (('bbox', model.test_cfg.rpn), ('mask', model.test_cfg.rcnn)):
        heads = getattr(model.roi_head, f'{part}_head', None)
        if heads is None:
            continue
        extractor = getattr(model.roi_head, f'{part}_roi_extractor')
        if isinstance(heads, nn.ModuleList):  # the stages of a cascade
            extractor = extractor[0] if isinstance(extractor, nn.ModuleList) else extractor
        else:
            heads = [heads]
        size = extractor.roi_layers[0].output_size
        for head in heads:
            head(images.new_empty(regions.max_per_img, extractor.out_channels, *size))


def count(model: nn.Module, shape: tuple[int, int]) -> dict[str, dict[object, int]]:
    """Multiply-adds of one image by module and operator; the name of the model itself is ''.

    Only modules that are called have an entry, and it includes the modules in them.

    Args:
        model: In evaluation mode, on the meta device.
        shape: Height and width.

    Raises:
        ValueError: If the model needs more than an image.
    """
    image = next(model.parameters()).new_empty(1, 3, *shape)
    model.forward = forward_of(model)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    except RuntimeError as error:
        raise ValueError(
            f'{type(model).__name__} does not run on an image of {shape[0]}x{shape[1]} alone, '
            f'without data: {error}'
        ) from error
    return {
        name.partition('.')[2]: {operator: flops // 2 for operator, flops in operators.items()}
        for name, operators in counter.get_flop_counts().items()
        if name != 'Global'
    }


def leave_out_masked(counts: dict, visible: int, patches: int) -> int:
    """Let the packed encoder of FCMAE count at visible sites only.

    All of its layers do but the convolution, which in PyTorch runs on a canvas of the whole image.

    Returns:
        Multiply-adds of an encoder of the whole image.
    """
    convolution = torch.ops.aten.convolution
    before = counts['backbone'][convolution]
    for name, operators in counts.items():
        if name.split('.')[0] == 'backbone' and convolution in operators:
            operators[convolution] = operators[convolution] * visible // patches
    after = counts['backbone'][convolution]
    counts[''][convolution] -= before - after
    return sum(counts['backbone'].values()) * patches // visible


def table(model: nn.Module, counts: dict, depth: int) -> PrettyTable:
    """Parameters and multiply-adds of the model and its parts."""

    def total(name: str, module: nn.Module) -> int:
        if name in counts:
            return sum(counts[name].values())
        # A list of modules, or one whose forward pass goes by another name.
        return sum(total(f'{name}.{child}', part) for child, part in module.named_children())

    rows = PrettyTable(['', 'parameters', 'multiply-adds'], align='r')
    rows.align[''] = 'l'
    for name, module in model.named_modules():
        level = name.count('.') + 1 if name else 0
        parameters = sum(parameter.numel() for parameter in module.parameters())
        work = total(name, module)
        if level <= depth and (parameters or work):
            title = '  ' * level + (name.split('.')[-1] or type(model).__name__)
            rows.add_row([title, f'{parameters / 1e6:.2f}M', f'{work / 1e9:.2f}G'])
    return rows
