"""Test a model, and write what it gets wrong.

OUT gets classes.csv (precision, recall, F1 and IoU of each class), confusion_matrix.csv and .png,
images.csv, the worst first, and pictures of those in OUT/worst: what is true beside what was found.
The log has AP or IoU of each class. An object counts as found from an IoU of 0.5 of the boxes on.
"""

from pathlib import Path

from convnextv2_mm.apis.analysis.errors import build_error_runner, describe, run_and_write
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.errors import BadData, exit_on_user_error

from arguments import make_parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, of any task')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', required=True, metavar='DIR', type=Path, help='folder')
    parser.add_argument('--number', type=int, default=16, help='pictures (%(default)s)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a detection (%(default)s)'
    )
    parser.add_argument('--work-dir', help='folder for the log of the test')
    add_cfg_options(parser)
    args = vars(parser.parse_args())
    out = args.pop('out')
    with exit_on_user_error():
        runner = build_error_runner(**args)
    with exit_on_user_error((BadData,)):
        errors = run_and_write(runner, out, args['number'], args['score_thr'])
    print(f'{describe(errors)}\nwritten to {out}')


if __name__ == '__main__':
    main()
