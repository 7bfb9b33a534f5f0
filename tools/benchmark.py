"""Measure training steps of ours and of peers, alternately in one run.

``pretrain``: a whole FCMAE step (forward, backward, AdamW) against the dense masked encoder, MAE on
a ViT (transformers) and SparK (mmpretrain, ConvNeXt V2-Tiny). ``backbone``: the same step of the
dense network alone against mmpretrain's and timm's. ``detector``: a step of the Mask R-CNN of our
configs, 10 random objects an image, against mmdet's own with mmpretrain's backbone. ``segmentor``:
the same for UPerNet and mmseg.

Figures are medians; the ratio is the speed relative to the first row; the spread is the distance of
the quartiles relative to the median; GiB is what a step takes at its peak beside weights and
optimizer state, on a GPU; the backbone's share is the time of its forward and backward pass alone,
measured in the same run, relative to the step.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from convnextv2_mm.engine.run_setup import one_sentence_errors
from convnextv2_mm.models import FCMAE, ConvNeXtV2
from convnextv2_mm.ops.depthwise_conv import BACKENDS

CONFIGS = Path(__file__).parents[1] / 'configs/_base_'
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass
class Contender:
    """Something that takes a step, and what was measured of it."""

    name: str
    step: Callable[[], None]
    backbone: Callable[[], None] | None = None  # its part of the step, alone
    seconds: list[float] = field(default_factory=list)
    backbone_seconds: list[float] = field(default_factory=list)
    peak_gib: float | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='what', required=True)

    def add(what: str, peers: list[str], batch: int, size: int) -> argparse.ArgumentParser:
        command = commands.add_parser(what)
        command.add_argument('--arch', default='base', choices=ConvNeXtV2.arch_settings)
        command.add_argument('--batch', type=int, default=batch, help='images in a step')
        command.add_argument('--size', type=int, nargs=2, default=[size] * 2, metavar=('H', 'W'))
        command.add_argument('--precision', choices=PRECISIONS, default='bf16')
        command.add_argument('--backends', nargs='+', choices=BACKENDS, default=['auto'])
        command.add_argument('--peers', nargs='*', choices=['all', *peers], default=[])
        command.add_argument('--steps', type=int, default=10, help='timed steps of each')
        command.add_argument('--json', metavar='FILE', help='write the figures')
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        command.add_argument('--device', default=device)
        return command

    pretrain = add('pretrain', ['masked', 'vit-mae', 'spark'], batch=128, size=224)
    pretrain.add_argument('--mask-ratio', type=float, default=0.6)
    backbone = add('backbone', ['mmpretrain', 'timm'], batch=128, size=224)
    for command in (pretrain, backbone):
        command.add_argument('--compile', action='store_true', help='also measure all compiled')
    detector = add('detector', ['mmpretrain'], batch=4, size=1024)
    masks = ['bitmap', 'polygon']
    detector.add_argument('--masks', choices=masks, default='bitmap', help='what objects come as')
    add('segmentor', ['mmpretrain'], batch=8, size=512)
    return parser.parse_args()


def training_step(
    args: argparse.Namespace,
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
) -> Callable[[], None]:
    """Forward, backward and AdamW of ``model`` on ``batch``."""
    model.to(args.device).train()
    dtype = PRECISIONS[args.precision]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=args.device == 'cuda')

    def step() -> None:
        with torch.autocast(args.device, dtype, enabled=dtype is not None):
            value = loss(model, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ------------------------------------------------------------------------ pretrain, backbone


def pretrain_contenders(args: argparse.Namespace) -> list[Contender]:
    def loss(model: nn.Module, images: Tensor) -> Tensor:
        return model(images, [], mode='loss')['loss']

    def vit_mae_loss(model: nn.Module, images: Tensor) -> Tensor:
        return model(images).loss

    peers = args.peers
    if peers == ['all']:
        peers = ['masked', 'vit-mae'] + ['spark'] * (args.arch == 'tiny')
    found = []
    for name in [*args.backends, *peers]:
        if name == 'vit-mae':
            found += plain_and_compiled(args, name, build_vit_mae, vit_mae_loss)
        elif name == 'spark':
            found += plain_and_compiled(args, name, build_spark, loss)
        else:
            found += plain_and_compiled(args, name, partial(build_fcmae, backend=name), loss)
    return found


def backbone_contenders(args: argparse.Namespace) -> list[Contender]:
    def loss(model: nn.Module, images: Tensor) -> Tensor:
        out = model(images)
        return (out[0] if isinstance(out, tuple) else out).float().square().mean()

    peers = ['mmpretrain', 'timm'] if args.peers == ['all'] else args.peers
    found = []
    for name in [*args.backends, *peers]:
        found += plain_and_compiled(args, name, partial(build_backbone, name=name), loss)
    return found


def plain_and_compiled(
    args: argparse.Namespace,
    name: str,
    build: Callable[[argparse.Namespace], nn.Module],
    loss: Callable[[nn.Module, Tensor], Tensor],
) -> list[Contender]:
    """A model that takes images, channels-last, and the same compiled if asked for."""
    images = torch.randn(args.batch, 3, *args.size, device=args.device)
    found = []
    for compiled in (False, True) if args.compile else (False,):
        model = build(args).to(memory_format=torch.channels_last)
        step = training_step(args, model, torch.compile(loss) if compiled else loss, images)
        found.append(Contender(f'{name}, compiled' if compiled else name, step))
    return found


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


# ----------------------------------------------------------------------- detector, segmentor


def detector_contenders(args: argparse.Namespace) -> list[Contender]:
    init_default_scope('mmdet')
    return task_contenders(args, detector_config, detection_batch(args))


def segmentor_contenders(args: argparse.Namespace) -> list[Contender]:
    if args.batch < 2:
        raise ValueError(f'--batch {args.batch} is not allowed: the norms of UPerNet need 2 images')
    init_default_scope('mmseg')
    return task_contenders(args, segmentor_config, segmentation_batch(args))


def task_contenders(
    args: argparse.Namespace,
    model_config: Callable[[argparse.Namespace, str], ConfigDict],
    batch: dict,
) -> list[Contender]:
    """Models of mmdet or mmseg, which take a batch as MMEngine's runner gives it."""

    def loss(model: nn.Module, batch: dict) -> Tensor:
        data = model.data_preprocessor(batch, training=True)
        return model.parse_losses(model(**data, mode='loss'))[0]

    images = torch.randn(args.batch, 3, *args.size, device=args.device)
    dtype = PRECISIONS[args.precision]

    def backbone_pass(backbone: nn.Module) -> None:
        with torch.autocast(args.device, dtype, enabled=dtype is not None):
            value = sum(x.float().mean() for x in backbone(images))
        value.backward()
        backbone.zero_grad(set_to_none=True)

    MMLogger.get_current_instance().setLevel('WARNING')  # of each weight's initialisation
    peers = ['mmpretrain'] if args.peers == ['all'] else args.peers
    found = []
    for name in [*args.backends, *peers]:
        model = revert_sync_batchnorm(MODELS.build(model_config(args, name)))
        model.init_weights()
        step = training_step(args, model, loss, batch)
        found.append(Contender(name, step, partial(backbone_pass, model.backbone)))
    return found


