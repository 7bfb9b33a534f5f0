"""What the tools do before a run: read the config, and find early the mistakes that can be."""

from __future__ import annotations

import math
import os
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import FUNCTIONS, MODELS, init_default_scope
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..checkpoints import read_backbone, read_state_dict
from ..models import ConvNeXtV2
from .coco_setup import check_mask_transforms, use_own_coco_metric
from .config_keys import at_key, check_options, name_unexpected_argument
from .dataset_configs import find_datasets

USER_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError)
USER_ERRORS += (ImportError, SyntaxError)
RUN_WHEN_READ = ('.pkl', '.pickle', '.yaml', '.yml')  # by MMEngine
ANNOTATION_STEPS = ('LoadAnnotations', 'LoadPanopticAnnotations')


@contextmanager
def one_sentence_errors(kinds: tuple[type[Exception], ...] = USER_ERRORS) -> Iterator[None]:
    """End the program with exit code 2 and one line when what the user gave cannot be used.

    Args:
        kinds: Errors that are the user's: before a run nearly all, during it ``BadData`` alone.
    """
    try:
        yield
    except kinds as error:
        # MMEngine wraps an error of a constructor in one of the same type: the first says the most.
        while error.__cause__ is None and type(error.__context__) is type(error):
            error = error.__context__
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        # From a process of the loader comes its whole traceback, the error at the end.
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1]
        sentence = re.split(r'(?<=\.)\s', ' '.join(text.split()))[0]
        if not sentence:  # a bare assertion of a library: what it says is its source
            frame = traceback.extract_tb(error.__traceback__)[-1]
            sentence = f'{type(error).__name__} in {frame.filename}:{frame.lineno}: {frame.line}'
        print(f'error: {sentence}', file=sys.stderr)
        sys.exit(2)


def read_config(
    path: str | Path, options: dict | None = None, work_dir: str | None = None
) -> Config:
    """Read a config, apply ``--cfg-options`` and ``--work-dir``, and fit it to this machine.

    Without a GPU, mixed precision is switched off.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the config of a run, as for :func:`parse_config`, or an evaluator
            reads a pickle or YAML.
    """
    config = parse_config(path)
    for key in ('model', 'default_scope'):
        if key not in config:
            raise ValueError(f'config {path} has no {key!r}: it is not the config of a run')
    check_options(config, options or {})
    config.merge_from_dict(options or {})
    for key in ('val_evaluator', 'test_evaluator'):
        _refuse_what_runs(config.get(key), key)
    config.work_dir = work_dir or config.get('work_dir') or f'work_dirs/{Path(path).stem}'
    wrapper = config.get('optim_wrapper', {})
    if wrapper.get('type') == 'AmpOptimWrapper' and not torch.cuda.is_available():
        print('no GPU: training in float32 instead of mixed precision', file=sys.stderr)
        wrapper.type = 'OptimWrapper'
        wrapper.pop('dtype', None)
        wrapper.pop('loss_scale', None)
    init_default_scope(config.default_scope)
    use_own_coco_metric(config)
    return config


def parse_config(path: str | Path) -> Config:
    """Read a config file and its bases.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one of them is YAML, in which a tag runs what it names, is its own base, or
            is written with ``read_base``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    try:
        with _every_file_checked():
            _check_config_file(path)
            return Config.fromfile(path)
    except RuntimeError as error:  # of MMEngine's parser
        raise ValueError(f'config {path} cannot be read: {error}') from error


@contextmanager
def _every_file_checked() -> Iterator[None]:
    """Check the bases of a config, and theirs, before MMEngine parses them."""
    parse, names = Config._file2dict, []

    def check_and_parse(filename: str, *args, **kwargs) -> tuple:
        name = os.path.realpath(filename)
        if name in names:
            raise ValueError(f'config {filename} is among its own bases')
        _check_config_file(filename)
        names.append(name)
        parsed = parse(filename, *args, **kwargs)
        names.pop()
        return parsed

    Config._file2dict = staticmethod(check_and_parse)
    try:
        yield
    finally:
        Config._file2dict = staticmethod(parse)


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
            with at_key('.'.join(filter(None, ('model', name, 'init_cfg.checkpoint')))):
                if isinstance(part, ConvNeXtV2):
                    read_backbone(part, init['checkpoint'], init.get('prefix'), 'meta')
                else:
                    read_state_dict(init['checkpoint'], 'meta')
    return built


def check_learning_rates(config: ConfigDict, name: str = 'optim_wrapper') -> None:
    """See that a learning rate, and what multiplies it for some parameters, is not negative.

    Raises:
        ValueError: If one is, or is not finite.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_learning_rates(value, f'{name}.{key}')
        elif key in ('lr', 'decay_rate') or key.endswith('lr_mult'):
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f'{name}.{key} {value!r} is not allowed: it must be 0 or more')


