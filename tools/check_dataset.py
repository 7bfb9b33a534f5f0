"""Read all images and annotations that a config trains and evaluates on, and say what is wrong.

Prints a line for each problem: which file, what is wrong with it, and what the run will do. What is
unusual but used is told in numbers at the end, and in full in ``--out``. Then comes a table of the
classes: objects or pixels, and images, of each in each split. The exit code is 0 where
nothing is left out or stops a run, 1 where something does, and 2 where there is no such config or
data set. docs/bad_data.md has all cases.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from convnextv2_mm.apis.dataset_check import SPLITS, plan_check, run_check
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS, help='default: all')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), metavar='N', help='processes that read'
    )
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write all findings there')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f'--workers {args.workers} is not allowed: it must be at least 1')
    with exit_on_user_error():
        check = plan_check(args.config, args.splits, args.cfg_options)
        if args.out and not args.out.parent.is_dir():
            raise FileNotFoundError(f'--out {args.out}: folder {args.out.parent} does not exist')
    report = run_check(check, args.workers, args.out, tell=partial(print, flush=True))
    sys.exit(1 if report.problems else 0)


if __name__ == '__main__':
    main()
