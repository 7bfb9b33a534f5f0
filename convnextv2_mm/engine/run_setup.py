"""What the tools do before a run: read the config, and find early the mistakes that can be."""

from __future__ import annotations

import pickle
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import nn

USER_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError)
USER_ERRORS += (ImportError, SyntaxError)


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """End the program with exit code 2 and one line when what the user gave cannot be used."""
    try:
        yield
    except USER_ERRORS as error:
        # MMEngine wraps an error of a constructor in one of the same type: the first says the most.
        while type(error.__context__) is type(error):
            error = error.__context__
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sentence = re.split(r'(?<=\.)\s', ' '.join(text.split()))[0]
        if not sentence:  # a bare assertion of a library: what it says is its source
            frame = traceback.extract_tb(error.__traceback__)[-1]
            sentence = f'{type(error).__name__} in {frame.filename}:{frame.lineno}: {frame.line}'
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(2)


def read_config(path: str, options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config, apply ``--cfg-options`` and ``--work-dir``, and fit it to this machine.

    Without a GPU, mixed precision is switched off.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    for key in ('model', 'default_scope'):
        if key not in config:
            raise ValueError(f'config {path} has no {key!r}: it is not the config of a run')
    config.work_dir = work_dir or config.get('work_dir') or f'work_dirs/{Path(path).stem}'
    wrapper = config.get('optim_wrapper', {})
    if wrapper.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        print('no GPU: training in float32 instead of mixed precision', file=sys.stderr)
        wrapper.type = 'OptimWrapper'
        wrapper.pop('dtype', None)
        wrapper.pop('loss_scale', None)
    init_default_scope(config.default_scope)
    return config


def check_model(model: ConfigDict) -> nn.Module:
    """Build a model without memory for its weights, to find mistakes in its config.

    Also looks for local files that its backbone is to be initialised from.

    Returns:
        The model, on the meta device unless one of its parts cannot be built there.

    Raises:
        FileNotFoundError: If such a file does not exist.
        ValueError: If such a file holds no weights that fit the backbone.
    """
    try:
        with torch.device('meta'):
            built = MODELS.build(model)
    except (NotImplementedError, RuntimeError):  # a part of it needs values to be built
        built = MODELS.build(model)
    backbone = getattr(built, 'backbone', None)
    init = getattr(backbone, 'init_cfg', None)
    if isinstance(init, dict) and init.get('type') == 'Pretrained':
        path = init['checkpoint']
        if '://' not in path:
            _check_fit(backbone, path, read_weights(path), init.get('prefix') or '')
    return built


def _check_fit(backbone: nn.Module, path: str, weights: dict, prefix: str) -> None:
    own = backbone.state_dict()
    prefix = prefix + '.' if prefix and not prefix.endswith('.') else prefix
    found = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    # FCMAE and classifiers lack output norms that detectors and segmentors have.
    missing = [k for k in own if k not in found and not re.match(r'norm\d\.', k)]
    if missing:
        raise ValueError(
            f'checkpoint {path} does not fit {type(backbone).__name__}: {len(missing)} of '
            f"{len(own)} weights are missing under the prefix '{prefix}', such as {missing[0]}"
        )
    _check_shapes(path, own, found)


def _check_shapes(path: str, own: dict, found: dict) -> None:
    for name, value in own.items():
        if name in found and found[name].shape != value.shape:
            raise ValueError(
                f'checkpoint {path} does not fit: {name} has shape {tuple(found[name].shape)}, '
                f'the config builds {tuple(value.shape)}'
            )


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, a local file or a URL.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint.
    """
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            if '://' in path:
                checkpoint = torch.hub.load_state_dict_from_url(
                    path, map_location='cpu', weights_only=True
                )
            else:
                checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f'{path} is not a checkpoint that PyTorch can read safely') from error
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not weights or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise ValueError(f'{path} is not a checkpoint: it holds no state dict')
    return weights


def check_weights(model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    """Read a checkpoint that must hold the whole ``model``: of this task, and of this size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If weights of the model are missing or of another shape.
    """
    weights = read_weights(path)
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(
            f'checkpoint {path} is not one of {type(model).__name__}: {len(missing)} of {len(own)} '
            f'weights are missing, such as {missing[0]}'
        )
    _check_shapes(path, own, weights)
    return weights


def check_data(dataloader: ConfigDict) -> None:
    """See that the files of a data set are there.

    Raises:
        FileNotFoundError: If a folder or an annotation file does not exist.
    """
    dataset = dataloader.dataset
    while 'dataset' in dataset:  # RepeatDataset, ClassBalancedDataset and the like
        dataset = dataset.dataset
    for part in dataset.get('datasets', [dataset]):
        if part.get('make') is not None:  # drawn on first use
            continue
        root = Path(part.get('data_root') or '')
        prefix = part.get('data_prefix') or {}
        folders = prefix.values() if isinstance(prefix, dict) else [prefix]
        for path in (root, root / (part.get('ann_file') or ''), *(root / f for f in folders)):
            if not path.exists():
                raise FileNotFoundError(
                    f'data set not found: {path} does not exist; README.md says where {part.type} '
                    f'is expected'
                )
