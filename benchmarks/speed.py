"""Measure training steps of ours and of peers, alternately in one run.

``pretrain``: a whole FCMAE step (forward, backward, AdamW) against the dense masked encoder, MAE on
a ViT (transformers) and SparK (mmpretrain, ConvNeXt V2-Tiny). ``backbone``: the same step of the
dense network alone against mmpretrain's and timm's. ``detector``: a step of the Mask R-CNN of our
configs, 10 random objects an image, against mmdet's own with mmpretrain's backbone. ``segmentor``:
the same for UPerNet and mmseg. ``ops``: forward and backward pass of the operators at each stage,
on dense maps and on the visible patches of FCMAE, against PyTorch's convolution in NCHW and spconv.

Figures are medians; the ratio is the speed relative to the first row; the spread is the distance of
the quartiles relative to the median; GiB is what a step takes at its peak beside weights and
optimizer state, on a GPU. Last comes the share of a part, measured alone in the same run: of the
backbone's forward and backward pass in a detector or segmentor, of the forward pass in an operator.
For ``pretrain`` with ``--data`` it is the time that the loader takes for a batch: below 100% it
keeps up.
"""

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from pathlib import Path

from convnextv2_mm.cli import device_name
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.models import ConvNeXtV2
from convnextv2_mm.ops.backends import BACKENDS
from convnextv2_mm.visualization.figures import styles

import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader, RandomSampler

from peers import CONFIGS, PRECISIONS, Peer, groups

PLOT_NAMES = dict(auto='sparse', masked='dense masked')
PARTS = dict(pretrain='loader', detector='backbone', segmentor='backbone', ops='forward')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='what', required=True)

    def add(what: str, peers: list[str], batch: int, size: int) -> argparse.ArgumentParser:
        command = commands.add_parser(what)
        command.add_argument(
            '--arch', nargs='+', default=['base'], choices=ConvNeXtV2.arch_settings
        )
        command.add_argument('--batch', type=int, default=batch, help='images in a step')
        command.add_argument('--size', type=int, nargs=2, default=[size] * 2, metavar=('H', 'W'))
        command.add_argument('--precision', choices=PRECISIONS, default='bf16')
        command.add_argument('--backends', nargs='+', choices=BACKENDS, default=['auto'])
        command.add_argument('--peers', nargs='*', choices=['all', *peers], default=[])
        command.add_argument('--steps', type=int, default=10, help='timed steps of each')
        command.add_argument('--json', metavar='FILE', help='write the figures')
        command.add_argument('--plot', metavar='FILE', help='draw throughput and memory')
        command.add_argument(
            '--profile',
            action='store_true',
            help='show the operators that a step of each spends on',
        )
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        command.add_argument('--device', type=device_name, default=device)
        return command

    pretrain = add('pretrain', ['masked', 'vit-mae', 'spark'], batch=128, size=224)
    pretrain.add_argument('--data', metavar='FOLDER', help='measure our loader on these images')
    pretrain.add_argument('--workers', type=int, default=8, help='processes of the loader')
    backbone = add('backbone', ['mmpretrain', 'timm'], batch=128, size=224)
    for command in (pretrain, backbone):
        command.add_argument('--compile', action='store_true', help='also measure all compiled')
    detector = add('detector', ['mmpretrain'], batch=4, size=1024)
    detector.add_argument('--masks', choices=['bitmap', 'polygon'], default='bitmap')
    add('segmentor', ['mmpretrain'], batch=8, size=512)
    ops = add('ops', ['nchw', 'spconv'], batch=128, size=224)
    for command in (pretrain, ops):
        command.add_argument('--mask-ratio', type=float, default=0.6)
    for command in (pretrain, backbone, ops):
        command.add_argument(
            '--graphs', action='store_true', help='also measure all as CUDA graphs, not compiled'
        )
    return parser.parse_args()


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of one step, by device events on a GPU."""
    if device != 'cuda':
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def measure(found: list[Peer], args: argparse.Namespace) -> None:
    for peer in found:  # warm up, and see the memory
        for _ in range(3):
            if peer.part:
                peer.part()
            if args.device == 'cuda':
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            peer.step()
        if args.device == 'cuda':
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
            # A graph allocates nothing when it is replayed, which says nothing of what it holds.
            peer.peak_gib = peak / 2**30 if peak else None
    for _ in range(args.steps):
        for peer in found:
            peer.seconds.append(timed(peer.step, args.device))
            if peer.part:
                peer.part_seconds.append(timed(peer.part, args.device))


def print_profile(peer: Peer, args: argparse.Namespace) -> None:
    """The operators of one step, the most expensive first."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if args.device == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        peer.step()
        if args.device == 'cuda':
            torch.cuda.synchronize()
    key = f'self_{"device" if args.device == "cuda" else "cpu"}_time_total'
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    print(f'\n{f"{peer.name}, one step":86}{"calls":>6}{"ms":>10}{"share":>7}')
    for event in events[:30]:
        spent = getattr(event, key)
        print(f'  {event.key[:82]:84}{event.count:>6}{spent / 1000:10.3f}{spent / total:7.1%}')


