"""Draw how much the share of masked patches matters.

``checkpoint``: reconstruction loss of one pre-trained FCMAE at several ratios. The mask of an image
depends on its file name, and what a larger ratio masks holds what a smaller one does. ``sweep``:
what models that were trained with different ratios reach (the paper sweeps 0.1 to 0.9 and finds 0.6
best), from a JSON list of rows with ``model.mask_ratio`` and figures.
"""

import argparse
import json
from pathlib import Path

from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import (
    COLOURS,
    check_figure_path,
    write_figure,
    write_numbers,
)

from matplotlib.figure import Figure
from mmengine.utils import track_iter_progress
from model_arguments import add_model_arguments, add_output_arguments, load_fcmae

KEY = 'model.mask_ratio'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='what', required=True)
    checkpoint = commands.add_parser('checkpoint')
    add_model_arguments(checkpoint)
    ratios = [i / 10 for i in range(1, 10)]
    checkpoint.add_argument('--ratios', type=float, nargs='+', default=ratios, metavar='RATIO')
    sweep = commands.add_parser('sweep')
    sweep.add_argument('table', help='JSON list of rows')
    sweep.add_argument('--metrics', nargs='+', metavar='NAME', help='columns; all figures if left')
    add_output_arguments(sweep)
    return parser.parse_args()


def losses_at_ratios(args: argparse.Namespace) -> dict:
    """Mean reconstruction loss and its standard error over the images, at each ratio."""
    with exit_on_user_error():
        wrong = [ratio for ratio in args.ratios if not 0 < ratio < 1]
        if wrong:
            raise ValueError(f'--ratios {wrong[0]} is not allowed: it must lie between 0 and 1')
        images = find_images(args.images, args.num_images)
        model, _, reconstruct = load_fcmae(args)
    ratios = sorted(set(args.ratios))
    sums = [[0.0, 0.0] for _ in ratios]
    for image in track_iter_progress(images):
        for total, model.mask_ratio in zip(sums, ratios, strict=True):
            loss = reconstruct(image).reconstruction_loss
            total[0] += loss
            total[1] += loss**2
    rows = []
    for ratio, (total, of_squares) in zip(ratios, sums, strict=True):
        mean = total / len(images)
        spread = max(of_squares / len(images) - mean**2, 0) ** 0.5
        error = spread / max(len(images) - 1, 1) ** 0.5
        rows.append({KEY: ratio, 'loss': mean, 'standard_error': error})
    return dict(config=args.config, checkpoint=args.checkpoint, images=len(images), rows=rows)


def read_sweep(path: str, metrics: list[str] | None) -> dict:
    """Rows of a sweep, and which of their columns are figures.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no list of rows, or a column is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'table {path} does not exist')
    try:
        rows = json.loads(Path(path).read_text())
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f'table {path} is not a JSON list of rows')
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in [KEY, *(metrics or [])]:
        if column not in columns:
            raise ValueError(f'table {path} has no column {column}: it has {", ".join(columns)}')
    rows = [row for row in rows if is_figure(row.get(KEY))]
    figures = [c for c in columns if c != KEY and any(is_figure(row.get(c)) for row in rows)]
    if not figures:
        raise ValueError(f'table {path} has no figures beside {KEY}: it has {", ".join(columns)}')
    return dict(table=path, metrics=metrics or figures, rows=rows)


def is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw(metrics: list[str], rows: list[dict]) -> Figure:
    figure = Figure(figsize=(1 + 4 * len(metrics), 3.6), layout='constrained')
    for axis, metric, colour in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0],
        metrics,
        [COLOURS[i % len(COLOURS)] for i in range(len(metrics))],
        strict=True,
    ):
        found = [row for row in rows if is_figure(row.get(metric))]
        ratios = sorted({row[KEY] for row in found})
        at_ratio = [[row[metric] for row in found if row[KEY] == ratio] for ratio in ratios]
        means = [sum(values) / len(values) for values in at_ratio]
        axis.plot(ratios, means, color=colour, marker='o', markersize=4)
        axis.plot([r[KEY] for r in found], [r[metric] for r in found], '.', color=colour, alpha=0.5)
        if metric == 'loss' and all('standard_error' in row for row in found):
            errors = [row['standard_error'] for row in found]
            axis.errorbar(ratios, means, errors, color=colour, capsize=3)
        axis.set(xlabel='mask ratio', ylabel=metric)
        axis.set_xlim(0, 1)
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.3)
    return figure


def main() -> None:
    args = parse_args()
    if args.what == 'checkpoint':
        numbers, metrics = losses_at_ratios(args), ['loss']
        columns = [KEY, 'loss', 'standard_error']
    else:
        with exit_on_user_error():
            args.out = check_figure_path(args.out)
            numbers = read_sweep(args.table, args.metrics)
        metrics = numbers['metrics']
        columns = [KEY, *metrics]
    figure = draw(metrics, numbers['rows'])
    if args.what == 'checkpoint':
        figure.axes[0].set_ylabel('reconstruction loss (mean, standard error)')
    print(''.join(f'{column:>20}' for column in columns))
    for row in numbers['rows']:
        values = [row.get(column) for column in columns]
        print(''.join(f'{v:20.4g}' if is_figure(v) else f'{"-":>20}' for v in values))
    write_figure(figure, args.out)
    write_numbers(numbers, args.out)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
