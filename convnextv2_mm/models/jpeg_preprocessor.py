"""Data preprocessor that decodes and augments on the device, instead of the loader's processes."""

from __future__ import annotations

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from ..registry import MODELS


@MODELS.register_module()
class JPEGDataPreprocessor(ImgDataPreprocessor):
    """Decode, crop at random, flip and normalise a training batch on the model's device.

    The training pipeline is ``convnextv2_mm.LoadEncodedJPEG`` and ``PackInputs``, collated by
    ``pseudo_collate``. On a GPU, nvJPEG decodes the batch in one call. Batches for evaluation are
    only normalised. Boxes and flips come from PyTorch's global generator, as the masks of FCMAE.

    Args:
        crop_size: Side of the images for the model, in pixels.
        crop_ratio_range: Least and largest area of the crop, as a part of the image.
        flip_prob: Probability of a horizontal flip.
        kwargs: ``mean``, ``std``, ``bgr_to_rgb`` and the others of MMEngine's
            ``ImgDataPreprocessor``; what is decoded here is in the order BGR, as from the host.
    """

    def __init__(
        self,
        crop_size: int = 224,
        crop_ratio_range: tuple[float, float] = (0.2, 1.0),
        flip_prob: float = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        bicubic = v2.InterpolationMode.BICUBIC
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(crop_size, crop_ratio_range, interpolation=bicubic),
                v2.RandomHorizontalFlip(flip_prob),
            ]
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch.

        Args:
            data: ``inputs`` and ``data_samples``. For training, ``inputs`` is a list of uint8
                tensors on the host: JPEG files (bytes,) or BGR images (3, H, W).
            training: Whether to decode and augment.

        Returns:
            ``inputs``, float32 of shape (N, 3, crop_size, crop_size), and ``data_samples``.
        """
        if training:
            data = {**data, 'inputs': self._decode_and_augment(data['inputs'])}
        return super().forward(data, training)

    def _decode_and_augment(self, inputs: list[Tensor]) -> Tensor:
        files = [x for x in inputs if x.ndim == 1]
        decoded = iter(decode_jpeg(files, ImageReadMode.RGB, self.device) if files else [])
        images = [
            self.augment(next(decoded)).flip(0) if x.ndim == 1 else self.augment(x.to(self.device))
            for x in inputs
        ]
        return torch.stack(images)