def compile_kernels(args: argparse.Namespace) -> None:
    """Take a step of each group in processes side by side.

    Triton keeps what it compiles on disk, and takes minutes for all of it one after the other. One
    image is enough, and leaves room on the device for the others.
    """
    args = copy(args)
    args.batch, args.graphs, args.peers = 1, False, []
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        list(pool.map(take_steps, [build for _, build in groups(args)]))


def take_steps(build: Callable[[], list[Peer]]) -> None:
    for peer in build():
        peer.step()


def measure_loader(args: argparse.Namespace) -> list[float]:
    """Seconds that the input of our pre-training config takes for a batch."""
    init_default_scope('mmpretrain')
    config = Config.fromfile(CONFIGS / 'fcmae_in1k-224px.py').train_dataloader.dataset
    dataset = DATASETS.build(
        dict(
            type='CustomDataset',
            data_root=args.data,
            with_label=False,
            pipeline=config.pipeline,
        )
    )
    ahead = 3 * args.workers + 1  # batches that may be ready before the clock starts
    images = args.batch * (ahead + args.steps)
    loader = DataLoader(
        dataset,
        batch_size=args.batch,
        sampler=RandomSampler(dataset, replacement=True, num_samples=images),
        num_workers=args.workers,
        collate_fn=default_collate,
    )
    batches = iter(loader)
    for _ in range(ahead):
        next(batches)
    return [timed(lambda: next(batches), 'cpu') for _ in range(args.steps)]


def report(title: str, found: list[Peer], args: argparse.Namespace) -> list[dict]:
    part = PARTS.get(args.what) if found[0].part_seconds else None
    line = f'{title:44}{"ms":>10}{"img/s":>10}{"ratio":>8}{"spread":>8}{"GiB":>8}'
    print(line + (f'{part:>10}' if part else ''))
    rows = []
    for peer in found:
        seconds = statistics.median(peer.seconds)
        low, _, high = statistics.quantiles(peer.seconds, n=4)
        row = dict(
            group=title,
            name=peer.name,
            ms=1000 * seconds,
            images_per_second=args.batch / seconds,
            ratio=statistics.median(found[0].seconds) / seconds,
            spread=(high - low) / seconds,
            activation_gib=peer.peak_gib,
        )
        memory = '-' if peer.peak_gib is None else f'{peer.peak_gib:.2f}'
        line = (
            f'  {row["name"]:42}{row["ms"]:10.2f}{row["images_per_second"]:10.1f}'
            f'{row["ratio"]:8.2f}{row["spread"]:8.2f}{memory:>8}'
        )
        if part:
            # Batches come in bursts, one from each process: their mean is what counts.
            average = statistics.mean if part == 'loader' else statistics.median
            of_part = average(peer.part_seconds)
            row.update({f'{part}_ms': 1000 * of_part, f'{part}_share': of_part / seconds})
            line += f'{of_part / seconds:10.0%}'
        rows.append(row)
        print(line, flush=True)
    return rows


