"""Everything that a GPU can tell about this project, in one command: is it right, is it fast.

Each task is a process with a time limit, so that a crash or a hang ends only that task; the most
valuable ones come first. When a task ends, its output is in ``DIR/NAME.log``, a line in
``DIR/tasks.jsonl`` says how it went, and ``DIR/report.md`` shows everything so far. Called again
with the same folder, the command goes on with the tasks that have not succeeded.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from convnextv2_mm.errors import exit_on_user_error

ROOT = Path(__file__).parents[1]
PYTEST = (
    f'{sys.executable} -m pytest -p no:cacheprovider -p no:benchmark -W ignore::SyntaxWarning '
    f'-n {os.cpu_count()} --dist worksteal'
)
ENVIRONMENT = (
    'from mmengine.utils.dl_utils import collect_env; '
    'print(*map(str, collect_env().items()), sep=chr(10))'
)
SPEED = f'{sys.executable} benchmarks/speed.py'


@dataclass(frozen=True)
class Task:
    """A command, run in the root of the repository."""

    name: str
    command: str
    minutes: float


TASKS = (
    Task('environment', f'{sys.executable} -c "{ENVIRONMENT}"', 1),
    Task('tests', f'{PYTEST} tests/ops tests/models -k "triton or backends or compiles"', 3),
    Task('journeys', f'{PYTEST} tests/journeys', 10),
    Task('ops', f'{SPEED} ops --backends triton torch --graphs', 4),
    Task(
        'pretrain', f'{SPEED} pretrain --backends auto torch --peers masked --graphs --profile', 3
    ),
    Task('detector', f'{SPEED} detector --peers all --steps 5 --profile', 4),
    Task('segmentor', f'{SPEED} segmentor --peers all --steps 5', 3),
    Task('pretrain-compiled', f'{SPEED} pretrain --peers vit-mae --compile', 6),
    Task('pretrain-tiny', f'{SPEED} pretrain --arch tiny --peers all', 3),
    Task('backbone', f'{SPEED} backbone --peers all --compile --graphs', 6),
    Task('ops-1024', f'{SPEED} ops --backends triton torch --batch 4 --size 1024 1024', 4),
    Task('demo', f'{sys.executable} examples/demo.py', 10),
)


def run(task: Task, folder: Path, seconds: float) -> dict:
    """Run a task for at most so many seconds; its whole process group ends with it."""
    log = folder / f'{task.name}.log'
    start = time.monotonic()
    with log.open('w') as file:
        process = subprocess.Popen(
            shlex.split(task.command),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | dict(PYTHONUNBUFFERED='1', OMP_NUM_THREADS='1'),
        )
        try:
            code = process.wait(seconds)
            ended = 'succeeded' if code == 0 else f'failed with exit code {code}'
        except subprocess.TimeoutExpired:
            ended = f'stopped after {seconds:.0f} s'
        finally:
            stop(process)
    return dict(
        name=task.name,
        command=task.command,
        ended=ended,
        seconds=round(time.monotonic() - start, 1),
    )


def stop(process: subprocess.Popen) -> None:
    """End what is left of a task, first as Ctrl-C does, so that pytest can say what failed."""
    for number, patience in ((2, 10), (9, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def write_report(results: dict[str, dict], folder: Path) -> None:
    """Write ``report.md``: how each task ended, then the end of its output."""
    lines = ['# GPU report', '', '| task | ended | seconds | command |', '|---|---|---|---|']
    for name, result in results.items():
        command = result['command'].replace(sys.executable, 'python')
        lines.append(f'| {name} | {result["ended"]} | {result["seconds"]} | `{command}` |')
    for name in results:
        log = (folder / f'{name}.log').read_text(errors='replace').splitlines()
        lines += ['', f'## {name}', '', '```', *log[-80:], '```']
    draft = folder / 'report.md.part'
    draft.write_text('\n'.join(lines) + '\n')
    draft.replace(folder / 'report.md')


def read_results(folder: Path) -> dict[str, dict]:
    """The last result of each task in ``tasks.jsonl``; a line cut short by a crash is skipped."""
    results = {}
    path = folder / 'tasks.jsonl'
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        results[result['name']] = result
    return results


def main() -> None:
    names = [task.name for task in TASKS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the report')
    parser.add_argument('--minutes', type=float, default=60, help='for all tasks together')
    parser.add_argument('--tasks', nargs='+', choices=names, default=names)
    args = parser.parse_args()
    folder = Path(args.out).absolute()
    with exit_on_user_error():
        if args.minutes <= 0:
            raise ValueError(f'--minutes {args.minutes} is not allowed: it must be positive')
        folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    results = read_results(folder)
    for task in TASKS:
        is_done = results.get(task.name, {}).get('ended') == 'succeeded'
        left = end - time.monotonic()
        if task.name not in args.tasks or is_done or left < 20:
            continue
        result = run(task, folder, min(60 * task.minutes, left - 10))
        results[task.name] = result
        with (folder / 'tasks.jsonl').open('a') as file:
            file.write(json.dumps(result) + '\n')
        write_report(results, folder)
        print(f'{task.name}: {result["ended"]}, {result["seconds"]} s', flush=True)
    late = [name for name in args.tasks if name not in results]
    if late:
        print(f'no time was left for {", ".join(late)}: run the command again')
    print(f'see {folder / "report.md"}')


if __name__ == '__main__':
    main()
