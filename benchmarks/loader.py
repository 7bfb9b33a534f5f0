"""Measure the input of FCMAE pre-training on one core, as one process of a data loader has it.

Three pipelines take the same files, alternately in one run: MMPreTrain's of MAE and that of our
configs, with the same random boxes, and that of the gpu-decode config, which leaves all but reading
to the data preprocessor. This one works in the training process, on ``--device``, and is no part of
images/s. Figures are medians over the rounds, in ms per image; the spread is the distance of the
quartiles relative to the median.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from convnextv2_mm.errors import exit_on_user_error

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, MODELS, TRANSFORMS, init_default_scope
from PIL import Image
from torch import nn

CONFIGS = Path(__file__).parents[1] / 'configs'
ENDINGS = ('.jpg', '.jpeg', '.png')
COLLATE, PREPROCESSOR = 'collate', 'data preprocessor'


@dataclass
class Peer:
    """A way from files to a normalised batch, and the ms per image of its stages in each round."""

    name: str
    transforms: list[Callable]
    collate: Callable
    preprocessor: nn.Module
    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def totals(self) -> list[float]:
        """What a loader process takes, in each round."""
        stages = [values for name, values in self.ms.items() if name != PREPROCESSOR]
        return [sum(values) for values in zip(*stages, strict=True)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', required=True, metavar='FOLDER', help='where the images are')
    parser.add_argument('--images', type=int, default=256, help='how many of them to read')
    parser.add_argument(
        '--short-side',
        type=int,
        metavar='PIXELS',
        help='first save them with this side, as JPEG of quality 95; 375 is usual in ImageNet',
    )
    parser.add_argument('--batch', type=int, default=64, help='images in a batch')
    parser.add_argument('--rounds', type=int, default=7, help='timed rounds of each pipeline')
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        default='cuda' if torch.cuda.is_available() else 'cpu',
    )
    return parser.parse_args()


def peers(device: str) -> list[Peer]:
    import mmpretrain.datasets

    gpu_decode = 'pretrain/fcmae_convnextv2-b_8xb64-accum8-800e-gpu-decode_in1k-224px.py'
    stock = Path(mmpretrain.__file__).parent / '.mim/configs/_base_/datasets/imagenet_bs512_mae.py'
    paths = {
        'mmpretrain': stock,
        'ours': CONFIGS / '_base_/fcmae_in1k-224px.py',
        'gpu-decode': CONFIGS / gpu_decode,
    }
    init_default_scope('mmpretrain')
    found = []
    for name, path in paths.items():
        config = Config.fromfile(path)
        loader = config.train_dataloader
        found.append(
            Peer(
                name,
                [TRANSFORMS.build(step) for step in loader.dataset.pipeline],
                FUNCTIONS.get(loader.collate_fn.type),
                MODELS.build(config.get('model', config).data_preprocessor).to(device),
            )
        )
    return found


def find_images(args: argparse.Namespace, scratch: Path) -> list[Path]:
    """The files to read: in ``--data``, or saved in ``scratch`` at the size that is asked for."""
    if not Path(args.data).is_dir():
        raise FileNotFoundError(f'--data {args.data} is no folder')
    found = sorted(p for p in Path(args.data).rglob('*') if p.suffix.lower() in ENDINGS)
    if len(found) < args.images:
        raise ValueError(f'--images {args.images}, but --data {args.data} has only {len(found)}')
    found = found[:: len(found) // args.images][: args.images]  # of all classes
    if args.short_side is None:
        return found
    saved = []
    for index, path in enumerate(found):
        image = Image.open(path).convert('RGB')
        scale = args.short_side / min(image.size)
        image = image.resize([round(scale * side) for side in image.size], Image.BICUBIC)
        saved.append(scratch / f'{index}.jpg')
        image.save(saved[-1], quality=95)
    return saved


def run_round(peer: Peer, files: list[Path], args: argparse.Namespace) -> None:
    """Read all files once, and add what each stage took."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, call: Callable, *arguments: object) -> object:
        start = time.perf_counter()
        result = call(*arguments)
        seconds[stage] += time.perf_counter() - start
        return result

    def preprocess(batch: dict) -> None:
        peer.preprocessor(batch, True)
        if args.device != 'cpu':
            torch.cuda.synchronize()

    for first in range(0, len(files), args.batch):
        samples = []
        for path in files[first : first + args.batch]:
            sample = dict(img_path=str(path))
            for transform in peer.transforms:
                sample = timed(type(transform).__name__, transform, sample)
            samples.append(sample)
        timed(PREPROCESSOR, preprocess, timed(COLLATE, peer.collate, samples))
    for stage, value in seconds.items():
        peer.ms[stage].append(1000 * value / len(files))


def measure(found: list[Peer], files: list[Path], args: argparse.Namespace) -> None:
    for number in range(args.rounds + 1):
        for peer in found:
            np.random.seed(number)
            torch.manual_seed(number)
            run_round(peer, files, args)
            if number == 0:  # warm-up
                peer.ms.clear()


def report(found: list[Peer]) -> list[dict]:
    rows = []
    for peer in found:
        totals = peer.totals()
        ms = statistics.median(totals)
        low, _, high = statistics.quantiles(totals, n=4)
        row = dict(
            name=peer.name,
            stages_ms={stage: statistics.median(values) for stage, values in peer.ms.items()},
            ms=ms,
            images_per_second=1000 / ms,
            ratio=statistics.median(found[0].totals()) / ms,
            spread=(high - low) / ms,
        )
        rows.append(row)
    transforms = [stage for row in rows for stage in row['stages_ms']]
    stages = dict.fromkeys(s for s in transforms if s not in (COLLATE, PREPROCESSOR))
    print(f'{"ms per image":24}' + ''.join(f'{row["name"]:>12}' for row in rows))
    for stage in (*stages, COLLATE):
        print_row(stage, [row['stages_ms'].get(stage) for row in rows], '.3f')
    print_row('one loader process', [row['ms'] for row in rows], '.3f')
    print_row('images/s', [row['images_per_second'] for row in rows], '.0f')
    print_row('ratio', [row['ratio'] for row in rows], '.2f')
    print_row('spread', [row['spread'] for row in rows], '.2f')
    print_row(PREPROCESSOR, [row['stages_ms'][PREPROCESSOR] for row in rows], '.3f')
    return rows


def print_row(name: str, values: list[float | None], form: str) -> None:
    print(f'{name:24}' + ''.join(f'{"-" if v is None else format(v, form):>12}' for v in values))


def main() -> None:
    args = parse_args()
    # As in the processes of a loader.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        with exit_on_user_error():
            for name, least in (('images', 1), ('short_side', 1), ('batch', 1), ('rounds', 2)):
                value = getattr(args, name)
                if value is not None and value < least:
                    option = name.replace('_', '-')
                    raise ValueError(f'--{option} {value} is not allowed: at least {least}')
            files = find_images(args, Path(scratch))
            found = peers(args.device)
        kib = statistics.mean(path.stat().st_size for path in files) / 1024
        sizes = []
        for path in files:
            with Image.open(path) as image:
                sizes.append(image.size)
        width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
        print(
            f'{len(files)} files, in the median {width:.0f}x{height:.0f}, of {kib:.0f} KiB, '
            f'batches of {args.batch}, data preprocessor on {args.device}, '
            f'torch {torch.__version__}'
        )
        measure(found, files, args)
    rows = report(found)
    if args.json:
        Path(args.json).write_text(json.dumps(dict(args=vars(args), rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    main()
