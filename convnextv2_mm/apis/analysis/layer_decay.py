"""The learning rate of each part of a network, and its weight decay."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper

from ...engine.config.reading import check_model, read_config


class PartRate(NamedTuple):
    """A part of a network as the optimizer sees it.

    Attributes:
        part: The block, downsampling or norm of the backbone, or the head.
        lr: Before the schedule.
        scale: The same, of the base learning rate.
        parameters: Numbers of parameters by weight decay.
    """

    part: str
    lr: float
    scale: float
    parameters: dict[float, int]


def layer_rates(config: str | Path | Config, cfg_options: dict | None = None) -> list[PartRate]:
    """The learning rates of all parts that a config trains, in ascending order.

    Nothing is trained and no weights are read.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If its optimizer cannot be built.
    """
    config = read_config(config, cfg_options)
    config.model.backbone.pop('init_cfg', None)
    MMLogger.get_current_instance().setLevel('WARNING')  # the constructor logs its groups
    wrapper = build_optim_wrapper(check_model(config.model), config.optim_wrapper)
    base = wrapper.optimizer.defaults['lr']
    parts: dict[tuple[str, float], dict[float, int]] = {}
    for group in wrapper.optimizer.param_groups:
        for name, parameter in zip(group['param_names'], group['params'], strict=True):
            counts = parts.setdefault((part_of(name), group['lr']), {})
            decay = group['weight_decay']
            counts[decay] = counts.get(decay, 0) + parameter.numel()
    rates = [PartRate(part, lr, lr / base, counts) for (part, lr), counts in parts.items()]
    return sorted(rates, key=lambda rate: rate.lr)


def part_of(name: str) -> str:
    """The block, downsampling or norm of the backbone, or the head, that a parameter is in."""
    words = name.split('.')
    for key, length in (('stages', 3), ('downsample_layers', 2), ('backbone', 2)):
        if key in words:
            return '.'.join(words[: words.index(key) + length])
    return words[0]
