"""Find config keys that nothing reads.

MMEngine drops some of them without a word: a misspelled ``param_schedulers`` trains at a constant
learning rate. Others end in the ``TypeError`` of a constructor. The signatures of what will be
called tell what is allowed.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

SPLITS = ('train', 'val', 'test')
# Keys of the syntax of configs.
_SYNTAX = {'type', '_scope_', '_delete_'}
# What the tools and MMEngine's config and runner registry read, and no runner.
_READ_ELSEWHERE = {'picture_channels', 'custom_imports', 'runner_type', 'tta_model', 'tta_pipeline'}
_AUTO_SCALE_LR = {'enable', 'base_batch_size'}


class Part(NamedTuple):
    """A part of a config that will be built by calling a class or function.

    Attributes:
        path: Its key in the config, as for ``--cfg-options``.
        config: The part.
        registry: Where its type is looked up.
        default: Its type if it names none; None if it must.
        beside: Keys that are taken out before the call.
    """

    path: str
    config: Mapping
    registry: Registry
    default: Any = None
    beside: Collection[str] = ()


@contextmanager
def prefix_errors(key: str) -> Iterator[None]:
    """Prefix errors with the config key they belong to."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{key}: {error}') from error
    except ValueError as error:
        raise ValueError(f'{key}: {error}') from error


def unknown_key(path: str, known: Collection[str]) -> ValueError:
    """The error that names a key, or an index of a list, that nothing reads."""
    before, _, key = path.rpartition('.')
    nearest = difflib.get_close_matches(key, sorted(known), n=1)
    if nearest:
        hint = f'did you mean {before}{"." * bool(before)}{nearest[0]}?'
    else:
        hint = f'allowed are {", ".join(sorted(known)) or "none"}'
    return ValueError(f'{path} is not a key that is read: {hint}')


class Arguments(NamedTuple):
    """What a class or function takes by name.

    Attributes:
        names: Names of its arguments.
        others: Whether it takes others too, and does with them what it likes.
    """

    names: frozenset[str]
    others: bool


@cache
def accepted_arguments(kind: Callable) -> Arguments:
    """The arguments of a class or function.

    ``**kwargs`` of a constructor are taken to go to the next class in the order of its bases.
    """
    is_class = inspect.isclass(kind)
    names: set[str] = set()
    others = False
    for function in [vars(base).get('__init__') for base in kind.__mro__] if is_class else [kind]:
        if function in (None, object.__init__):
            continue
        parameters = list(inspect.signature(function).parameters.values())[is_class:]
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names |= {parameter.name for parameter in named}
        others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        if not others:
            break
    return Arguments(frozenset(names), others)


@cache
def _keys_taken_in(code: Callable, pattern: str) -> frozenset[str]:
    """Keys that source code takes out of a dictionary, as a pattern finds them."""
    return frozenset(re.findall(pattern, inspect.getsource(code)))


@cache
def keys_of_a_run() -> frozenset[str]:
    """Keys at the top of a config that MMEngine's runners or the tools read."""
    known = _READ_ELSEWHERE | {'cfg'}
    for runner in (Runner, FlexibleRunner):
        known |= accepted_arguments(runner).names
        known |= _keys_taken_in(runner, r"\bcfg\.get\(\s*'(\w+)'")
    return frozenset(known - {'cfg'})


def _taken_by_loader() -> frozenset[str]:
    taken = _keys_taken_in(Runner.build_dataloader, r"dataloader_cfg\.pop\(\s*'(\w+)'")
    return accepted_arguments(DataLoader).names | taken


def check_options(config: Config, options: Mapping[str, Any]) -> None:
    """Check that the changes of ``--cfg-options`` change something.

    The first part of each key must be read by a run. Whether the rest of it is, is seen where the
    part is built, or by :func:`check_keys`.

    Args:
        config: The config before the changes.
        options: New values by dotted key.

    Raises:
        ValueError: If a key is neither in the config nor read by a run, or names a variable of the
            config that other values were made of.
    """
    for option in options:
        key = option.split('.')[0]
        own_preprocessor = key == 'data_preprocessor' and 'data_preprocessor' in config.model
        if key in keys_of_a_run() and not own_preprocessor:
            continue
        if key == 'own' and key in config:  # a recipe's, which is filled in after the changes
            continue
        if key not in config:
            raise unknown_key(key, keys_of_a_run() | set(config))
        raise ValueError(
            f'--cfg-options {option} changes nothing: {key} is a variable of the config, and the '
            'values made of it are made already; change those'
        )


