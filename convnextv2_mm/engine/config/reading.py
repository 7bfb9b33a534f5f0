"""Read the config of a run, and find mistakes in it early."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path, is_installed
from torch import nn

from ...checkpoints import read_backbone, read_state_dict
from ...models import ConvNeXtV2
from ...utils.imports import without_onedl
from .coco import check_mask_transforms, swap_coco_metric
from .datasets import find_datasets
from .keys import check_options, name_unexpected_argument, prefix_errors
from .own_recipe import fill_in
from .suggestions import suggest_config

RUN_WHEN_READ = ('.pkl', '.pickle', '.yaml', '.yml')  # by MMEngine

LIBRARIES = ('mmdet', 'mmpretrain', 'mmseg')


def read_config(
    config: str | Path | Config, options: dict | None = None, work_dir: str | None = None
) -> Config:
    """The config of a run, with its options, fitted to this machine.

    Without a GPU, mixed precision is switched off; on one without bfloat16 it is in float16.

    Args:
        config: As for :func:`parse_config`; or a config, which is copied and stays as it is.
        options: What ``--cfg-options`` changes.
        work_dir: Takes the place of the config's; else ``work_dirs/NAME``, by the file's name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the config of a run, as for :func:`parse_config`, or an evaluator
            reads a pickle or YAML.
    """
    name = (config.filename or 'config') if isinstance(config, Config) else str(config)
    config = deepcopy(config) if isinstance(config, Config) else parse_config(config)
    config = RunConfig(
        config._cfg_dict, config.text, config.filename, env_variables=config.env_variables
    )
    for key in ('model', 'default_scope'):
        if key not in config:
            raise ValueError(f'config {name} has no {key!r}: it is not the config of a run')
    check_options(config, options or {})
    config.merge_from_dict(options or {})
    if 'data_preprocessor' in config:  # as MMEngine's runner does, for what runs without it
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    for key in ('val_evaluator', 'test_evaluator'):
        _refuse_what_runs(config.get(key), key)
    config.work_dir = work_dir or config.get('work_dir') or f'work_dirs/{Path(name).stem}'
    if 'own' in config:
        fill_in(config)
    _fit_precision(config.get('optim_wrapper', {}))
    init_default_scope(config.default_scope)
    if config.default_scope in LIBRARIES:
        with without_onedl():  # the registries would import it, and let it print
            import_module(f'{config.default_scope}.datasets')
    swap_coco_metric(config)
    return config


def _fit_precision(wrapper: ConfigDict) -> None:
    """Train in the precision that the device has: CPUs and GPUs before Ampere emulate bfloat16."""
    if wrapper.get('type') != 'AmpOptimWrapper':
        return
    if not torch.cuda.is_available():
        print('no GPU: training in float32 instead of mixed precision', file=sys.stderr)
        wrapper.type = 'OptimWrapper'
        wrapper.pop('dtype', None)
        wrapper.pop('loss_scale', None)
    elif wrapper.get('dtype') == 'bfloat16':
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            print(f'{name} has no bfloat16: training in float16 instead', file=sys.stderr)
            wrapper.update(dtype='float16', loss_scale='dynamic')


class RunConfig(Config):
    """A config whose text is laid out once: MMEngine asks for it with each checkpoint."""

    @property
    def pretty_text(self) -> str:
        """The config as Python, as MMEngine writes it."""
        values = repr(self.to_dict())
        if self.__dict__.get('_laid_out', ('',))[0] != values:
            self.__dict__['_laid_out'] = values, super().pretty_text
        return self.__dict__['_laid_out'][1]


def parse_config(path: str | Path) -> Config:
    """Read a config file and its bases.

    Args:
        path: A file, or ``convnextv2_mm::FOLDER/NAME.py`` for one of ours, wherever it lies.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one of them is YAML, in which a tag runs what it names, is its own base, or
            is written with ``read_base``.
    """
    path = find_config(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist{suggest_config(path)}')
    try:
        with _checked_and_found():
            _check_config_file(path)
            return Config.fromfile(path)
    except RuntimeError as error:  # of MMEngine's parser
        raise ValueError(f'config {path} cannot be read: {error}') from error


def find_config(path: str | Path) -> str:
    """The file behind ``PACKAGE::NAME``; a path stays as it is.

    Raises:
        FileNotFoundError: If the package has no such config.
        ModuleNotFoundError: If the package is not installed.
    """
    if '::' not in str(path):
        return str(path)
    if (file := _packaged_config(str(path))) is not None:
        return file
    try:
        return Config._get_cfg_path(str(path), '')[0]
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f'config {path} does not exist: it must be PACKAGE::FOLDER/NAME.py'
        ) from error


def _packaged_config(path: str) -> str | None:
    """The file behind ``PACKAGE::NAME``; None if it is not where packages have their configs.

    MMEngine first reads the whole model index of the package, which takes a second.
    """
    package, _, name = path.partition('::')
    if package not in MODULE2PACKAGE or not is_installed(MODULE2PACKAGE[package]):
        return None
    file = Path(get_installed_path(MODULE2PACKAGE[package]), '.mim', 'configs', name)
    return str(file) if file.is_file() else None


@contextmanager
def _checked_and_found() -> Iterator[None]:
    """Check the bases of a config, and theirs, before MMEngine parses them; find them at once."""
    parse, find, names = Config._file2dict, Config._get_cfg_path, []

    def check_and_parse(filename: str, *args, **kwargs) -> tuple:
        name = os.path.realpath(filename)
        if name in names:
            raise ValueError(f'config {filename} is among its own bases')
        _check_config_file(filename)
        names.append(name)
        parsed = parse(filename, *args, **kwargs)
        names.pop()
        return parsed

    def find_base(path: str, filename: str) -> tuple[str, str | None]:
        file = _packaged_config(path) if '::' in path else None
        return (file, path.partition('::')[0]) if file else find(path, filename)

    Config._file2dict = staticmethod(check_and_parse)
    Config._get_cfg_path = staticmethod(find_base)
    try:
        yield
    finally:
        Config._file2dict, Config._get_cfg_path = staticmethod(parse), staticmethod(find)


def _check_config_file(path: str) -> None:
    if Path(path).suffix not in ('.py', '.json'):
        raise ValueError(f'config {path} is not allowed: the name must end in .py or .json')
    if Path(path).is_file() and Config._is_lazy_import(str(path)):
        raise ValueError(
            f'config {path} imports a package or uses read_base(), which cannot be used here: name'
            f' its bases in _base_, and types as text'
        )


def _refuse_what_runs(config: Any, key: str) -> None:
    """Refuse files that MMEngine would run while it reads them, anywhere in part of a config."""
    if isinstance(config, dict):
        if not str(config.get('type')).split('.')[-1].startswith('Dump'):  # those write them
            for name, value in config.items():
                _refuse_what_runs(value, name)
    elif isinstance(config, list | tuple):
        for value in config:
            _refuse_what_runs(value, key)
    elif isinstance(config, str | Path) and str(config).endswith(RUN_WHEN_READ):
        raise ValueError(
            f'{key} {config} is not allowed: MMEngine would run what is in it; give a .json or .txt'
            f' file'
        )


def check_model(model: ConfigDict) -> nn.Module:
    """Build a model without memory for its weights, to find mistakes in its config.

    Also looks at the files that its parts are to be initialised from, which fetches them.

    Returns:
        The model, on the meta device unless one of its parts cannot be built there.

    Raises:
        FileNotFoundError: If such a file does not exist.
        ValueError: If such a file holds no weights, or not those of the backbone; or if a part of
            the model does not take one of its arguments.
    """
    try:
        with torch.device('meta'):
            built = MODELS.build(model)
    except (NotImplementedError, RuntimeError):  # a part of it needs values to be built
        built = MODELS.build(model)
    except TypeError as error:
        named = name_unexpected_argument(error, model)
        if named is None:
            raise
        raise named from error
    for name, part in built.named_modules():
        given = getattr(part, 'init_cfg', None)
        for init in given if isinstance(given, list) else [given]:
            if not isinstance(init, dict) or init.get('type') != 'Pretrained':
                continue
            with prefix_errors('.'.join(filter(None, ('model', name, 'init_cfg.checkpoint')))):
                if isinstance(part, ConvNeXtV2):
                    adapt = init.get('adapt_channels', False)
                    read_backbone(part, init['checkpoint'], init.get('prefix'), 'meta', adapt)
                else:
                    read_state_dict(init['checkpoint'], 'meta')
    return built


def check_learning_rates(config: ConfigDict, name: str = 'optim_wrapper') -> None:
    """Check that a learning rate, and what multiplies it for some parameters, is not negative.

    Raises:
        ValueError: If one is, or is not finite.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_learning_rates(value, f'{name}.{key}')
        elif key in ('lr', 'decay_rate') or key.endswith('lr_mult'):
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f'{name}.{key} {value!r} is not allowed: it must be 0 or more')


def check_data(dataloader: ConfigDict) -> None:
    """Check that the files of a data set are there, and that reading them runs nothing.

    Raises:
        FileNotFoundError: If a folder or an annotation file does not exist.
        ValueError: If anything that it reads is a pickle or YAML, or if transforms would part boxes
            from masks.
    """
    _refuse_what_runs(dataloader.dataset, 'dataset')
    check_mask_transforms(dataloader.dataset)
    for part in find_datasets(dataloader):
        if part.get('make') is not None:  # drawn on first use
            continue
        root = Path(part.get('data_root') or '')
        prefix = part.get('data_prefix') or {}
        if part.type.endswith('ImageNet') and not prefix:  # it has a folder for each split
            prefix = part.get('split', '')
        folders = prefix.values() if isinstance(prefix, dict) else [prefix]
        for path in (root, root / (part.get('ann_file') or ''), *(root / f for f in folders)):
            if not path.exists():
                raise FileNotFoundError(
                    f'data set not found: {path} does not exist; docs/get_started.md says where '
                    f'{part.type} is expected'
                )
