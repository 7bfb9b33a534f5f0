"""Training a config once for each combination of values, and gathering the results."""

from __future__ import annotations

import csv
import inspect
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
    init_default_scope,
)
from mmengine.runner import Runner
from prettytable import PrettyTable

from ..engine.config.reading import parse_config
from ..utils.atomic import atomic_write
from ..utils.installation import tools_folder

REGISTRIES = [DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPERS, OPTIMIZERS]
REGISTRIES += [PARAM_SCHEDULERS, TASK_UTILS, TRANSFORMS]
SET_BY_THE_TOOL = ('work_dir', 'launcher', 'resume')


def sweep(
    config: str,
    values: Mapping[str, object],
    work_dir: str | Path | None = None,
    cfg_options: Mapping[str, object] | None = None,
    gpus: int | None = None,
    partition: str | None = None,
) -> PrettyTable:
    """Train a config once for each combination of values, each run in a process of its own.

    Runs that are finished are skipped, those that were cut are resumed.

    Args:
        config: File.
        values: Keys of the config, each with a list of values.
        work_dir: Folder of the sweep; by default ``work_dirs/sweeps/NAME_OF_THE_CONFIG``.
        cfg_options: Changes of the config of all runs.
        gpus: GPUs of a run, by ``tools/dist_train.sh``.
        partition: Run under Slurm, by ``tools/slurm_train.sh``.

    Returns:
        The table of results, which also goes to results.csv and results.json in the work dir.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If a key or a value is not one of the config.
    """
    folder = sweep_folder(config, work_dir)
    for run in plan(config, values, folder, cfg_options or {}, gpus):
        train(run, gpus, partition)
    return gather(find_runs(folder), None, folder)


def sweep_folder(config: str, work_dir: str | Path | None = None) -> Path:
    """Where a sweep leaves its runs."""
    return Path(work_dir or f'work_dirs/sweeps/{Path(config).stem}')


def plan(
    config: str,
    values: Mapping[str, object],
    work_dir: Path,
    cfg_options: Mapping[str, object],
    gpus: int | None = None,
) -> list[Run]:
    """The runs of a sweep, with their folders written; see :func:`sweep`.

    Raises:
        ValueError: If what it says cannot be meant.
    """
    if not values:
        raise ValueError('nothing to sweep: give --set KEY=V1,V2, or --gather')
    if gpus is not None and gpus < 1:
        raise ValueError(f'--gpus {gpus} is not allowed: it must be positive')
    parsed = parse_config(config)
    if 'train_dataloader' not in parsed:
        raise ValueError(f'config {config} describes no training: it has no train_dataloader')
    if both := set(values) & set(cfg_options):
        raise ValueError(f'{both.pop()} is in --set and in --cfg-options')
    parsed.merge_from_dict(dict(cfg_options))
    init_default_scope(parsed.get('default_scope', 'mmengine'))
    runs = []
    for point in grid(parsed, values):
        runs.append(Run(work_dir / name_run(point), config, point, dict(cfg_options)))
    names = [run.folder.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f'two runs are {twice[0]}: give each value once')
    for run in runs:
        run.write()
    return runs


# ----------------------------------------------------------------------------- keys and values


def check_key(config: Config, key: str) -> object:
    """Check that a key means something to the run, and return its value.

    A key must be in the config, below what MMEngine's runner reads. One that is not there is
    allowed where its parent names a ``type`` that has an argument of this name, and in
    ``randomness``.

    Raises:
        ValueError: If a run would not notice it.
    """
    first, *rest = key.split('.')
    read = [name for name in inspect.signature(Runner).parameters if name != 'cfg']
    if first in SET_BY_THE_TOOL:
        raise ValueError(f'--set {key} is not allowed: the sweep sets it for each run')
    if first not in read:
        hint = ''
        if first in config:  # MMEngine has put its value in place when it read the file
            hint = f': {first} is only a name in the config file, set what it is used for'
        raise ValueError(f'--set {key} would change nothing{hint or "; no run reads " + first}')
    node, path = config.get(first), first
    if first == 'randomness':
        node = dict.fromkeys(inspect.signature(Runner.set_randomness).parameters) | (node or {})
    for name in rest:
        if isinstance(node, list | tuple):
            if not name.isdecimal() or int(name) >= len(node):
                raise ValueError(f'--set {key}: {path} is a list of {len(node)}, without {name}')
            node = node[int(name)]
        elif not isinstance(node, dict):
            raise ValueError(f'--set {key}: {path} is {node!r} in the config, without {name}')
        elif name in node:
            node = node[name]
        elif f'{path}.{name}' == key and name in arguments_of(node):
            return None
        else:
            known = ', '.join(k for k in node if not k.startswith('_'))
            kind = f', nor has {node["type"]} such an argument' if 'type' in node else ''
            raise ValueError(f'--set {key}: {path} has no {name} (it has {known}){kind}')
        path = f'{path}.{name}'
    return node


