"""Draw curves of several runs over each other, from the logs in their work dirs.

Loss, learning rate (the base rate, where layers differ), and whichever of COCO's box and mask mAP,
mIoU, top-1 accuracy and FCMAE's validation loss there are; or --keys of the logs, such as
cosine_distance/stages.3.1 of the pre-training monitor. What a resumed run did again counts once, as
the resumed run did it.
"""

from convnextv2_mm.apis.analysis.run_curves import choose_keys, draw, read_runs, series
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import check_figure_path, write_figure, write_numbers

from arguments import add_out, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument('work_dirs', nargs='+', help='work dirs of runs')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='of the runs, for the legend')
    parser.add_argument('--keys', nargs='+', metavar='KEY', help='what to draw')
    add_out(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        out, runs = check_figure_path(args.out), read_runs(args.work_dirs, args.names)
        keys = choose_keys(runs, args.keys)
    width, curves = max(map(len, keys)) + 2, series(runs, keys)
    print(f'\n{"":{width}}{"run":28}{"first":>10}{"last":>10}{"least":>10}{"most":>10}')
    for curve in curves:
        values = curve['values']
        shown = (values[0], values[-1], min(values), max(values))
        row = ''.join(f'{value:10.4g}' for value in shown)
        print(f'{curve["key"]:{width}}{curve["run"]:28}{row}')
    write_figure(draw(runs, keys), out)
    write_numbers(dict(runs=dict(zip(runs, args.work_dirs, strict=True)), curves=curves), out)
    print(f'\nwritten to {out}')


if __name__ == '__main__':
    main()
