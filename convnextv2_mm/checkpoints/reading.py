"""Reading checkpoint files without running anything that is in them.

PyTorch files are read with ``weights_only=True``: only the types named here and PyTorch's own are
built. Safetensors files hold nothing but tensors. MMEngine reads with this too after
:func:`convnextv2_mm.patches.safe_loading`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    get_external_models,
    get_torchvision_models,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .archives import check_archive, is_archive
from .model_zoo import fetch

# Where training scripts keep weights (timm, the official ones, MMEngine), the best first.
AVERAGED = ('state_dict_ema', 'model_ema')
ENTRIES = (*AVERAGED, 'state_dict', 'model')
# Files that transformers writes into a folder, the safer first.
_FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
MOST_INDEX_BYTES = 64 << 20  # that of a model with 100,000 weights has some 10 MB


# How configs of OpenMMLab name weights of model zoos.
_ZOOS = {
    'torchvision://': get_torchvision_models,
    'modelzoo://': get_torchvision_models,
    'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models,
}


def _getattr_of_history_buffer(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in a pickle; MMEngine's logs only need these methods.

    MMEngine allows ``getattr`` itself, and with that a pickle reaches ``exec``.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('GLOBAL builtins.getattr')
    return getattr(owner, name)


def _dict_of_defaultdict(*_: Any) -> dict:
    """Stand in for ``defaultdict``, into which PyTorch's reader puts nothing."""
    return {}


def _list_of_deque(items: Iterable = (), _: int | None = None) -> list:
    """Stand in for ``deque``, to which PyTorch's reader adds nothing."""
    return list(items)


def _numpy_globals() -> list:
    """All number types of NumPy, its texts and times, under the names of NumPy 1 and of NumPy 2.

    Not its objects and records: of them, bytes of the file can become addresses in memory.
    """
    rebuild: list[Any] = [value.__reduce__()[0] for value in (np.float32(0), np.zeros(0))]
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    found = [np.ndarray, np.dtype, (np.bool_, 'numpy.bool'), (np.bool_, 'numpy.bool_')]
    found += [(function, f'{name}.{function.__name__}') for function in rebuild for name in modules]
    dtypes = [np.dtype(code) for code in '?bhilqpBHILQPefdgFDGUSmM']
    return found + [kind for dtype in dtypes for kind in (type(dtype), dtype.type)]


# Plain data, and what it is made of.
SAFE_GLOBALS = [
    *_numpy_globals(),
    *(HistoryBuffer, (_getattr_of_history_buffer, 'builtins.getattr')),
    *(argparse.Namespace, ConfigDict),
    *(int, float, bool, str, list, tuple, dict, frozenset, slice),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *((Path, f'{module}.PosixPath') for module in ('pathlib', 'pathlib._local')),
    *((PureWindowsPath, f'{module}.WindowsPath') for module in ('pathlib', 'pathlib._local')),
    *((_dict_of_defaultdict, 'collections.defaultdict'), (_list_of_deque, 'collections.deque')),
]


def read_file(source: str | Path, device: str = 'cpu') -> Any:
    """Read what a checkpoint holds, and find damage by its checksums.

    Safetensors files, and PyTorch's from before 1.6, have no checksums: of them only the header and
    the length are checked.

    Args:
        source: A PyTorch or safetensors file, the index of a sharded one, a folder that
            transformers wrote, a URL, ``convnextv2://NAME``, or a name of torchvision's or
            OpenMMLab's model zoo.
        device: ``cpu``, or ``meta`` for the names, shapes and types of tensors without their
            values, which takes no memory.

    Raises:
        FileNotFoundError: If it does not exist, or cannot be fetched.
        ValueError: If it is not a checkpoint, is damaged, or wants to run code.
    """
    path = _find(str(source))
    if path.is_dir():
        inside = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
        if not inside:
            raise FileNotFoundError(
                f'folder {path} holds no checkpoint: expected one of {", ".join(_FOLDER_FILES)}'
            )
        path = inside[0]
    if path.suffix == '.json':
        return _read_shards(path, device)
    return _read_one(path, device)


def inspect_file(source: str | Path) -> Any:
    """What :func:`read_file` returns, and the same checks, with tensors on the meta device."""
    return read_file(source, 'meta')


def _find(source: str) -> Path:
    scheme, separator, name = source.partition('://')
    if not separator:
        return Path(source).expanduser()
    if zoo := _ZOOS.get(f'{scheme}://'):
        urls = zoo()
        if name not in urls:
            raise ValueError(f'no weights of {scheme}:// are named {name!r}')
        return fetch(urls[name], Path(urls[name]).name)  # as torchvision and MMEngine keep it
    return fetch(source)