def arguments_of(node: dict) -> set[str]:
    """Argument names of the class that a dict of the config builds."""
    kind = node.get('type')
    found = [kind]
    if isinstance(kind, str):
        found = []
        for root in REGISTRIES:
            with root.switch_scope_and_registry(node.get('_scope_')) as scoped:
                found.append(scoped.get(kind))
    names = set()
    for owner in filter(inspect.isclass, found):
        for base in owner.__mro__[:-1]:  # what it passes on by **kwargs is an argument of a base
            if '__init__' in vars(base):
                names |= set(inspect.signature(vars(base)['__init__']).parameters)
    return names - {'self', 'args', 'kwargs'}


def check_value(key: str, before: object, value: object) -> None:
    """Refuse values that cannot be meant: numbers where the config has a dict, and the like."""
    is_list = isinstance(value, list | tuple)
    if isinstance(before, dict) and value is not None:
        raise ValueError(f'--set {key}={value} is not allowed: it has {", ".join(before)} in it')
    if isinstance(before, bool | int | float) and (is_list or isinstance(value, str)):
        raise ValueError(f'--set {key}={value} is not allowed: it is {before} in the config')
    if isinstance(before, list | tuple) and not is_list and value is not None:
        raise ValueError(
            f'--set {key}={value} is not allowed: it is a list in the config, and lists go into '
            f'one more pair of brackets, {key}=[[1,2],[3,4]]'
        )


def grid(config: Config, swept: Mapping[str, object]) -> list[dict[str, object]]:
    """All combinations of the values, in the order in which they are given.

    Raises:
        ValueError: If a key or a value is not one.
    """
    choices = []
    for key, values in swept.items():
        before = check_key(config, key)
        values = values if isinstance(values, list) else [values]
        if not values:
            raise ValueError(f'--set {key}= has no values')
        for value in values:
            check_value(key, before, value)
        choices.append([(key, value) for value in values])
    return [dict(pairs) for pairs in itertools.product(*choices)]


