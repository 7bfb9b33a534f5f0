"""ONNX files of backbones, classifiers and segmentors, checked with onnxruntime."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..engine.config.reading import read_config
from ..models import SparseConvNeXtV2
from .inference import build_model

Shape = tuple[int, int, int, int]  # N, C, H, W
TRACED = (2, 96, 128)
CHECKED = [(2, 96, 128), (1, 224, 224), (3, 75, 110)]
TOLERANCE = 1e-4  # of the largest output


def export_onnx(
    config: str | Path | Config,
    checkpoint: str,
    destination: str | Path,
    *,
    backbone: bool = False,
    cfg_options: dict | None = None,
) -> tuple[list[str], dict[Shape, float]]:
    """Export the network of a config with the weights of a checkpoint.

    Input ``images`` are ``(N, 3, H, W)``, normalised as the config says; N, H and W are free, from
    32 pixels. A classifier gives ``logits`` ``(N, classes)``, a segmentor those of
    ``(N, classes, H, W)``, a backbone its outputs as ``stage1`` to ``stage4``.

    Args:
        config: File, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        checkpoint: File, URL, or ``convnextv2://NAME``.
        destination: ``.onnx`` file. Weights of 2 GB and more go beside it.
        backbone: Export the backbone of the model alone.
        cfg_options: Changes of the config.

    Returns:
        The names of the outputs; and for the sizes of images tried, the largest difference between
        onnxruntime and PyTorch, relative to the largest output.

    Raises:
        FileNotFoundError: If the config or the checkpoint does not exist.
        ImportError: If ONNX is not installed.
        ValueError: If the destination cannot be used, the model cannot be exported, or onnxruntime
            gives other results. Nothing is written then.
    """
    destination = Path(destination)
    if destination.suffix != '.onnx' or not destination.parent.is_dir():
        raise ValueError(f'{destination} must be a .onnx file in a folder that exists')
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("ONNX needs the extra: pip install 'convnextv2_mm[onnx]'") from error
    model = build_model(read_config(config, cfg_options), checkpoint)
    network, outputs = choose_part(model, backbone)
    channels = model.backbone.downsample_layers[0][0].in_channels
    network.eval()
    replace_pooling(network)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        path = Path(folder) / destination.name
        export(network, outputs, channels, path)
        differences = dict(check(network, channels, path))
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the model after its weights
            os.replace(file, destination.with_name(file.name))
    return outputs, differences


class AdaptiveAveragePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, since ONNX has none for any image size."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        pair = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.rows, self.columns = pair

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return self._weights(self.rows, height, x) @ x @ self._weights(self.columns, width, x).mT

    @staticmethod
    def _weights(bins: int, size: int, like: Tensor) -> Tensor:
        """``(bins, size)``: row b averages the pixels from ⌊b·size/bins⌋ to ⌈(b+1)·size/bins⌉."""
        b = torch.arange(bins, device=like.device)[:, None]
        pixel = torch.arange(size, device=like.device)
        start, end = b * size // bins, ((b + 1) * size + bins - 1) // bins
        return ((pixel >= start) & (pixel < end)).to(like.dtype) / (end - start)


class FullSizeLogits(nn.Module):
    """A segmentor whose logits have the size of the image."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: Tensor) -> Tensor:
        align_corners = self.segmentor.decode_head.align_corners
        logits = self.segmentor(images)
        return F.interpolate(logits, images.shape[2:], mode='bilinear', align_corners=align_corners)


def choose_part(model: nn.Module, backbone: bool) -> tuple[nn.Module, list[str]]:
    """Choose the network to export, and the names of its outputs."""
    from mmpretrain.models import ImageClassifier  # these two are slow to import
    from mmseg.models import EncoderDecoder

    if backbone:
        if isinstance(model.backbone, SparseConvNeXtV2):
            raise ValueError('FCMAE has a sparse encoder: give the config of a task')
        return model.backbone, [f'stage{i + 1}' for i in model.backbone.out_indices]
    if isinstance(model, ImageClassifier):
        return model, ['logits']
    if isinstance(model, EncoderDecoder):
        return FullSizeLogits(model), ['logits']
    raise ValueError(
        f'{type(model).__name__} cannot be exported, only classifiers and segmentors, and with '
        f'--backbone the backbone of any model'
    )


def replace_pooling(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            setattr(module, name, AdaptiveAveragePool(child.output_size))
        replace_pooling(child)


def export(network: nn.Module, outputs: list[str], channels: int, path: Path) -> None:
    """Write ``network`` to ``path``, with free batch and image size."""
    height, width = (torch.export.Dim(name, min=32) for name in ('height', 'width'))
    shapes = {0: torch.export.Dim('batch'), 2: height, 3: width}
    n, h, w = TRACED
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # PyTorch's exporter warns of itself
        program = torch.onnx.export(
            network,
            (torch.randn(n, channels, h, w),),
            input_names=['images'],
            output_names=outputs,
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
        )
    program.save(path)  # weights of 2 GB and more beside it, in NAME.onnx.data


def check(network: nn.Module, channels: int, path: Path) -> Iterator[tuple[Shape, float]]:
    """Compare the file in onnxruntime with ``network``, on images of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for n, h, w in CHECKED:
        images = torch.randn(n, channels, h, w)
        with torch.no_grad():
            expected = network(images)
        expected = [expected] if isinstance(expected, Tensor) else expected
        found = session.run(None, {'images': images.numpy()})
        difference = max(
            np.abs(f - e.numpy()).max() / e.abs().max().item()
            for f, e in zip(found, expected, strict=True)
        )
        if not difference < TOLERANCE:
            raise ValueError(f'onnxruntime differs by {difference:.1e}, {TOLERANCE} is allowed')
        yield (n, channels, h, w), difference
