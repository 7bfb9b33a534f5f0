"""Draw how much the share of masked patches matters.

``checkpoint``: reconstruction loss of one pre-trained FCMAE at several ratios. The mask of an image
depends on its file name, and what a larger ratio masks holds what a smaller one does. ``sweep``:
what models that were trained with different ratios reach (the paper sweeps 0.1 to 0.9 and finds 0.6
best), from a JSON list of rows with ``model.mask_ratio`` and figures.
"""

from convnextv2_mm.apis.analysis.mask_ratio import KEY, draw, losses_at_ratios, read_sweep, table
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import check_figure_path, write_figure, write_numbers

from arguments import add_model, add_out, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(dest='what', required=True)
    checkpoint = commands.add_parser('checkpoint')
    add_model(checkpoint)
    ratios = [i / 10 for i in range(1, 10)]
    checkpoint.add_argument('--ratios', type=float, nargs='+', default=ratios, metavar='RATIO')
    sweep = commands.add_parser('sweep')
    sweep.add_argument('table', help='JSON list of rows')
    sweep.add_argument('--metrics', nargs='+', metavar='NAME', help='columns; all figures if left')
    add_out(sweep)
    args = vars(parser.parse_args())
    with exit_on_user_error():
        what, out = args.pop('what'), check_figure_path(args.pop('out'))
        if what == 'checkpoint':
            rows, metrics = losses_at_ratios(**args), ['loss']
            columns = [KEY, 'loss', 'standard_error']
            source = {key: args[key] for key in ('config', 'checkpoint')}
            source['images'] = rows[0]['images']
        else:
            rows, metrics = read_sweep(args['table'], args['metrics'])
            columns, source = [KEY, *metrics], dict(table=args['table'], metrics=metrics)
    figure = draw(rows, metrics)
    if what == 'checkpoint':
        figure.axes[0].set_ylabel('reconstruction loss (mean, standard error)')
    write_figure(figure, out)
    write_numbers(dict(source, rows=rows), out)
    print(f'{table(rows, columns)}\nwritten to {out}')


if __name__ == '__main__':
    main()
