"""ConvNeXt V2 (arXiv 2301.00808): the block, the backbone, and the sparse encoder of FCMAE.

Features are channels last, in one of two forms: dense ``(N, H, W, C)``, or packed
``(N, K, s, s, C)`` with K visible patches of s×s sites. Every layer but the depthwise convolution
works on the last axis or on the axes between N and C, so both forms run through the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import PatchLayout, depthwise_conv, gelu_grn_linear, patchify
from ..ops.backends import check_backend
from ..ops.patch_layout import patch_grid
from ..registry import MODELS
from .hidden_norms import PAPER_GRN, build_hidden_norm, is_paper_grn


class PatchConv(nn.Conv2d):
    """Convolution whose stride equals its kernel, on channels-last ``(..., H, W, C)``.

    Each k×k window is seen once, so it is a reshape and a matrix product, and works alike on a
    whole image and inside a patch. Rows and columns that do not fill a window are dropped, as a
    strided convolution does. Weights are stored as those of ``nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size[0]
        *lead, height, width, channels = x.shape
        rows, columns = height // k, width // k
        x = x[..., : rows * k, : columns * k, :].reshape(*lead, rows, k, columns, k, channels)
        x = x.transpose(-4, -3).reshape(*lead, rows, columns, k * k * channels)
        return F.linear(x, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of the last axis that stays in half precision under autocast.

    Autocast would convert to float32 and back, five times the bytes. The kernel computes in float32
    in any case.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class GRN(nn.Module):
    """The parameters of global response normalisation (paper, section 3.2).

    A block computes it together with the layers around it, see
    :func:`~convnextv2_mm.ops.gelu_grn_linear`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


class ConvNeXtV2Block(nn.Module):
    """``x + DropPath(Linear(GRN(GELU(Linear(LayerNorm(DWConv7×7(x)))))))``, hidden width 4C.

    Args:
        channels: C.
        drop_path_rate: Probability of dropping the branch of a sample.
        hidden_norm: What follows GELU: the GRN of V2, another layer of
            :mod:`~convnextv2_mm.models.hidden_norms`, or None as in V1.
        layer_scale_init_value: Initial scale of the branch, learned per channel; 0 for none.
        backend: Of its operators, see :func:`~convnextv2_mm.ops.depthwise_conv`.
    """

    def __init__(
        self,
        channels: int,
        drop_path_rate: float = 0.0,
        hidden_norm: Mapping | None = PAPER_GRN,
        layer_scale_init_value: float = 0.0,
        backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.backend = backend
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = LayerNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.grn = self.hidden_norm = None
        if is_paper_grn(hidden_norm):  # has an operator of its own
            self.grn = GRN(4 * channels)
        elif hidden_norm is not None:
            self.hidden_norm = build_hidden_norm(hidden_norm, 4 * channels)
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)
        self.gamma = (
            nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
            if layer_scale_init_value > 0
            else None
        )
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        shortcut = x
        conv = self.depthwise_conv
        x = depthwise_conv(x, conv.weight, conv.bias, layout, self.backend)
        x = self.norm(x)
        x = self.pointwise_conv1(x)  # [..., 4C]
        grn, linear = self.grn, self.pointwise_conv2
        if grn is not None:
            x = gelu_grn_linear(
                x, grn.gamma, grn.beta, linear.weight, linear.bias, layout, self.backend
            )
        elif self.hidden_norm is not None:
            x = linear(self.hidden_norm(F.gelu(x), layout))
        else:
            x = linear(F.gelu(x))
        if self.gamma is not None:
            x = x * self.gamma
        return shortcut + self.drop_path(x)


def init_weights_(module: nn.Module) -> None:
    """Normal of std 0.02 for convolutions and linear layers, biases 0 (paper, A.1).

    The paper truncates at 2, which is 100 deviations. There PyTorch's ``trunc_normal_`` would draw
    exactly -2 about once in 2e7 values: some thirty weights of Huge.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)


