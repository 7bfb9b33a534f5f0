"""Measure training steps of ours and of peers, alternately in one run.

``pretrain``: a whole FCMAE step (forward, backward, AdamW) against the dense masked encoder, MAE on
a ViT (transformers) and SparK (mmpretrain, ConvNeXt V2-Tiny). ``backbone``: the same step of the
dense network alone against mmpretrain's and timm's. Figures are medians; the ratio is the speed
relative to the first row; the spread is the distance of the quartiles relative to the median; GiB
is what a step takes at its peak beside weights and optimizer state, on a GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from convnextv2_mm.engine.run_setup import one_sentence_errors
from convnextv2_mm.models import FCMAE, ConvNeXtV2
from convnextv2_mm.ops.backends import BACKENDS

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
PRETRAIN_PEERS = ('vit-mae', 'spark')
BACKBONE_PEERS = ('mmpretrain', 'timm')


@dataclass
class Contender:
    """Something that takes a step, and what was measured of it."""

    name: str
    step: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    peak_gib: float | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['pretrain', 'backbone'])
    parser.add_argument('--arch', default='base', choices=ConvNeXtV2.arch_settings)
    parser.add_argument('--batch', type=int, default=128, help='images in a step')
    parser.add_argument('--size', type=int, nargs=2, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--mask-ratio', type=float, default=0.6)
    parser.add_argument('--precision', choices=PRECISIONS, default='bf16')
    parser.add_argument('--backends', nargs='+', choices=BACKENDS, default=['auto'])
    parser.add_argument(
        '--peers',
        nargs='*',
        default=[],
        choices=['all', 'masked', *PRETRAIN_PEERS, *BACKBONE_PEERS],
    )
    parser.add_argument('--compile', action='store_true', help='also measure all compiled')
    parser.add_argument('--steps', type=int, default=10, help='timed steps of each')
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def training_step(
    args: argparse.Namespace, model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor]
) -> Callable[[], None]:
    """Forward, backward and AdamW of ``model`` on random images."""
    model.to(args.device, memory_format=torch.channels_last)
    model.train()
    images = torch.randn(args.batch, 3, *args.size, device=args.device)
    dtype = PRECISIONS[args.precision]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=args.device == 'cuda')

    def step() -> None:
        with torch.autocast(args.device, dtype, enabled=dtype is not None):
            value = loss(model, images)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def build_fcmae(args: argparse.Namespace, backend: str) -> nn.Module:
    channels = ConvNeXtV2.arch_settings[args.arch]['channels']
    return FCMAE(
        dict(type='convnextv2_mm.SparseConvNeXtV2', arch=args.arch, backend=backend),
        dict(type='convnextv2_mm.FCMAEDecoder', in_channels=channels[-1]),
        dict(type='convnextv2_mm.FCMAEHead'),
        mask_ratio=args.mask_ratio,
    )


def build_vit_mae(args: argparse.Namespace) -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    if args.size[0] != args.size[1]:
        raise ValueError(f'--size {args.size} is not allowed with vit-mae: it takes squares')
    return ViTMAEForPreTraining(ViTMAEConfig(image_size=args.size[0]))  # ViT-Base, 0.75 masked


def build_spark(args: argparse.Namespace) -> nn.Module:
    """mmpretrain's own config of SparK with ConvNeXt V2-Tiny."""
    import mmpretrain.models  # noqa: F401
    from mmengine.config import Config

    if args.arch != 'tiny' or args.size[0] != args.size[1]:
        raise ValueError('the peer spark is ConvNeXt V2-Tiny on squares: choose --arch tiny')
    init_default_scope('mmpretrain')
    folder = Path(mmpretrain.__file__).parent / '.mim/configs/spark'
    config = Config.fromfile(next(folder.glob('spark_sparse-convnextv2-tiny_*.py')))
    config.model.update(input_size=args.size[0], mask_ratio=args.mask_ratio)
    return MODELS.build(config.model)


