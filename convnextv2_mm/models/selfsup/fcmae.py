"""FCMAE: the fully convolutional masked autoencoder (arXiv 2301.00808, section 3)."""

from __future__ import annotations

import zlib

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...ops import PatchLayout, patchify, unpatchify
from ...ops.patch_layout import patch_grid
from ...registry import MODELS


@MODELS.register_module()
class FCMAE(BaseModel):
    """Mask an image, encode what is visible, predict what is not.

    Args:
        backbone: Config of the encoder, :class:`~convnextv2_mm.models.SparseConvNeXtV2`.
        neck: Config of the decoder, :class:`FCMAEDecoder` or one of
            :mod:`~convnextv2_mm.models.necks.unet_decoder`.
        head: Config of the loss, :class:`FCMAEHead`.
        mask_ratio: Share of the patches that is masked, between 0 and 1.
        data_preprocessor: Config of the normalisation, MMPreTrain's ``SelfSupDataPreprocessor``.
        init_cfg: MMEngine initialisation of the whole model.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        mask_ratio: float = 0.6,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not 0 < mask_ratio < 1:
            raise ValueError(f'mask_ratio {mask_ratio} is not allowed: it must lie between 0 and 1')
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.head = MODELS.build(head)
        self.mask_ratio = mask_ratio

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[BaseDataElement]:
        """MMEngine's entry: ``loss`` trains, ``predict`` evaluates, ``tensor`` encodes all."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            assert data_samples is not None, 'predict needs data samples'
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.backbone(inputs)[0]
        raise ValueError(f"mode {mode!r} is unknown: choose 'loss', 'predict' or 'tensor'")

    def loss(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Pre-training loss of a batch.

        Args:
            inputs: Normalised images ``(N, 3, H, W)``, H and W multiples of 32.
            data_samples: The mask of an image is drawn from the ``seed`` of its sample, if samples
                have one: :mod:`convnextv2_mm.engine.runner.loops` gives it to them. Their ``mask``,
                (rows, columns) of patches, says which are masked first: see
                :class:`~convnextv2_mm.datasets.MaskPatches`.
            mask: ``(N, L)``, 1 is masked; drawn at random when None.

        Returns:
            ``dict(loss=...)``, the mean over the images.
        """
        seeds = [sample.seed for sample in data_samples or [] if 'seed' in sample]
        priority = mask_priority(data_samples or [])
        prediction, mask = self._autoencode(inputs, mask, seeds or None, priority)
        return dict(loss=self.head(prediction, inputs, mask).mean())

    def predict(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> list[BaseDataElement]:
        """Reconstruct each image under a mask that depends on its file name only, or its ``mask``.

        Adds to each sample ``reconstruction_loss``, and ``masked``, ``reconstructed`` and
        ``original``: images ``(3, H, W)`` in the units of ``inputs``.
        """
        names = [s.get('img_path', '').replace('\\', '/').split('/')[-1] for s in data_samples]
        seeds = [zlib.crc32(name.encode()) for name in names]
        priority = mask_priority(data_samples)
        prediction, mask = self._autoencode(inputs, seeds=seeds, priority=priority)
        losses = self.head(prediction, inputs, mask)
        masked, reconstructed = self._paint(prediction, inputs, mask)
        for i, sample in enumerate(data_samples):
            sample.set_field(losses[i].item(), 'reconstruction_loss')
            sample.set_field(masked[i], 'masked')
            sample.set_field(reconstructed[i], 'reconstructed')
            sample.set_field(inputs[i], 'original')
        return data_samples

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Show what the model sees and what it makes of it.

        Args:
            inputs: Normalised images ``(N, 3, H, W)``, H and W multiples of 32.
            mask: ``(N, L)``, 1 is masked; drawn at random when None.

        Returns:
            The images with masked patches set to 0, and the images with masked patches as
            predicted, both in the units of ``inputs``.
        """
        prediction, mask = self._autoencode(inputs, mask)
        return self._paint(prediction, inputs, mask)

    def _autoencode(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        seeds: list[int] | None = None,
        priority: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        grid = patch_grid(inputs.shape[-2:], self.head.patch_size)
        if mask is None:
            layout = PatchLayout.random(
                len(inputs), grid, self.mask_ratio, inputs.device, seeds, priority
            )
        else:
            layout = PatchLayout.from_mask(mask.to(inputs.device), len(inputs), grid)
            if layout.visible.shape[1] == layout.num_patches:
                raise ValueError(f'mask leaves none of the {layout.num_patches} patches masked')
        # [N, C, Gh, Gw], or that of each stage for a decoder with skips; [N, L]
        latent, mask = self.backbone(inputs, layout, self.neck.needs_stages)
        return self.neck(latent, mask), mask

    def _paint(self, prediction: Tensor, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        p = self.head.patch_size
        grid = patch_grid(inputs.shape[-2:], p)
        patches = patchify(inputs, p)  # [N, L, p, p, 3]
        is_masked = mask.bool()[:, :, None, None, None]
        predicted = self.head.to_pixels(prediction, inputs).view_as(patches).to(inputs.dtype)
        masked = patches.masked_fill(is_masked, 0)
        return unpatchify(masked, grid), unpatchify(
            torch.where(is_masked, predicted, patches), grid
        )


def mask_priority(data_samples: list[BaseDataElement]) -> Tensor | None:
    """``(N, L)``, which patches are masked first; None where samples do not say it."""
    maps = [sample.mask.flatten() for sample in data_samples if 'mask' in sample]
    return torch.stack(maps) if maps else None