@MODELS.register_module()
class ConvNeXtV2(BaseModule):
    """ConvNeXt V2 backbone, and V1 with ``use_grn=False, layer_scale_init_value=1e-6``.

    Parameter names are those of ``mmpretrain.ConvNeXt``, so its checkpoints load as they are. The
    weights are initialised when the module is built; ``init_cfg`` is for pre-trained ones.

    Args:
        arch: Name of a size in ``arch_settings``, or ``dict(depths=[...], channels=[...])`` of four
            stages.
        in_channels: Channels of the image.
        drop_path_rate: Of the last block; it rises linearly from 0 at the first.
        out_indices: Stages whose output is returned, 0 to 3, or negative from the end.
        frozen_stages: The first so many stages, with the downsampling before each, do not train.
        gap_before_final_norm: Average each output over space before its norm: ``(N, C)`` for
            classification, instead of a map.
        use_grn: GRN in each block (V2).
        layer_scale_init_value: Initial LayerScale; 0 for none (V2).
        with_cp: Recompute each block in the backward pass instead of storing its activations.
        backend: Of the operators: ``auto``, ``torch``, ``triton`` or ``spconv``, see
            :func:`~convnextv2_mm.ops.depthwise_conv`.
        hidden_norm: For ablations, another GRN than the paper's, ``dict(aggregation='l1')`` and the
            like, or another layer, ``dict(type='LN')`` and the like: see
            :mod:`~convnextv2_mm.models.hidden_norms`.
        init_cfg: MMEngine initialisation, such as ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')``.

    Raises:
        ValueError: If ``arch``, ``out_indices``, ``frozen_stages``, ``backend`` or ``hidden_norm``
            names nothing that exists, or ``hidden_norm`` is given without ``use_grn``.
    """

    arch_settings = {
        'atto': dict(depths=[2, 2, 6, 2], channels=[40, 80, 160, 320]),
        'femto': dict(depths=[2, 2, 6, 2], channels=[48, 96, 192, 384]),
        'pico': dict(depths=[2, 2, 6, 2], channels=[64, 128, 256, 512]),
        'nano': dict(depths=[2, 2, 8, 2], channels=[80, 160, 320, 640]),
        'tiny': dict(depths=[3, 3, 9, 3], channels=[96, 192, 384, 768]),
        'small': dict(depths=[3, 3, 27, 3], channels=[96, 192, 384, 768]),
        'base': dict(depths=[3, 3, 27, 3], channels=[128, 256, 512, 1024]),
        'large': dict(depths=[3, 3, 27, 3], channels=[192, 384, 768, 1536]),
        'xlarge': dict(depths=[3, 3, 27, 3], channels=[256, 512, 1024, 2048]),
        'huge': dict(depths=[3, 3, 27, 3], channels=[352, 704, 1408, 2816]),
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = 0,
        gap_before_final_norm: bool = True,
        use_grn: bool = True,
        layer_scale_init_value: float = 0.0,
        with_cp: bool = False,
        backend: str = 'auto',
        hidden_norm: Mapping = PAPER_GRN,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.depths, self.channels = self._resolve_arch(arch)
        out_indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -4 <= i < 4 for i in out_indices):
            raise ValueError(f'out_indices {out_indices} is not allowed: stages are 0 to 3')
        if frozen_stages not in range(5):
            raise ValueError(f'frozen_stages {frozen_stages} is not allowed: it must be 0 to 4')
        check_backend(backend)
        if not use_grn and not is_paper_grn(hidden_norm):
            raise ValueError(f'hidden_norm {hidden_norm} is not allowed with use_grn=False')
        self.out_indices = [i % 4 for i in out_indices]
        self.frozen_stages = frozen_stages
        self.gap_before_final_norm = gap_before_final_norm
        self.with_cp = with_cp

        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        drop_path_rates = iter(
            torch.linspace(0, drop_path_rate, sum(self.depths), device='cpu').tolist()
        )
        for i, (depth, channels) in enumerate(zip(self.depths, self.channels, strict=True)):
            if i == 0:
                downsample = [
                    PatchConv(in_channels, channels, 4),
                    LayerNorm(channels, eps=1e-6),
                ]
            else:
                before = self.channels[i - 1]
                downsample = [LayerNorm(before, eps=1e-6), PatchConv(before, channels, 2)]
            blocks = [
                ConvNeXtV2Block(
                    channels,
                    next(drop_path_rates),
                    hidden_norm if use_grn else None,
                    layer_scale_init_value,
                    backend,
                )
                for _ in range(depth)
            ]
            self.downsample_layers.append(nn.Sequential(*downsample))
            self.stages.append(nn.Sequential(*blocks))
            if i in self.out_indices:
                self.add_module(f'norm{i}', LayerNorm(channels, eps=1e-6))

        init_weights_(self)
        self.train(self.training)

    @classmethod
    def _resolve_arch(cls, arch: str | dict) -> tuple[list[int], list[int]]:
        if isinstance(arch, str):
            if arch not in cls.arch_settings:
                raise ValueError(
                    f'arch {arch!r} is unknown: choose one of {", ".join(cls.arch_settings)}, or '
                    f'give dict(depths=[...], channels=[...])'
                )
            arch = cls.arch_settings[arch]
        depths, channels = arch.get('depths'), arch.get('channels')
        for name, values in (('depths', depths), ('channels', channels)):
            if (
                not isinstance(values, Sequence)
                or len(values) != 4
                or any(not isinstance(v, int) or v < 1 for v in values)
            ):
                raise ValueError(
                    f'arch {name}={values} is not allowed: give four positive integers'
                )
        return list(depths), list(channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: ``(N, in_channels, H, W)``, both sides at least 32 pixels.

        Returns:
            For each stage in ``out_indices``, ``(N, C, H/4, W/4)`` to ``(N, C, H/32, W/32)``,
            channels-last in memory; or ``(N, C)`` with ``gap_before_final_norm``.

        Raises:
            ValueError: If a side is shorter than 32 pixels.
        """
        if min(images.shape[-2:]) < 32:
            height, width = images.shape[-2:]
            raise ValueError(f'image size {height}x{width} is too small: 32x32 is the least')
        outs = []
        for i, x in enumerate(self._run_stages(images.permute(0, 2, 3, 1))):
            if i not in self.out_indices:
                continue
            if self.gap_before_final_norm:
                x = x.mean((1, 2))  # [N, C]
            x = getattr(self, f'norm{i}')(x)
            outs.append(x if self.gap_before_final_norm else x.permute(0, 3, 1, 2))
        return tuple(outs)

    def _run_stages(self, x: Tensor, layout: PatchLayout | None = None) -> Iterator[Tensor]:
        for downsample, blocks in zip(self.downsample_layers, self.stages, strict=True):
            x = downsample(x)
            for block in blocks:
                if self.with_cp and torch.is_grad_enabled():
                    x = checkpoint(block, x, layout, use_reentrant=False)
                else:
                    x = block(x, layout)
            yield x

    def train(self, mode: bool = True) -> ConvNeXtV2:
        """Set training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for i in range(self.frozen_stages):
            for part in (self.downsample_layers[i], self.stages[i]):
                part.eval().requires_grad_(False)
        return self


@MODELS.register_module()
class SparseConvNeXtV2(ConvNeXtV2):
    """The encoder of FCMAE: ConvNeXt V2 on the visible patches only (paper, section 3.1).

    Same parameters under the same names as :class:`ConvNeXtV2` without output norms, so what it
    learns is read by that class as it is.

    Args:
        backend: As of :class:`ConvNeXtV2`, or ``masked``: compute the whole image and zero masked
            sites around each layer that mixes sites, the slow definition that the others are
            tested against.
        **kwargs: As of :class:`ConvNeXtV2`, but for ``out_indices`` and ``gap_before_final_norm``.
    """

    patch_size = 32
    """Pixels a side of a mask patch: one site of the last stage."""

    def __init__(self, *args, backend: str = 'auto', **kwargs) -> None:
        self.is_packed = backend != 'masked'
        backend = backend if self.is_packed else 'torch'
        super().__init__(*args, out_indices=(), backend=backend, **kwargs)

    def forward(
        self,
        images: Tensor,
        mask: Tensor | PatchLayout | None = None,
        all_stages: bool = False,
    ) -> tuple[Tensor | list[Tensor], Tensor]:
        """Encode the visible patches.

        Args:
            images: ``(N, in_channels, H, W)``, H and W multiples of 32.
            mask: ``(N, L)`` over the H/32×W/32 patches in row order, 1 is masked, the same number
                in each row; or a layout drawn beforehand; or None to see everything.
            all_stages: Return what each of the four stages gives, instead of the last one only.

        Returns:
            The latent ``(N, C, H/32, W/32)``, zero where masked, or a list of four such maps, the
            first ``(N, C/8, H/4, W/4)``; and the mask ``(N, L)``.

        Raises:
            ValueError: If the image size or the mask is not as above.
        """
        grid = patch_grid(images.shape[-2:], self.patch_size)
        if mask is None:
            mask = images.new_zeros(len(images), grid[0] * grid[1])
        layout = mask
        if isinstance(mask, Tensor):
            layout = PatchLayout.from_mask(mask.to(images.device), len(images), grid)
        *stages, latent = self._encode(images, layout)
        if all_stages:
            return [self._to_map(x, layout) for x in (*stages, latent)], layout.mask
        return self._to_map(latent, layout), layout.mask

    def _encode(self, images: Tensor, layout: PatchLayout) -> Iterator[Tensor]:
        """Run the stages on packed features, or on dense ones with the backend ``masked``."""
        if self.is_packed:
            x = layout.pack_patches(patchify(images, self.patch_size))  # [N, K, 32, 32, 3]
        else:
            x = images.permute(0, 2, 3, 1)  # [N, H, W, 3]
        return self._run_stages(x, layout)  # ..., [N, K, 1, 1, C] or [N, H/32, W/32, C]

    @staticmethod
    def _to_map(x: Tensor, layout: PatchLayout) -> Tensor:
        if x.ndim == 5:
            x = layout.unpack(x)
        else:
            x = x * layout.visible_map(x.shape[1] // layout.grid[0])
        return x.permute(0, 3, 1, 2)


@MODELS.register_module()
class MaskedImageConvNeXtV2(SparseConvNeXtV2):
    """FCMAE's encoder without the sparse encoding, an ablation (paper, section 3.1, table 1).

    Masked patches are set to 0 in the image, and from there on are pixels like the others: they
    cost as much, what is visible leaks into them, and GRN counts them.
    """

    def _encode(self, images: Tensor, layout: PatchLayout) -> Iterator[Tensor]:
        x = images.permute(0, 2, 3, 1) * layout.visible_map(self.patch_size)
        return self._run_stages(x)
