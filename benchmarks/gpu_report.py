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
from convnextv2_mm.utils.atomic import atomic_write

ROOT = Path(__file__).parents[1]
PYTEST = (
    '-m pytest -p no:cacheprovider -p no:benchmark -W ignore::SyntaxWarning '
    f'-n {os.cpu_count()} --dist worksteal'
)
ENVIRONMENT = (
    'from mmengine.utils.dl_utils import collect_env; '
    'print(*map(str, collect_env().items()), sep=chr(10))'
)
SPEED = 'benchmarks/speed.py'


@dataclass(frozen=True)
class Task:
    """What Python runs, in the root of the repository."""

    name: str
    arguments: str
    minutes: float


TASKS = (
    Task('environment', f'-c "{ENVIRONMENT}"', 1),
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
    Task('demo', 'examples/demo.py', 10),
)


def run(task: Task, folder: Path, seconds: float) -> dict:
    """Run a task for at most so many seconds; its whole process group ends with it."""
    log = folder / f'{task.name}.log'
    start = time.monotonic()
    with log.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(task.arguments)],
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
        command=f'python {task.arguments}',
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


def write_results(rows: list[dict], folder: Path) -> None:
    """Write ``tasks.jsonl``, and in ``report.md`` how each task ended and the end of its output."""
    with atomic_write(folder / 'tasks.jsonl') as path:
        path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    results = {row['name']: row for row in rows}
    lines = ['# GPU report', '', '| task | ended | seconds | command |', '|---|---|---|---|']
    for name, result in results.items():
        lines.append(
            f'| {name} | {result["ended"]} | {result["seconds"]} | `{result["command"]}` |'
        )
    for name in results:
        log = (folder / f'{name}.log').read_text(errors='replace').splitlines()
        lines += ['', f'## {name}', '', '```', *log[-80:], '```']
    with atomic_write(folder / 'report.md') as path:
        path.write_text('\n'.join(lines) + '\n')


def read_results(folder: Path) -> list[dict]:
    """What ``tasks.jsonl`` holds, but for a line that is cut short, as a full disk leaves it."""
    rows = []
    path = folder / 'tasks.jsonl'
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


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
    rows = read_results(folder)
    done = {row['name'] for row in rows if row['ended'] == 'succeeded'}
    late = []
    for task in TASKS:
        if task.name not in args.tasks or task.name in done:
            continue
        left = end - time.monotonic()
        if left < 20:
            late.append(task.name)
            continue
        rows.append(run(task, folder, min(60 * task.minutes, left - 10)))
        write_results(rows, folder)
        print(f'{task.name}: {rows[-1]["ended"]}, {rows[-1]["seconds"]} s', flush=True)
    if late:
        print(f'no time was left for {", ".join(late)}: run the command again')
    print(f'see {folder / "report.md"}')


if __name__ == '__main__':
    main()
