"""Sharded training (FSDP) for models whose optimizer state does not fit on one GPU.

A config asks for it with ``runner_type='FlexibleRunner'`` and a ``strategy`` of the class below;
:func:`each_block` is its unit of sharding and of activation checkpointing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine import _strategy
from mmengine.dist import is_main_process
from mmengine.optim import BaseOptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from ...models.layers.block import ConvNeXtV2Block
from ...registry import FUNCTIONS, STRATEGIES
from ...utils.atomic import atomic_write


@FUNCTIONS.register_module()
def each_block(module: nn.Module, recurse: bool = False, nonwrapped_numel: int = 0) -> bool:
    """Policy that picks each :class:`ConvNeXtV2Block`.

    With one argument it is a ``check_fn`` of activation checkpointing, with all an
    ``auto_wrap_policy`` of FSDP, which asks with ``recurse`` whether to look inside.
    """
    return recurse or isinstance(module, ConvNeXtV2Block)


@STRATEGIES.register_module()
class FSDPStrategy(_strategy.FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` with an optimizer that knows the whole parameters, and on a CPU.

    Takes the arguments of MMEngine's; ``model_wrapper.use_orig_params`` must stay True, and
    ``state_dict_cfg`` must be ``full``: MMEngine's other kind saves a folder of shards that neither
    ``--resume`` nor any tool reads.
    """

    def __init__(self, *, state_dict_cfg: str = 'full', **kwargs: Any) -> None:
        if state_dict_cfg != 'full':
            raise ValueError(f"strategy.state_dict_cfg is {state_dict_cfg!r}: expected 'full'")
        super().__init__(state_dict_cfg=state_dict_cfg, **kwargs)

    def prepare(
        self,
        model: nn.Module | dict,
        *,
        optim_wrapper: Optimizer | BaseOptimWrapper | dict | None = None,
        **kwargs,
    ) -> tuple:
        """Build the model, the optimizer and the schedulers, and shard them."""
        if isinstance(optim_wrapper, dict) and not self._prepared:
            # Before the parameters are sharded: the shard of a matrix is a vector under a longer
            # name, and the constructor would give it no weight decay. Sharding swaps what the
            # Parameter objects hold, and the optimizer keeps those.
            model = self.build_model(model)
            optim_wrapper = super().build_optim_wrapper(optim_wrapper, model)
        return super().prepare(model, optim_wrapper=optim_wrapper, **kwargs)

    def build_optim_wrapper(
        self, optim_wrapper: Optimizer | BaseOptimWrapper | dict, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """What :meth:`prepare` has built is as it must be."""
        if isinstance(optim_wrapper, BaseOptimWrapper):
            return optim_wrapper
        return super().build_optim_wrapper(optim_wrapper, model)

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Save a checkpoint, whole or not at all: MMEngine leaves the storage out here."""
        if '://' in filename or not is_main_process():
            super().save_checkpoint(filename, **kwargs)  # all gather what the first one writes
            return
        with atomic_write(Path(filename)) as path:
            super().save_checkpoint(str(path), **kwargs)

    def optim_state_dict(self) -> dict:
        """The whole state of the optimizer, on the first process."""
        return super().optim_state_dict() | _beside_optimizer(self.optim_wrapper.state_dict())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Shard the state of the optimizer, which is whole in the checkpoint, and load it."""
        # MMEngine passes the arguments in the order that they had before PyTorch 2.1.
        optimizer = self.optim_wrapper.optimizer
        state = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(state | _beside_optimizer(state_dict))

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not torch.cuda.is_available():  # MMEngine passes the number of a GPU
            options = self.model_wrapper or {}  # type: ignore[has-type]
            self.model_wrapper = dict(options, device_id=torch.device('cpu'))
        return super()._wrap_model(model)

    def _init_state_dict_cfg(self, state_dict_cfg: str | dict) -> None:
        super()._init_state_dict_cfg(state_dict_cfg)
        if not torch.cuda.is_available():
            # PyTorch frees what it should move to the CPU and what is there already:
            # https://github.com/pytorch/pytorch/issues/188989
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False


def _beside_optimizer(state_dict: dict) -> dict:
    """What MMEngine's wrapper keeps beside the optimizer's own, and PyTorch leaves out: the rate
    for the log, and the loss scale of float16."""
    return {k: v for k, v in state_dict.items() if k not in ('state', 'param_groups')}