def plot(rows: list[dict], args: argparse.Namespace) -> None:
    """Bars of throughput, and on a GPU of memory, for each group (the paper's Figure 6)."""
    measures = dict(images_per_second='images / s')
    if all(row['activation_gib'] is not None for row in rows):
        measures['activation_gib'] = 'peak memory beside weights, GiB'
    titles = list(dict.fromkeys(row['group'] for row in rows))
    names = list(dict.fromkeys(row['name'] for row in rows))
    width = 0.8 / len(names)
    figure, axes = plt.subplots(
        1,
        len(measures),
        figsize=(2 + max(3, 0.45 * len(titles) * len(names) * len(measures)), 4),
        squeeze=False,
        layout='constrained',
    )
    for axis, (key, label) in zip(axes[0], measures.items(), strict=True):
        for index, (name, look) in enumerate(zip(names, styles(names), strict=True)):
            found = {row['group']: row[key] for row in rows if row['name'] == name}
            places = [titles.index(t) + (index + 0.5) * width for t in found]
            title = PLOT_NAMES.get(name, name) if args.what == 'pretrain' else name
            bars = axis.bar(places, found.values(), width, label=title, color=look['color'])
            figures = [f'{v:.0f}' if v >= 100 else f'{v:.3g}' for v in found.values()]
            axis.bar_label(bars, figures, fontsize=7)
        axis.set_xticks([i + 0.4 for i in range(len(titles))], titles)
        axis.tick_params('x', rotation=0 if max(map(len, titles)) < 10 else 90)
        axis.set_ylabel(label)
        axis.spines[['top', 'right']].set_visible(False)
    figure.suptitle(describe(args), fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=3, frameon=False)
    figure.savefig(args.plot, dpi=150)


def describe(args: argparse.Namespace) -> str:
    """What was measured, in one line."""
    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    threads = '' if args.device == 'cuda' else f' ({torch.get_num_threads()} threads)'
    return (
        f'{args.what}, ConvNeXt V2, {args.batch} images of {args.size[0]}x{args.size[1]}, '
        f'{args.precision}, {device}{threads}, torch {torch.__version__}'
    )


def check(args: argparse.Namespace) -> None:
    if args.steps < 2 or args.batch < 1:
        raise ValueError('--steps must be at least 2 and --batch at least 1')
    if min(args.size) < 32:
        raise ValueError(f'--size {args.size} is not allowed: 32 is the least')
    if getattr(args, 'graphs', False) and args.device != 'cuda':
        raise ValueError(f'--graphs is not allowed on {args.device}: it needs --device cuda')
    if args.what in ('pretrain', 'ops') and any(side % 32 for side in args.size):
        raise ValueError(f'--size {args.size} is not allowed: packed patches are of 32 pixels')
    kinds = plt.figure().canvas.get_supported_filetypes()
    if args.plot and Path(args.plot).suffix[1:] not in kinds:
        raise ValueError(f'--plot {args.plot} is not allowed: it must end in {", ".join(kinds)}')
    for path in (args.json, args.plot):
        if path and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f'the folder of {path} does not exist')
    if getattr(args, 'data', None) and not Path(args.data).is_dir():
        raise FileNotFoundError(f'--data {args.data} is no folder')


def choose_device(args: argparse.Namespace) -> None:
    """Make the GPU of ``cuda:N`` the current one, which ``cuda`` then stands for."""
    if args.device.startswith('cuda:'):
        torch.cuda.set_device(args.device)
        args.device = 'cuda'


def main() -> None:
    args = parse_args()
    choose_device(args)
    with exit_on_user_error():
        check(args)
        plan = list(groups(args))
    print(describe(args))
    if args.what == 'ops' and args.device == 'cuda':
        compile_kernels(args)
    loader_seconds = measure_loader(args) if getattr(args, 'data', None) else []
    rows = []
    for title, build in plan:
        with exit_on_user_error():
            found = build()
        measure(found, args)
        for peer in found:
            peer.part_seconds += loader_seconds
        rows += report(title, found, args)
        if args.profile:
            for peer in found:
                print_profile(peer, args)
        del found, peer
        gc.collect()  # the next group has the memory for itself
        if args.device == 'cuda':
            torch.cuda.empty_cache()
    if args.json:
        Path(args.json).write_text(json.dumps(dict(args=vars(args), rows=rows), indent=1) + '\n')
    if args.plot:
        plot(rows, args)


if __name__ == '__main__':
    main()
