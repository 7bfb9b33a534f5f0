"""Draw curves of several runs over each other, from the logs in their work dirs.

Loss, learning rate (the base rate, where layers differ), and whichever of COCO's box and mask mAP,
mIoU, top-1 accuracy and FCMAE's validation loss there are; or --keys of the logs, such as
cosine_distance/stages.3.1 of the pre-training monitor. What a resumed run did again counts once, as
the resumed run did it.
"""

import argparse
import json
from pathlib import Path

from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import (
    check_figure_path,
    styles,
    write_figure,
    write_numbers,
)

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.utils import track_iter_progress
from model_arguments import add_output_arguments

TRAINING = ('loss', 'lr')
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'mIoU', 'accuracy/top1', 'fcmae/loss')
PER_ROW = 3

# Of each key, the values by step, and whether steps are epochs.
Curves = dict[str, tuple[dict[int, float], bool]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', help='work dirs of runs')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='of the runs, for the legend')
    parser.add_argument('--keys', nargs='+', metavar='KEY', help='what to draw')
    add_output_arguments(parser)
    return parser.parse_args()


def read_run(work_dir: str) -> Curves:
    """Curves of all scalars that MMEngine's local backend wrote.

    Raises:
        FileNotFoundError: If there is no log.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'work dir {work_dir} has no log */vis_data/scalars.json')
    curves: Curves = {}
    by_epoch = False
    for log in logs:
        begun = set()
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            step = entry.pop('step', 0)
            by_epoch |= 'epoch' in entry
            # Training logs by iteration; validation, without one, by epoch if training has epochs.
            is_epoch = 'iter' not in entry and by_epoch
            if 'base_lr' in entry:
                entry['lr'] = entry['base_lr']
            for key, value in entry.items():
                if not isinstance(value, int | float):
                    continue
                values, _ = curves.setdefault(key, ({}, is_epoch))
                if key not in begun:  # a resumed run: what came after its start is void
                    begun.add(key)
                    for later in [s for s in values if s >= step]:
                        del values[later]
                values[step] = value
    return curves


def choose_keys(runs: dict[str, Curves], keys: list[str] | None) -> list[str]:
    known = sorted({key for curves in runs.values() for key in curves})
    for key in keys or ():
        if key not in known:
            raise ValueError(f'no run logged {key}: choose from {", ".join(known)}')
    return keys or [key for key in (*TRAINING, *METRICS) if key in known]


def draw(runs: dict[str, Curves], keys: list[str]) -> Figure:
    columns, rows = min(PER_ROW, len(keys)), -(-len(keys) // PER_ROW)
    figure = Figure(figsize=(0.6 + 3.9 * columns, 0.5 + 3 * rows), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    looks = styles(list(runs))
    for axis, key in zip(axes, keys, strict=False):
        units = set()
        for look, curves in zip(looks, runs.values(), strict=True):
            if key not in curves:
                continue
            values, by_epoch = curves[key]
            units.add('epoch' if by_epoch else 'iteration')
            marker = look['marker'] if len(values) <= 30 else None
            axis.plot(values.keys(), values.values(), **{**look, 'marker': marker})
        axis.set(xlabel=' or '.join(sorted(units)), ylabel=key)
        low, high = axis.dataLim.intervalx
        if low == high:
            axis.set_xlim(low - 1, high + 1)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.spines[['top', 'right']].set_visible(False)
        axis.grid(alpha=0.3)
    for axis in axes[len(keys) :]:
        axis.axis('off')
    found = {}
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        found.update(zip(names, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc='outside upper center', ncols=3, frameon=False)
    return figure


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        args.out = check_figure_path(args.out)
        names = args.names or [Path(path).resolve().name for path in args.work_dirs]
        if len(names) != len(args.work_dirs) or len(set(names)) < len(names):
            raise ValueError(
                f'{len(args.work_dirs)} runs need --names as many and different, got {names}'
            )
        runs = {}
        for name, path in track_iter_progress(list(zip(names, args.work_dirs, strict=True))):
            runs[name] = read_run(path)
        keys = choose_keys(runs, args.keys)
    series = []
    width = max(map(len, keys)) + 2
    print(f'\n{"":{width}}{"run":28}{"first":>10}{"last":>10}{"least":>10}{"most":>10}')
    for key in keys:
        for name, curves in runs.items():
            if key not in curves:
                continue
            steps, values = zip(*curves[key][0].items(), strict=True)
            shown = (values[0], values[-1], min(values), max(values))
            print(f'{key:{width}}{name:28}' + ''.join(f'{value:10.4g}' for value in shown))
            unit = 'epoch' if curves[key][1] else 'iteration'
            series.append(dict(key=key, run=name, unit=unit, steps=steps, values=values))
    write_figure(draw(runs, keys), args.out)
    write_numbers(dict(runs=dict(zip(names, args.work_dirs, strict=True)), curves=series), args.out)
    print(f'\nwritten to {args.out}')


if __name__ == '__main__':
    main()