def detector_config(args: argparse.Namespace, name: str) -> ConfigDict:
    """Mask R-CNN as in our configs with a backend, or mmdet's with mmpretrain's backbone."""
    import mmdet

    stock = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/mask-rcnn_r50_fpn.py'
    model = Config.fromfile(stock if name == 'mmpretrain' else CONFIGS / 'mask-rcnn_fpn.py').model
    set_backbone(args, name, model)
    model.neck.in_channels = ConvNeXtV2.arch_settings[args.arch]['channels']
    return model


def segmentor_config(args: argparse.Namespace, name: str) -> ConfigDict:
    """UPerNet as in our configs with a backend, or mmseg's with mmpretrain's backbone."""
    import mmseg

    stock = Path(mmseg.__file__).parent / '.mim/configs/_base_/models/upernet_convnext.py'
    ours = CONFIGS / 'upernet_160k_ade20k-512px.py'
    model = Config.fromfile(stock if name == 'mmpretrain' else ours).model
    set_backbone(args, name, model)
    channels = ConvNeXtV2.arch_settings[args.arch]['channels']
    model.data_preprocessor.size = tuple(args.size)
    model.decode_head.update(in_channels=channels, num_classes=150)
    model.auxiliary_head.update(in_channels=channels[2], num_classes=150)
    return model