def check_keys(config: Config) -> None:
    """Check that a run reads every key of its config, as far as the code tells what it reads.

    Any variable may stand at the top of a config: there only names that are nearly those of keys
    count as misspelled. The model is left out, since its parts take arguments apart in their own
    ways: :func:`name_unexpected_argument` speaks for it.

    Raises:
        ValueError: If one is not read, or the type of a part does not exist.
    """
    _check_top(config)
    for split in SPLITS:
        loader = config.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            _refuse_unknown(f'{split}_dataloader', loader, _taken_by_loader())
    if config.get('auto_scale_lr'):
        _refuse_unknown('auto_scale_lr', config.auto_scale_lr, _AUTO_SCALE_LR)
    if config.get('randomness'):
        known = accepted_arguments(Runner.set_randomness).names - {'self'}
        _refuse_unknown('randomness', config.randomness, known)
    _check_hook_names(config)
    for part in _parts(config):
        kind = find_type(part)
        known = accepted_arguments(kind)
        _refuse_unknown(part.path, part.config, known.names | set(part.beside), known.others)
    _check_paramwise(config)


def _refuse_unknown(path: str, part: Mapping, known: Collection[str], others: bool = False) -> None:
    """Refuse keys that are not known; where others are taken too, those that are nearly known."""
    for key in part:
        if key not in known and key not in _SYNTAX and (not others or _nearly(key, known)):
            raise unknown_key(f'{path}.{key}', known)


def _nearly(key: str, known: Collection[str]) -> bool:
    return bool(difflib.get_close_matches(key, known, n=1, cutoff=0.88))


def _check_top(config: Config) -> None:
    # test_pipeline is a variable of every second config, and close to tta_pipeline.
    known = keys_of_a_run() - {'tta_pipeline'}
    for key in config:
        if key not in keys_of_a_run() and _nearly(key, known):
            raise unknown_key(key, known)


def _check_hook_names(config: Config) -> None:
    """A default hook without a type is a misspelled one: those that exist have theirs."""
    hooks = config.get('default_hooks') or {}
    for name, hook in hooks.items():
        given = ('non_finite', 'no_targets')  # make_resumable gives these their types
        if isinstance(hook, Mapping) and 'type' not in hook and name not in given:
            others = [n for n, other in hooks.items() if n != name and 'type' in (other or {})]
            nearest = difflib.get_close_matches(name, others, 1)
            hint = f': did you mean default_hooks.{nearest[0]}?' if nearest else ''
            raise ValueError(f'default_hooks.{name} has no type{hint}')


def find_type(part: Part) -> Callable:
    """The class or function that a part of a config names."""
    kind = part.config.get('type', part.default)
    if not isinstance(kind, str):
        return kind
    with part.registry.switch_scope_and_registry(part.config.get('_scope_')) as scope:
        found = scope.get(kind)
        if found is None:
            prefix, _, name = kind.rpartition('.')
            names = {n for r in _family(scope) for n in r.module_dict}
            nearest = difflib.get_close_matches(name, sorted(names), 1)
            hint = f': did you mean {prefix}{"." * bool(prefix)}{nearest[0]}?' if nearest else ''
            raise ValueError(f'{part.path}.type {kind} is not in the {scope.name} registry{hint}')
    return found


def _family(own: Registry) -> Iterator[Registry]:
    """A registry, those it inherits from, and this package's."""
    yield own
    root = own
    while root.parent is not None:
        root = root.parent
        yield root
    if 'convnextv2_mm' in root.children:
        yield root.children['convnextv2_mm']


def _parts(config: Config) -> Iterator[Part]:
    """The parts that are built when a run begins or later, outermost first."""
    for split in SPLITS:
        loader = config.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            yield from _parts_of_loader(f'{split}_dataloader', loader)
    yield from _parts_of_training(config)
    for split, default in (('val', 'ValLoop'), ('test', 'TestLoop')):
        loop = config.get(f'{split}_cfg')
        if isinstance(loop, Mapping):
            yield Part(f'{split}_cfg', loop, registry.LOOPS, default)
        yield from _evaluators(f'{split}_evaluator', config)
    hooks = config.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, Mapping) and 'type' in hook:
            yield Part(f'default_hooks.{name}', hook, registry.HOOKS, beside=('priority',))
    yield from _listed('custom_hooks', config, registry.HOOKS, ('priority',))
    if isinstance(config.get('visualizer'), Mapping):
        yield Part('visualizer', config.visualizer, registry.VISUALIZERS, 'Visualizer')
        for part in _listed('vis_backends', config.visualizer, registry.VISBACKENDS):
            yield part._replace(path=f'visualizer.{part.path}')
    if isinstance(config.get('log_processor'), Mapping):
        yield Part('log_processor', config.log_processor, registry.LOG_PROCESSORS, 'LogProcessor')


def _evaluators(key: str, config: Config) -> Iterator[Part]:
    """The metrics, and what combines them if it is not MMEngine's own."""
    evaluator = config.get(key)
    if not isinstance(evaluator, Mapping) or 'metrics' not in evaluator:
        yield from _listed(key, config, registry.METRICS)
        return
    yield Part(key, evaluator, registry.EVALUATOR, 'Evaluator')
    for part in _listed('metrics', evaluator, registry.METRICS):
        yield part._replace(path=f'{key}.{part.path}')


