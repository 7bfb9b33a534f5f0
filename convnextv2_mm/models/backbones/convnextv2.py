"""ConvNeXt V2 (arXiv 2301.00808): the backbone, and the sparse encoder of FCMAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...ops import (
    PatchLayout,
    patchify,
)
from ...ops.backends import check_backend
from ...ops.patch_layout import patch_grid
from ...registry import MODELS, WEIGHT_INITIALIZERS
from ..layers.block import ConvNeXtV2Block, LayerNorm, PatchConv, init_weights_
from ..layers.feature_norms import PAPER_GRN, is_paper_grn


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
        feature_norm: For ablations, another GRN than the paper's, ``dict(aggregation='l1')`` and
            the like, or another layer, ``dict(type='LN')`` and the like: see
            :mod:`~convnextv2_mm.models.layers.feature_norms`.
        init_cfg: MMEngine initialisation, such as ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')``.

    Raises:
        ValueError: If ``arch``, ``out_indices``, ``frozen_stages``, ``backend`` or ``feature_norm``
            names nothing that exists, or ``feature_norm`` is given without ``use_grn``.
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
        feature_norm: Mapping = PAPER_GRN,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.depths, self.channels = self.resolve_arch(arch)
        out_indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if any(not -4 <= i < 4 for i in out_indices):
            raise ValueError(f'out_indices {out_indices} is not allowed: stages are 0 to 3')
        if frozen_stages not in range(5):
            raise ValueError(f'frozen_stages {frozen_stages} is not allowed: it must be 0 to 4')
        check_backend(backend)
        if not use_grn and not is_paper_grn(feature_norm):
            raise ValueError(f'feature_norm {feature_norm} is not allowed with use_grn=False')
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
                    feature_norm if use_grn else None,
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
    def resolve_arch(cls, arch: str | dict) -> tuple[list[int], list[int]]:
        """Blocks and channels of the four stages of ``arch``, as the constructor takes it.

        Raises:
            ValueError: If there is no such size.
        """
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

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; a ``Pretrained`` file may be of any library.

        MMEngine's own ``Pretrained`` would take the names of the file as they are.
        """
        given = self.init_cfg
        configs = given if isinstance(given, list) else [given]
        files = [c for c in configs if c and c['type'] in ('Pretrained', PretrainedInit)]
        if self.is_init or not files:
            super().init_weights()
            return
        self.init_cfg = [c for c in configs if c not in files]
        super().init_weights()
        self.init_cfg = given
        for file in files:
            WEIGHT_INITIALIZERS.build({**file, 'type': 'convnextv2_mm.Pretrained'})(self)

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
