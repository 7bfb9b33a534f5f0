"""Train a config once for each combination of values, and gather the results in one table.

    python tools/sweep.py CONFIG --set optim_wrapper.optimizer.lr=1e-4,2e-4 \\
        model.backbone.drop_path_rate=0.1,0.2

Values are separated by commas and written as in --cfg-options; values that are lists go into one
more pair of brackets, KEY=[[1,2],[3,4]]. Runs follow each other; called again, it skips those that
are finished and resumes those that were cut. What counts is the metric after the last epoch or
iteration: it is read from the log of the run, or else tools/test.py is called. The table goes to
results.csv and results.json in the work dir.
"""

import argparse
import shlex
import sys
import time

from convnextv2_mm.apis.sweep import (
    find_runs,
    gather,
    plan,
    state,
    sweep_folder,
    train,
    write_whole,
)
from convnextv2_mm.cli import ValuesAction
from convnextv2_mm.errors import exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--set',
        nargs='+',
        action=ValuesAction,
        default={},
        metavar='KEY=V1,V2',
        help='keys of the config and their values',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ValuesAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config of all runs',
    )
    parser.add_argument('--work-dir', help='default: work_dirs/sweeps/NAME_OF_THE_CONFIG')
    parser.add_argument(
        '--metric',
        nargs='+',
        help='metrics of the printed table; the first ranks (default: save_best of the config, '
        'or what was measured first)',
    )
    parser.add_argument('--gpus', type=int, help='GPUs of a run, by tools/dist_train.sh')
    parser.add_argument('--partition', help='run under Slurm, by tools/slurm_train.sh')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--write', action='store_true', help='train nothing: write commands.txt, a run in each line'
    )
    what.add_argument(
        '--gather', action='store_true', help='train nothing: make the table of what is there'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    work_dir = sweep_folder(args.config, args.work_dir)
    with exit_on_user_error():
        if args.gather:
            print(gather(find_runs(work_dir), args.metric, work_dir))
            return
        runs = plan(args.config, args.set, work_dir, args.cfg_options, args.gpus)
    if args.write:
        left = [run for run in runs if not run.is_trained]
        lines = [shlex.join(run.train_command(args.gpus, args.partition)) for run in left]
        write_whole(work_dir / 'commands.txt', ''.join(f'{line}\n' for line in lines))
        print(f'{len(left)} of {len(runs)} runs to train: {work_dir / "commands.txt"}')
        return
    for number, run in enumerate(runs, 1):
        started = time.time()
        print(f'{number}/{len(runs)} {run.folder}: ', end='', flush=True)
        print(f'{train(run, args.gpus, args.partition)} ({time.time() - started:.0f} s)')
    with exit_on_user_error():
        print(gather(find_runs(work_dir), args.metric, work_dir))
    if any(state(run).startswith('failed') for run in runs):
        sys.exit(1)


if __name__ == '__main__':
    main()
