"""Processes that train together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper


def init_cpu_process_group(config: Config) -> None:
    """Initialize the process group for launched processes that train on CPUs.

    MMEngine would look for a GPU. A process group that is there it leaves as it is. The options of
    the config for the wrapper and the group (``find_unused_parameters``, ``model_wrapper_cfg`` and
    ``env_cfg.dist_cfg.timeout``, in seconds) hold as they do on GPUs.
    """
    seconds = config.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout = None if seconds is None else timedelta(seconds=int(seconds))
    torch.distributed.init_process_group('gloo', timeout=timeout)
    wrapper = config.get('model_wrapper_cfg')
    if wrapper is None:  # what MMEngine takes then
        unused = config.get('find_unused_parameters', False)
        wrapper = dict(broadcast_buffers=False, find_unused_parameters=unused)
    config.model_wrapper_cfg = dict(wrapper, device_ids=None)


@contextmanager
def destroying_process_group() -> Iterator[None]:
    """Destroy the process group when a run ends or stops by agreement.

    If Python is left to it, the threads of the group may abort a process that has done its work,
    and the launcher takes the run for a failed one.
    """
    try:
        yield
    except SystemExit:
        leave_process_group()
        raise
    leave_process_group()


def leave_process_group() -> None:
    """Destroy the process group, if there is one.

    The threads of gloo may still hold Python objects of the last collective, and need the GIL to
    release them. A DDP model that is freed meanwhile waits for those threads and holds the GIL: the
    process would hang. The pause lets them finish.
    """
    if torch.distributed.is_initialized():
        time.sleep(0.1)
        torch.distributed.destroy_process_group()


def unwrap_model(model: Any) -> Any:
    """The model inside the wrapper of DDP or FSDP, if there is one."""
    return model.module if is_model_wrapper(model) else model