def set_backbone(args: argparse.Namespace, name: str, model: ConfigDict) -> None:
    if name == 'mmpretrain':
        import mmpretrain.models  # noqa: F401

        model.backbone = dict(
            type='mmpretrain.ConvNeXt',
            arch=args.arch,
            use_grn=True,
            layer_scale_init_value=0.0,
            out_indices=[0, 1, 2, 3],
            gap_before_final_norm=False,
        )
    else:
        model.backbone.update(arch=args.arch, backend=name)


def detection_batch(args: argparse.Namespace) -> dict:
    """Random images with 10 random objects each, ragged outlines in boxes of any size."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    rng = np.random.default_rng(0)
    height, width = args.size
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [24, 2]
    samples = []
    for _ in range(args.batch):
        corners = rng.uniform(0, [width, height], (10, 2, 2))
        center = corners.mean(axis=1, keepdims=True)
        half = np.maximum(np.abs(np.diff(corners, axis=1)) / 2, 4)
        outlines = center + half * circle * rng.uniform(0.6, 1, (10, 24, 1))  # [10, 24, 2]
        masks = PolygonMasks([[outline.ravel()] for outline in outlines], height, width)
        boxes = HorizontalBoxes.from_instance_masks(masks).tensor
        if args.masks == 'bitmap':
            masks = BitmapMasks(masks.to_ndarray().astype(np.uint8), height, width)
        sample = DetDataSample(metainfo=dict(img_shape=args.size, ori_shape=args.size))
        labels = torch.from_numpy(rng.integers(0, 80, 10))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=masks)
        samples.append(sample)
    return dict(inputs=byte_images(args), data_samples=samples)


def segmentation_batch(args: argparse.Namespace) -> dict:
    """Random images with random labels."""
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(args.batch):
        sample = SegDataSample(metainfo=dict(img_shape=args.size, ori_shape=args.size))
        sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, *args.size)))
        samples.append(sample)
    return dict(inputs=byte_images(args), data_samples=samples)


def byte_images(args: argparse.Namespace) -> list[Tensor]:
    """As a data loader gives them."""
    shape = (args.batch, 3, *args.size)
    return list(torch.randint(256, shape, dtype=torch.uint8))


CONTENDERS = dict(
    pretrain=pretrain_contenders,
    backbone=backbone_contenders,
    detector=detector_contenders,
    segmentor=segmentor_contenders,
)


# ------------------------------------------------------------------------------- measurement


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
            if contender.backbone:
                contender.backbone()
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
            if contender.backbone:
                contender.backbone_seconds.append(timed(contender.backbone, args.device))


def report(found: list[Contender], args: argparse.Namespace) -> list[dict]:
    title = f'{"":24}{"ms":>10}{"img/s":>10}{"ratio":>8}{"spread":>8}{"GiB":>8}'
    print(title + f'{"backbone":>10}' * bool(found[0].backbone))
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
        memory = '-' if contender.peak_gib is None else f'{contender.peak_gib:.2f}'
        line = (
            f'{row["name"]:24}{row["ms"]:10.1f}{row["images_per_second"]:10.1f}'
            f'{row["ratio"]:8.2f}{row["spread"]:8.2f}{memory:>8}'
        )
        if contender.backbone:
            backbone = statistics.median(contender.backbone_seconds)
            row.update(backbone_ms=1000 * backbone, backbone_share=backbone / seconds)
            line += f'{row["backbone_share"]:10.0%}'
        rows.append(row)
        print(line)
    return rows


def main() -> None:
    args = parse_args()
    with one_sentence_errors():
        if args.steps < 2 or args.batch < 1:
            raise ValueError('--steps must be at least 2 and --batch at least 1')
        if min(args.size) < 32:
            raise ValueError(f'--size {args.size} is not allowed: 32 is the least')
        found = CONTENDERS[args.what](args)
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
