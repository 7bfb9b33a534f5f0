"""Data preprocessor that decodes and augments on the device, instead of the loader's processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from ...errors import BadData
from ...registry import MODELS


@MODELS.register_module()
class JPEGDataPreprocessor(ImgDataPreprocessor):
    """Decode, crop at random, flip and normalise a training batch on the model's device.

    The training pipeline is ``convnextv2_mm.LoadEncodedJPEG`` and ``PackInputs``, collated by
    ``pseudo_collate``. On a GPU, nvJPEG decodes the batch in one call. Batches for evaluation are
    only normalised. A file that the loader took for whole and that cannot be decoded is named once
    in the log, and the first image of its batch stands in for it. Box and flip of an image are
    drawn from the ``seed`` of its sample, if it has one
    (:mod:`convnextv2_mm.engine.runner.loops`), else from PyTorch's global generator.

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
        self.undecodable: set[str] = set()

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
            images = self._decode_and_augment(data['inputs'], data['data_samples'])
            data = {**data, 'inputs': images}
        return super().forward(data, training)

    def _decode_and_augment(self, inputs: list[Tensor], samples: list) -> Tensor:
        files = [(x, s) for x, s in zip(inputs, samples, strict=True) if x.ndim == 1]
        decoded = iter(self._decode(*zip(*files, strict=True)) if files else [])
        images: list[Tensor | None] = []
        for x, sample in zip(inputs, samples, strict=True):
            if x.ndim == 3:
                images.append(self._augment(x.to(self.device), sample))
            else:
                image = next(decoded)
                images.append(None if image is None else self._augment(image, sample).flip(0))
        stand_in = next((image for image in images if image is not None), None)
        if stand_in is None:
            raise BadData(f'{samples[0].img_path} cannot be decoded, nor any other of its batch')
        return torch.stack([stand_in if image is None else image for image in images])

    def _augment(self, image: Tensor, sample: BaseDataElement) -> Tensor:
        seed = getattr(sample, 'seed', None)
        # torch.manual_seed would seed the GPUs too, whose generators draw nothing here.
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            return self.augment(image)

    def _decode(self, files: Sequence[Tensor], samples: Sequence) -> list[Tensor | None]:
        """RGB images (3, H, W); None for a file that cannot be decoded."""
        try:
            return decode_jpeg(list(files), ImageReadMode.RGB, self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it does not say which: one by one, by the decoder of the loader
            return [self._decode_on_host(*pair) for pair in zip(files, samples, strict=True)]

    def _decode_on_host(self, file: Tensor, sample: BaseDataElement) -> Tensor | None:
        try:
            return decode_jpeg(file, ImageReadMode.RGB).to(self.device)
        except RuntimeError as error:
            if sample.img_path not in self.undecodable:
                self.undecodable.add(sample.img_path)
                message = (
                    f'{sample.img_path} cannot be decoded: {str(error).splitlines()[0]}; another '
                    f'image of its batch takes its place ({len(self.undecodable)} so far)'
                )
                print_log(message, logger='current', level=logging.ERROR)
            return None
