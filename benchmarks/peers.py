"""What benchmarks/speed.py measures: steps of ours and of peers, and single operators."""

import argparse
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from convnextv2_mm.models import FCMAE, ConvNeXtV2
from convnextv2_mm.ops import PatchLayout, depthwise_conv, gelu_grn_linear

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

CONFIGS = Path(__file__).parents[1] / 'configs/_base_'
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass
class Peer:
    """Something that takes a step, and what was measured of it."""

    name: str
    step: Callable[[], None]
    part: Callable[[], None] | None = None  # of the step, alone
    seconds: list[float] = field(default_factory=list)
    part_seconds: list[float] = field(default_factory=list)
    peak_gib: float | None = None


# What competes with each other: a title, and the peers, built when their turn comes.
Groups = Iterator[tuple[str, Callable[[], list[Peer]]]]


def groups(args: argparse.Namespace) -> Groups:
    """All that one call of the benchmark measures."""
    for arch in args.arch:
        of_arch = copy(args)
        of_arch.arch = arch
        if args.what == 'ops':
            yield from operator_groups(of_arch)
        else:
            yield arch, partial(CONTENDERS[args.what], of_arch)


def training_step(
    args: argparse.Namespace,
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
) -> Callable[[], None]:
    """Forward, backward and AdamW of ``model`` on ``batch``."""
    model.to(args.device).train()
    dtype = PRECISIONS[args.precision]
    is_graph = getattr(args, 'graphs', False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, fused=args.device == 'cuda', capturable=is_graph
    )

    def step() -> None:
        # A graph replays no weights that were cast before it.
        with torch.autocast(args.device, dtype, dtype is not None, cache_enabled=not is_graph):
            value = loss(model, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ------------------------------------------------------------------------ pretrain, backbone


def pretrain_peers(args: argparse.Namespace) -> list[Peer]:
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


def backbone_peers(args: argparse.Namespace) -> list[Peer]:
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
) -> list[Peer]:
    """A model that takes images, channels-last, and the same compiled if asked for."""
    images = torch.randn(args.batch, 3, *args.size, device=args.device)
    found = []
    for compiled in (False, True) if args.compile else (False,):
        model = build(args).to(memory_format=torch.channels_last)
        step = training_step(args, model, torch.compile(loss) if compiled else loss, images)
        found.append(Peer(f'{name}, compiled' if compiled else name, step))
        if args.graphs and not compiled:
            found.append(Peer(f'{name}, as a graph', captured(step)))
    return found


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """A step that the host starts with one call, whatever the number of its kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # kernels compile, and the optimizer gets its state
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


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


def detector_peers(args: argparse.Namespace) -> list[Peer]:
    init_default_scope('mmdet')
    return task_peers(args, detector_config, detection_batch(args))


def segmentor_peers(args: argparse.Namespace) -> list[Peer]:
    if args.batch < 2:
        raise ValueError(f'--batch {args.batch} is not allowed: the norms of UPerNet need 2 images')
    init_default_scope('mmseg')
    return task_peers(args, segmentor_config, segmentation_batch(args))


def task_peers(
    args: argparse.Namespace,
    model_config: Callable[[argparse.Namespace, str], ConfigDict],
    batch: dict,
) -> list[Peer]:
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
        found.append(Peer(name, step, partial(backbone_pass, model.backbone)))
    return found


def detector_config(args: argparse.Namespace, name: str) -> ConfigDict:
    """Mask R-CNN as in our configs with a backend, or mmdet's with mmpretrain's backbone."""
    import mmdet

    stock = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/mask-rcnn_r50_fpn.py'
    model = Config.fromfile(
        stock if name == 'mmpretrain' else CONFIGS / 'models/mask-rcnn_fpn.py'
    ).model
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


# -------------------------------------------------------------------------------------- ops


def operator_groups(args: argparse.Namespace) -> Groups:
    """Each operator at each stage: on dense maps, and on the visible patches of FCMAE."""
    grid = (args.size[0] // 32, args.size[1] // 32)
    layout = PatchLayout.random(args.batch, grid, args.mask_ratio, args.device)
    for stage, channels in enumerate(ConvNeXtV2.arch_settings[args.arch]['channels']):
        side = 8 >> stage
        dense = (args.batch, args.size[0] // (4 << stage), args.size[1] // (4 << stage))
        packed = (*layout.visible.shape, side, side)
        for shape, visible in ((dense, None), (packed, layout)):
            form = 'dense' if visible is None else 'packed'
            title = f'{args.arch}, {form} {"x".join(map(str, (*shape, channels)))}'
            yield f'conv, {title}', partial(convolutions, args, shape, channels, visible)
            yield f'gelu_grn_linear, {title}', partial(projections, args, shape, channels)


def convolutions(
    args: argparse.Namespace, shape: tuple[int, ...], channels: int, layout: PatchLayout | None
) -> list[Peer]:
    tensors = random_tensors(args, (*shape, channels), (channels, 1, 7, 7), (channels,))
    peers = ['nchw', 'spconv'] if args.peers == ['all'] else args.peers
    names = [*args.backends, *(p for p in peers if p == ('spconv' if layout else 'nchw'))]
    found = []
    for name in names:
        if name == 'nchw':
            x = tensors[0].detach().permute(0, 3, 1, 2).contiguous().requires_grad_()
            convolve = partial(F.conv2d, padding=3, groups=channels)
            found += operator(args, name, convolve, [x, *tensors[1:]])
        else:
            convolve = partial(depthwise_conv, layout=layout, backend=name)
            found += operator(args, name, convolve, tensors)
    return found


def projections(args: argparse.Namespace, shape: tuple[int, ...], channels: int) -> list[Peer]:
    wide = 4 * channels
    tensors = random_tensors(args, (*shape, wide), (wide,), (wide,), (channels, wide), (channels,))
    found = []
    for name in args.backends:
        found += operator(args, name, partial(gelu_grn_linear, backend=name), tensors)
    return found


def random_tensors(args: argparse.Namespace, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Features in ``--precision``, and parameters in float32."""
    dtype = PRECISIONS[args.precision] or torch.float32
    x, *parameters = (torch.randn(shape, device=args.device) for shape in shapes)
    return [t.requires_grad_() for t in (x.to(dtype), *parameters)]


def operator(
    args: argparse.Namespace, name: str, function: Callable[..., Tensor], tensors: list[Tensor]
) -> list[Peer]:
    """Forward and backward pass under autocast, as in a model."""
    dtype = PRECISIONS[args.precision]

    def call() -> Tensor:
        # Weights are cast in each step, as where an optimizer changes them.
        with torch.autocast(args.device, dtype, dtype is not None, cache_enabled=False):
            return function(*tensors)

    @torch.no_grad()
    def forward() -> None:
        call()

    direction = torch.randn_like(call())

    def step() -> None:
        torch.autograd.grad(call(), tensors, direction)

    found = [Peer(name, step, forward)]
    if args.graphs:
        found.append(Peer(f'{name}, as a graph', captured(step), captured(forward)))
    return found


CONTENDERS = dict(
    pretrain=pretrain_peers,
    backbone=backbone_peers,
    detector=detector_peers,
    segmentor=segmentor_peers,
)