def _check_shapes(path: str, own: dict, found: dict) -> None:
    for name, value in own.items():
        if name in found and found[name].shape != value.shape:
            raise ValueError(
                f'checkpoint {path} does not fit: {name} has shape {tuple(found[name].shape)}, '
                f'the config builds {tuple(value.shape)}'
            )


def check_weights(model: nn.Module, path: str, device: str = 'meta') -> dict[str, torch.Tensor]:
    """Read a checkpoint that must hold the whole ``model``: of this task, and of this size.

    Args:
        model: Of which names and shapes are compared.
        path: The checkpoint.
        device: ``meta`` to look at names, shapes and checksums alone; ``cpu`` to get the values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If weights of the model are missing or of another shape.
    """
    weights = read_state_dict(path, device)
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(
            f'checkpoint {path} is not one of {type(model).__name__}: {len(missing)} of {len(own)} '
            f'weights are missing, such as {missing[0]}'
        )
    _check_shapes(path, own, weights)
    return weights


def load_model(config: Config, checkpoint: str, device: str) -> nn.Module:
    """Build the model of a config with the weights of a checkpoint, for evaluation.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is not one of the whole model.
    """
    config.model.get('backbone', {}).pop('init_cfg', None)  # the checkpoint has all weights
    weights = check_weights(check_model(config.model), checkpoint, 'cpu')
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.load_state_dict(weights, strict=False)
    return model.to(device).eval()


def join_cpu_processes(config: Config) -> None:
    """Let processes that a launcher has started train on CPUs.

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
def process_group_left() -> Iterator[None]:
    """Leave the process group when a run ends, or stops as all processes have agreed to.

    If Python is left to it, the threads of the group may abort a process that has done its work,
    and the launcher takes the run for a failed one.
    """
    try:
        yield
    except SystemExit:
        _leave_process_group()
        raise
    _leave_process_group()


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrapper of DDP or FSDP, if there is one."""
    return model.module if is_model_wrapper(model) else model


def check_data(dataloader: ConfigDict) -> None:
    """See that the files of a data set are there, and that reading them runs nothing.

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
                    f'data set not found: {path} does not exist; README.md says where {part.type} '
                    f'is expected'
                )


def load_backbone(config: Config, checkpoint: str, device: str) -> ConvNeXtV2:
    """The backbone of any config as the dense network, without output norms, for evaluation.

    Args:
        config: Of pre-training, a classifier, a detector or a segmentor.
        checkpoint: A checkpoint of it, or of its backbone in any layout that
            :func:`~convnextv2_mm.checkpoints.read_backbone` reads.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is of another backbone, or the config has one that is not ours.
    """
    options = config.model.get('backbone') or {}
    kind = MODELS.get(options.get('type', ''))
    if not isinstance(kind, type) or not issubclass(kind, ConvNeXtV2):
        raise ValueError(
            f'backbone {options.get("type")} is not allowed here: it must be '
            'convnextv2_mm.ConvNeXtV2 or convnextv2_mm.SparseConvNeXtV2'
        )
    dense = dict(type='convnextv2_mm.ConvNeXtV2', out_indices=(), backend='auto', init_cfg=None)
    backbone = MODELS.build({**options, **dense})
    backbone.load_state_dict(read_backbone(backbone, checkpoint))
    return backbone.to(device).eval()


def find_images(paths: Sequence[str], number: int | None = None) -> list[str]:
    """Image files, and those in folders, in order of their names.

    Args:
        paths: Files and folders.
        number: If there are more, take so many of them at random, always the same.

    Raises:
        FileNotFoundError: If one of the paths does not exist, or a folder holds no image.
        ValueError: If ``number`` is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f'--num-images {number} is not allowed: 1 is least')
    found = []
    for path in map(Path, paths):
        inside = [str(path)]
        if path.is_dir():
            files = sorted(path.rglob('*'))
            inside = [str(file) for file in files if file.suffix.lower() in IMG_EXTENSIONS]
        elif not path.is_file():
            raise FileNotFoundError(f'image {path} does not exist')
        if not inside:
            raise FileNotFoundError(f'folder {path} holds no image: {", ".join(IMG_EXTENSIONS)}')
        found += inside
    if number is not None and number < len(found):
        found = sorted(random.Random(0).sample(found, number))
    return found


def image_reader(config: Config) -> Callable[[str], dict]:
    """What turns an image file into a batch of one, as for the test of a config.

    Raises:
        ValueError: If the config describes no test.
    """
    if not config.get('test_dataloader'):
        raise ValueError('the config describes no test: it has no test_dataloader')
    steps = config.test_dataloader.dataset.pipeline
    pipeline = Compose([s for s in steps if s['type'].split('.')[-1] not in ANNOTATION_STEPS])
    collate = config.test_dataloader.get('collate_fn', dict(type='pseudo_collate'))
    collate = FUNCTIONS.get(collate['type'])

    def read(path: str) -> dict:
        return collate([pipeline(dict(img_path=path, img_id=0))])

    return read