def name_run(values: dict[str, object]) -> str:
    """A folder name that says what is special about a run."""
    names = short_names(values)
    text = '_'.join(f'{names[key]}={format_value(value)}' for key, value in values.items())
    return re.sub(r'[^\w.,=+-]+', '-', re.sub(r'[\[\]()\'"]', '', text))


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, if no other ends in it."""
    last = {key: key.split('.')[-1] for key in keys}
    return {
        key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()
    }


def format_value(value: object) -> str:
    """Format a value as DictAction reads it."""
    return str(value).replace(' ', '')


# --------------------------------------------------------------------------------------- runs


@dataclass
class Run:
    """One training of a sweep, and the folder that it has."""

    folder: Path
    config: str
    values: dict[str, object]
    options: dict[str, object]  # what all runs of a sweep have in common

    def read(self) -> Config:
        config = parse_config(self.config)
        config.merge_from_dict(self.options | self.values)
        return config

    def write(self) -> None:
        """Write what --gather needs.

        Raises:
            ValueError: If the folder has a run of something else.
        """
        path = self.folder / 'run.json'
        new = dict(config=self.config, values=self.values, options=self.options)
        new = json.loads(json.dumps(new))  # tuples as JSON has them
        if path.is_file():
            old = json.loads(path.read_text())
            for part, value in new.items():
                if old[part] != value:
                    raise ValueError(
                        f'{self.folder} has a run with {part} {old[part]}, this sweep has {value}: '
                        f'give another --work-dir'
                    )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(new, indent=1) + '\n')

    @property
    def checkpoint(self) -> Path | None:
        """The newest one."""
        pointer = self.folder / 'last_checkpoint'
        if not pointer.is_file():
            return None
        path = self.folder / Path(pointer.read_text().strip()).name  # the folder may have moved
        return path if path.exists() else None

    @cached_property
    def length(self) -> int:
        """Epochs or iterations."""
        loop = self.read().train_cfg
        return loop.get('max_epochs') or loop.get('max_iters')

    @property
    def is_trained(self) -> bool:
        last = self.checkpoint
        return last is not None and last.stem in (f'epoch_{self.length}', f'iter_{self.length}')

    def metrics(self) -> dict[str, float]:
        """What was measured after the last epoch or iteration; empty if nothing was."""
        found = {}
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # killed while it wrote
                    continue
                is_of_training = 'lr' in entry or 'monitor/loss' in entry
                if not is_of_training and entry.get('step') == self.length:
                    found = entry
        for log in sorted(self.folder.glob('test/*/*.json')):
            found = json.loads(log.read_text())
        return {k: v for k, v in found.items() if k not in ('step', 'time', 'data_time')}

    def train_command(self, gpus: int | None, partition: str | None) -> list[str]:
        """The command that trains or resumes it."""
        options = ['--work-dir', str(self.folder), *['--resume'] * bool(self.checkpoint)]
        options += self._changes()
        if partition:
            script = [str(tools_folder() / 'slurm_train.sh'), partition, self.folder.name]
            return ['env', f'GPUS={gpus or 8}', 'bash', *script, self.config, *options]
        if gpus:
            return ['bash', str(tools_folder() / 'dist_train.sh'), self.config, str(gpus), *options]
        return [sys.executable, str(tools_folder() / 'train.py'), self.config, *options]

    def test_command(self, gpus: int | None) -> list[str]:
        """The command that tests its newest checkpoint."""
        files = [self.config, str(self.checkpoint)]
        options = ['--work-dir', str(self.folder / 'test'), *self._changes()]
        if gpus:
            return ['bash', str(tools_folder() / 'dist_test.sh'), *files, str(gpus), *options]
        return [sys.executable, str(tools_folder() / 'test.py'), *files, *options]

    def _changes(self) -> list[str]:
        changes = self.options | self.values
        return ['--cfg-options', *(f'{key}={format_value(v)}' for key, v in changes.items())]


def execute(command: list[str], run: Run) -> None:
    """Run a command with its output in output.log.

    Raises:
        RuntimeError: If it fails, with its last error, or the last line of its output.
    """
    # The shell scripts take the python that they find.
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    log = run.folder / 'output.log'
    with log.open('w') as file:
        code = subprocess.call(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(PATH=path)
        )
    if code:
        lines = log.read_text(errors='replace').strip().splitlines() or [f'exit code {code}']
        # The launcher of several processes has more to say after the error.
        errors = [e for e in lines if re.match(r'(\[rank\d+\]:\s*)?([\w.]*Error|error): \S', e)]
        raise RuntimeError((errors or lines)[-1].removeprefix('error: '))


def train(run: Run, gpus: int | None, partition: str | None) -> str:
    """Train and test a run as far as needed, and return its state."""
    failure = run.folder / 'failure.txt'
    failure.unlink(missing_ok=True)
    try:
        if not run.is_trained:
            execute(run.train_command(gpus, partition), run)
        has_test = run.read().get('test_dataloader') and not partition
        if run.is_trained and has_test and not run.metrics():
            execute(run.test_command(gpus), run)
    except RuntimeError as error:
        write_whole(failure, f'{error}\n')
    return state(run)


def state(run: Run) -> str:
    """``done``, ``failed: WHY``, ``trained``, ``cut after CHECKPOINT`` or ``waiting``."""
    failure = run.folder / 'failure.txt'
    if failure.is_file():
        return f'failed: {failure.read_text().strip()}'
    if run.is_trained:
        return 'done' if run.metrics() else 'trained'
    return f'cut after {run.checkpoint.stem}' if run.checkpoint else 'waiting'


# -------------------------------------------------------------------------------------- table


def find_runs(work_dir: Path) -> list[Run]:
    """The runs of all sweeps in a folder, in the order in which they were planned.

    Raises:
        FileNotFoundError: If there are none.
    """
    paths = sorted(work_dir.glob('*/run.json'), key=lambda path: path.stat().st_mtime_ns)
    if not paths:
        raise FileNotFoundError(f'{work_dir} has no runs of a sweep: start with --set')
    return [Run(path.parent, **json.loads(path.read_text())) for path in paths]


def gather(runs: list[Run], metrics: list[str] | None, work_dir: Path) -> PrettyTable:
    """The table of the runs; with all metrics it is written to results.csv and results.json.

    Raises:
        ValueError: If no run has such a metric.
    """
    rows = [dict(run=run.folder.name, state=state(run), **run.values) for run in runs]
    measured = [run.metrics() if state(run) == 'done' else {} for run in runs]
    known = list(dict.fromkeys(name for found in measured for name in found))
    if not metrics:
        hooks = runs[0].read().get('default_hooks') or {}
        best = (hooks.get('checkpoint') or {}).get('save_best')
        metrics = [best] if best in known else known[:1]
    for name in metrics:
        if known and name not in known:
            raise ValueError(f'--metric {name} is unknown: the runs have {", ".join(known)}')

    scores = [found.get(metrics[0], math.nan) if metrics else math.nan for found in measured]
    valid = [score for score in scores if not math.isnan(score)]
    # As MMEngine's CheckpointHook has it: of losses the lowest.
    best = (min if metrics and 'loss' in metrics[0] else max)(valid, default=None)
    for row, score, found in zip(rows, scores, measured, strict=True):
        row |= found | dict(best=score == best)

    keys = list(dict.fromkeys(key for run in runs for key in run.values))
    table = PrettyTable([*short_names(keys).values(), *metrics, 'state', ''])
    for row in rows:
        cells = [format_value(row[key]) if key in row else '' for key in keys]
        cells += [f'{row[name]:.4g}' if name in row else '' for name in metrics]
        table.add_row([*cells, row['state'], 'best' if row['best'] else ''])
    columns = ['run', *keys, *known, 'best', 'state']
    text = json.dumps([{c: row.get(c) for c in columns} for row in rows], indent=1)
    write_whole(work_dir / 'results.json', text + '\n')
    with atomic_write(work_dir / 'results.csv') as beside, beside.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return table


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    with atomic_write(path) as beside:
        beside.write_text(text)