def build_backbone(args: argparse.Namespace, name: str) -> nn.Module:
    if name == 'timm':
        import timm

        return timm.create_model(f'convnextv2_{args.arch}', num_classes=0)
    if name == 'mmpretrain':
        from mmpretrain.models import ConvNeXt

        return ConvNeXt(args.arch, use_grn=True, layer_scale_init_value=0.0)
    return ConvNeXtV2(args.arch, backend=name)


def contenders(args: argparse.Namespace) -> list[Contender]:
    peers = args.peers
    allowed = ('masked', *PRETRAIN_PEERS) if args.what == 'pretrain' else BACKBONE_PEERS
    if peers == ['all']:
        peers = [p for p in allowed if p != 'spark' or args.arch == 'tiny']
    for peer in peers:
        if peer not in allowed:
            raise ValueError(f'--peers {peer} is not one of {args.what}: {", ".join(allowed)}')
    found = []
    for name in [*args.backends, *peers]:
        for compiled in (False, True) if args.compile else (False,):
            if args.what == 'backbone':
                model = build_backbone(args, name)

                def loss(model: nn.Module, images: Tensor) -> Tensor:
                    out = model(images)
                    return (out[0] if isinstance(out, tuple) else out).float().square().mean()
            elif name == 'vit-mae':
                model = build_vit_mae(args)

                def loss(model: nn.Module, images: Tensor) -> Tensor:
                    return model(images).loss
            else:
                model = build_spark(args) if name == 'spark' else build_fcmae(args, name)

                def loss(model: nn.Module, images: Tensor) -> Tensor:
                    return model(images, [], mode='loss')['loss']

            label = f'{name}, compiled' if compiled else name
            step = training_step(args, model, torch.compile(loss) if compiled else loss)
            found.append(Contender(label, step))
    return found


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


def measure(found: list[Contender], args: argparse.Namespace) -> None:
    for contender in found:  # warm up, and see the memory
        for _ in range(3):
            if args.device == 'cuda':
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            contender.step()
        if args.device == 'cuda':
            torch.cuda.synchronize()
            contender.peak_gib = (torch.cuda.max_memory_allocated() - before) / 2**30
    for _ in range(args.steps):
        for contender in found:
            contender.seconds.append(timed(contender.step, args.device))


def report(found: list[Contender], args: argparse.Namespace) -> list[dict]:
    print(f'{"":24}{"ms":>10}{"img/s":>10}{"ratio":>8}{"spread":>8}{"GiB":>8}')
    rows = []
    for contender in found:
        seconds = statistics.median(contender.seconds)
        low, _, high = statistics.quantiles(contender.seconds, n=4)
        row = dict(
            name=contender.name,
            ms=1000 * seconds,
            images_per_second=args.batch / seconds,
            ratio=statistics.median(found[0].seconds) / seconds,
            spread=(high - low) / seconds,
            activation_gib=contender.peak_gib,
        )
        rows.append(row)
        memory = '-' if contender.peak_gib is None else f'{contender.peak_gib:.2f}'
        print(
            f'{row["name"]:24}{row["ms"]:10.1f}{row["images_per_second"]:10.1f}'
            f'{row["ratio"]:8.2f}{row["spread"]:8.2f}{memory:>8}'
        )
    return rows


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        if args.steps < 2 or args.batch < 1:
            raise ValueError('--steps must be at least 2 and --batch at least 1')
        found = contenders(args)
    device = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    threads = '' if args.device == 'cuda' else f' ({torch.get_num_threads()} threads)'
    print(
        f'{args.what}, ConvNeXt V2-{args.arch.capitalize()}, {args.batch} images of '
        f'{args.size[0]}x{args.size[1]}, {args.precision}, {device}{threads}, '
        f'torch {torch.__version__}'
    )
    measure(found, args)
    rows = report(found, args)
    if args.json:
        Path(args.json).write_text(json.dumps(dict(args=vars(args), rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    main()