def _read_one(path: Path, device: str) -> Any:
    _check_is_file(path)
    read = _read_safetensors if path.suffix == '.safetensors' else _read_pickle
    return read(path, device)


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        there = path.exists()
        problem = 'is not a regular file' if there else 'does not exist'
        raise (ValueError if there else FileNotFoundError)(f'checkpoint {path} {problem}')


def _read_shards(index: Path, device: str) -> dict[str, Tensor]:
    _check_is_file(index)
    if (size := index.stat().st_size) > MOST_INDEX_BYTES:
        raise ValueError(
            f'{index} is not the index of a sharded checkpoint: it has {size:,} bytes, and '
            f'{MOST_INDEX_BYTES:,} is most'
        )
    try:
        names = json.loads(index.read_text())['weight_map']
        files = sorted(set(names.values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f'{index} is not the index of a sharded checkpoint') from error
    # An index of safetensors files promises that there is no pickle among them.
    allowed = ['.safetensors'] + ['.bin', '.pth'] * ('.safetensors' not in index.name)
    for name in files:
        if Path(str(name)).name != name:
            raise ValueError(f'{index} lists {name}, but its files must be beside it')
        if not name.endswith(tuple(allowed)):
            raise ValueError(
                f'{index} lists {name}, but its files must end in {" or ".join(allowed)}'
            )
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{index} lists {len(files)} files, of which {len(missing)} are not beside it, such as '
            f'{missing[0]}'
        )
    shards = [find_state_dict(_read_one(index.parent / f, device), f)[0] for f in files]
    weights = {name: tensor for shard in shards for name, tensor in shard.items()}
    if absent := [name for name in names if name not in weights]:
        raise ValueError(
            f'{index} lists {len(names)} weights, of which {len(absent)} are not in its files, '
            f'such as {absent[0]}'
        )
    return weights


def _read_safetensors(path: Path, device: str) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path} is not a whole safetensors file: {error}') from error
    # Until here they are views of the file, of which nothing has been read.
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _read_pickle(path: Path, device: str) -> Any:
    if is_archive(path):
        check_archive(path)
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of pickle protocols that it may not know
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r'GLOBAL (\S+)|unrecognized function (.+?)(?: which|$)', str(error))
        name = called[1] or called[2] if called else _first_import(path)
        if kind := re.search(r"but got <class '(\S+)'>", str(error)):
            raise ValueError(
                f'{path} is refused: it holds a {kind[1]}, and only weights and plain data are read'
            ) from error
        if name:
            raise ValueError(
                f'{path} is refused: it wants to run {name} while it is read, and only weights are '
                f'read'
            ) from error
        raise ValueError(f'{path} is not a checkpoint that PyTorch can read') from error
    except Exception as error:  # bytes that are no checkpoint raise whatever they lead to
        raise ValueError(f'{path} is not a checkpoint, or not a whole one') from error


def _first_import(path: Path) -> str | None:
    """The first import outside PyTorch in a pickle whose protocol PyTorch cannot read."""
    strings: list[str] = []
    with path.open('rb') as file:
        start = file.read(1 << 20)
    try:
        for opcode, argument, _ in pickletools.genops(start):
            if opcode.name == 'STACK_GLOBAL' and not strings[-2].startswith('torch'):
                return '.'.join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except (ValueError, IndexError):  # not a pickle
        pass
    return None


# What MMEngine reads itself, so that none is left to it: '' is a file.
_OTHER_SCHEMES = ['', 'http://', 'https://', 'mmcls://', 'pavi://']
_OTHER_SCHEMES += [r'(\S+\:)?s3://', r'(\S+\:)?petrel://']
SCHEMES = [*_ZOOS, *_OTHER_SCHEMES]  # of MMEngine's checkpoint loader


def load_from_anywhere(filename: str, map_location: Any = None) -> Any:
    """Read a checkpoint for MMEngine, whose own loaders run a pickle that they cannot read safely.

    Args:
        filename: As for :func:`read_file`.
        map_location: Not used: the values are copied to where they belong in any case.

    Returns:
        What the file holds, without the source of a config, which ``Runner.resume`` would run.

    Raises:
        FileNotFoundError: If it does not exist, or cannot be fetched.
        ValueError: If it is not a checkpoint, or wants to run code.
    """
    content = read_file(filename)
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def find_state_dict(content: Any, source: str | Path) -> tuple[dict[str, Tensor], str]:
    """Find the weights in a loaded file, preferring averaged (EMA) ones.

    Returns:
        The state dict, and the entry it was found under; '' if it is all there is.

    Raises:
        ValueError: If there are none.
    """
    entry = ''
    if isinstance(content, dict):
        entry = next((name for name in ENTRIES if isinstance(content.get(name), dict)), '')
    state = content[entry] if entry else content
    if not isinstance(state, dict) or not state or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f'{source} is not a checkpoint of a network: it holds no state dict')
    return state, entry