def _parts_of_training(config: Config) -> Iterator[Part]:
    loop = config.get('train_cfg')
    if isinstance(loop, Mapping):
        if 'type' not in loop and 'by_epoch' not in loop:
            raise ValueError(
                'train_cfg has neither type nor by_epoch: give by_epoch=True with max_epochs, or '
                'by_epoch=False with max_iters'
            )
        default = 'EpochBasedTrainLoop' if loop.get('by_epoch') else 'IterBasedTrainLoop'
        yield Part('train_cfg', loop, registry.LOOPS, default, ('by_epoch',))
    wrapper = config.get('optim_wrapper')
    if isinstance(wrapper, Mapping) and 'type' in wrapper or 'optimizer' in (wrapper or {}):
        beside = ('constructor', 'paramwise_cfg')
        yield Part('optim_wrapper', wrapper, registry.OPTIM_WRAPPERS, 'OptimWrapper', beside)
        if 'type' in wrapper.get('optimizer', {}):
            yield Part('optim_wrapper.optimizer', wrapper.optimizer, registry.OPTIMIZERS)
    schedulers = registry.PARAM_SCHEDULERS
    yield from _listed('param_scheduler', config, schedulers, ('convert_to_iter_based',))


def _listed(
    key: str, config: Mapping, kinds: Registry, beside: Collection[str] = ()
) -> Iterator[Part]:
    """What has types of its own under a key that holds one or a list."""
    value = config.get(key)
    if isinstance(value, Mapping):
        if 'type' in value:
            yield Part(key, value, kinds, beside=beside)
    elif isinstance(value, Sequence):
        for i, entry in enumerate(value):
            if isinstance(entry, Mapping) and 'type' in entry:
                yield Part(f'{key}.{i}', entry, kinds, beside=beside)


def _parts_of_loader(path: str, loader: Mapping) -> Iterator[Part]:
    for key in ('sampler', 'batch_sampler'):
        if isinstance(loader.get(key), Mapping):
            yield Part(f'{path}.{key}', loader[key], registry.DATA_SAMPLERS)
    if isinstance(loader.get('dataset'), Mapping):
        yield from _parts_of_dataset(f'{path}.dataset', loader['dataset'])


def _parts_of_dataset(path: str, dataset: Mapping) -> Iterator[Part]:
    """A data set, the steps of its pipeline, and the same of those that it wraps."""
    yield Part(path, dataset, registry.DATASETS)
    for part in _listed('pipeline', dataset, registry.TRANSFORMS):
        yield part._replace(path=f'{path}.{part.path}')
    if isinstance(dataset.get('dataset'), Mapping):
        yield from _parts_of_dataset(f'{path}.dataset', dataset['dataset'])
    for i, inner in enumerate(dataset.get('datasets') or []):
        if isinstance(inner, Mapping):
            yield from _parts_of_dataset(f'{path}.datasets.{i}', inner)


def _check_paramwise(config: Config) -> None:
    """Constructors look their options up by name and pass over the others.

    An option counts as known where its name stands in quotes in the source of the constructor.
    """
    wrapper = config.get('optim_wrapper') or {}
    options = wrapper.get('paramwise_cfg')
    if not options:
        return
    path = 'optim_wrapper.paramwise_cfg'
    kind = dict(type=wrapper.get('constructor', 'DefaultOptimWrapperConstructor'))
    looked_up: set[str] = set()
    quoted: set[str] = set()
    try:
        for base in find_type(Part(path, kind, registry.OPTIM_WRAPPER_CONSTRUCTORS)).__mro__[:-1]:
            looked_up |= _keys_taken_in(base, r"""paramwise_cfg(?:\.get\(|\.pop\(|\[)\s*'(\w+)'""")
            quoted |= _keys_taken_in(base, r"""['"](\w+)['"]""")
    except OSError:  # its source is not at hand
        return
    for key in options:
        if key not in quoted | _SYNTAX:
            raise unknown_key(f'{path}.{key}', looked_up)


def name_unexpected_argument(error: TypeError, model: Mapping) -> ValueError | None:
    """Say which key of the model's config a constructor does not take.

    Args:
        error: What building the model has raised.
        model: Its config.

    Returns:
        An error with the path of the key and the nearest that is allowed; None if that cannot be
        told.
    """
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    places = [(path, part) for path, part in _typed('model', model) if match and match[1] in part]
    if len(places) != 1:
        return None
    path, part = places[0]
    known = accepted_arguments(find_type(Part(path, part, registry.MODELS)))
    return unknown_key(f'{path}.{match[1]}', known.names)


def _typed(path: str, value: Any) -> Iterator[tuple[str, Mapping]]:
    """The parts with a type within a value, with their paths."""
    if isinstance(value, Mapping):
        if 'type' in value:
            yield path, value
        for key, inner in value.items():
            yield from _typed(f'{path}.{key}', inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _typed(f'{path}.{i}', inner)
