"""``compile`` of a config, as in MMEngine, for the network alone.

MMEngine compiles ``train_step``: the optimizer with its hooks too, which Dynamo does not follow,
and the reading of data samples, for which it compiles anew. The time is in the network.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import nn

from ...models import FCMAE


def compile_network(model: nn.Module, config: Config) -> list[str]:
    """Compile backbone and neck, and FCMAE's loss, as ``config.compile`` says, and take it away.

    Args:
        model: Of a runner, wrapped or not. Names of weights stay.
        config: ``compile`` is True, or a dict of arguments of ``torch.compile``.

    Returns:
        Names of the parts that are compiled when they are first called.

    Raises:
        ValueError: If ``compile`` is something else.
    """
    options = config.pop('compile', None)
    if options is None or options is False:
        return []
    if options is not True and not isinstance(options, Mapping):
        raise ValueError(f'compile {options!r} is not allowed: it must be True or a dict')
    network = model.module if is_model_wrapper(model) else model
    names = ['backbone', 'neck', *(['head'] if isinstance(network, FCMAE) else [])]
    names = [name for name in names if isinstance(getattr(network, name, None), nn.Module)]
    for name in names:
        getattr(network, name).compile(**({} if options is True else options))
    return names
