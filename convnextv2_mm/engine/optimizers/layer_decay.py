"""Learning rates that fall with depth, as the fine-tuning recipes of ConvNeXt V2 use them."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ...models import ConvNeXtV2
from ...registry import OPTIM_WRAPPER_CONSTRUCTORS

DECAY_TYPES = ('layer_wise', 'group_wise')


def layer_id(name: str, depths: Sequence[int], decay_type: str) -> tuple[int, int]:
    """Place a backbone parameter in the network.

    The rule is that of the official fine-tuning code
    (https://github.com/facebookresearch/ConvNeXt-V2, ``optim_factory.py``). Layer-wise, blocks are
    numbered from 1 and the downsampling before a stage has the number of its first block.
    Group-wise, three consecutive blocks of a stage share a number, and the stem has 0.

    Args:
        name: Name of the parameter inside the backbone, such as ``stages.2.5.norm.weight``.
        depths: Blocks of each stage.
        decay_type: ``layer_wise`` or ``group_wise``.

    Returns:
        The number of the parameter, and the number of what comes after the last block: output
        norms and heads.
    """
    size = 1 if decay_type == 'layer_wise' else 3
    groups = [-(-depth // size) for depth in depths]
    part, *rest = name.split('.')
    last = sum(groups) + 1
    if part == 'stages':
        stage, block = int(rest[0]), int(rest[1])
        return sum(groups[:stage]) + block // size + 1, last
    if part == 'downsample_layers':
        stage = int(rest[0])
        if stage == 0 and decay_type == 'group_wise':
            return 0, last
        return sum(groups[:stage]) + 1, last
    return last, last


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """AdamW groups with layer-wise or group-wise learning-rate decay.

    Each backbone parameter trains at ``lr · decay_rate ** (last − id)``, where :func:`layer_id`
    numbers them; everything outside the backbone trains at ``lr``. Biases, one-dimensional weights
    and GRN get no weight decay. Works for a :class:`ConvNeXtV2` anywhere in the model: classifier,
    detector, segmentor or FCMAE.

    ``paramwise_cfg`` of the optimizer wrapper holds:

    * ``decay_rate`` (float): in (0, 1]; 1 leaves only the weight-decay rule.
    * ``decay_type`` (str): ``layer_wise`` (default) or ``group_wise``.

    Raises:
        ValueError: If a value is not as above, or the model holds no :class:`ConvNeXtV2`.
    """

    def _validate_cfg(self) -> None:
        unknown = set(self.paramwise_cfg) - {'decay_rate', 'decay_type'}
        if unknown:
            raise ValueError(
                f'paramwise_cfg {sorted(unknown)} unknown: decay_rate and decay_type are allowed'
            )
        self.decay_rate = self.paramwise_cfg.get('decay_rate')
        self.decay_type = self.paramwise_cfg.get('decay_type', 'layer_wise')
        if not isinstance(self.decay_rate, int | float) or not 0 < self.decay_rate <= 1:
            raise ValueError(f'decay_rate {self.decay_rate} is not allowed: it must be in (0, 1]')
        if self.decay_type not in DECAY_TYPES:
            raise ValueError(
                f'decay_type {self.decay_type!r} is unknown: choose {" or ".join(DECAY_TYPES)}'
            )

    def add_params(self, params: list[dict], module: nn.Module, **_) -> None:
        """Add the parameters of ``module`` to ``params``, one group per rate and weight decay."""
        backbones = {
            prefix + '.' * bool(prefix): part
            for prefix, part in module.named_modules()
            if isinstance(part, ConvNeXtV2)
        }
        if not backbones:
            raise ValueError(
                f'{type(module).__name__} holds no convnextv2_mm.ConvNeXtV2: '
                'LayerDecayOptimWrapperConstructor has nothing to number'
            )
        groups: dict[tuple[float, bool], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            scale = 1.0
            for prefix, backbone in backbones.items():
                if name.startswith(prefix):
                    number, last = layer_id(
                        name.removeprefix(prefix), backbone.depths, self.decay_type
                    )
                    scale = self.decay_rate ** (last - number)
            decays = parameter.ndim > 1 and not name.endswith('.bias') and '.grn.' not in name
            group = groups.setdefault(
                (scale, decays), dict(params=[], param_names=[], lr_scale=scale)
            )
            if self.base_lr is not None:
                group['lr'] = self.base_lr * scale
            if not decays:
                group['weight_decay'] = 0.0
            group['params'].append(parameter)
            group['param_names'].append(name)
        for (scale, decays), group in sorted(groups.items()):
            print_log(
                f'lr x {scale:.4g}, {"weight decay" if decays else "no weight decay"}: '
                f'{len(group["params"])} parameters, {group["param_names"][0]} and on',
                logger='current',
            )
            params.append(group)
