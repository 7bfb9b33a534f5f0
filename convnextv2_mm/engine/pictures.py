"""Pictures of what a model predicts, for every task."""

from __future__ import annotations

from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData

from ..registry import HOOKS


def draw_prediction(
    sample: BaseDataElement, config: Config, dataset_meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    """Draw what a model predicted for one image.

    Args:
        sample: Output of ``model.test_step``, with ``img_path``.
        config: Config of the run; its visualizer draws detections, segmentations and labels.
        dataset_meta: Classes and palette.
        score_thr: Detections below are left out.

    Returns:
        ``(H, W, 3)`` uint8 RGB. For FCMAE: masked, reconstructed and original side by side.
    """
    if 'reconstructed' in sample:
        return draw_reconstruction(sample, config)
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    visualizer = VISUALIZERS.build({**config.visualizer, 'name': 'pictures', 'vis_backends': []})
    image, sample = _enlarge(image, sample)
    if hasattr(visualizer, 'visualize_cls'):
        visualizer.visualize_cls(image, sample, classes=dataset_meta.get('classes'))
        return visualizer.get_image()
    visualizer.dataset_meta = dataset_meta
    options = dict(pred_score_thr=score_thr) if 'pred_instances' in sample else {}
    visualizer.add_datasample('', image, sample, draw_gt=False, **options)
    return visualizer.get_image()


def _enlarge(
    image: np.ndarray, sample: BaseDataElement, least: int = 384
) -> tuple[np.ndarray, BaseDataElement]:
    """Scale a small image and its prediction to ``least`` pixels, so that labels are legible."""
    factor = -(-least // min(image.shape[:2]))
    if factor <= 1:
        return image, sample
    sample = sample.cpu().clone()
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    if 'pred_instances' in sample:
        sample.pred_instances.bboxes *= factor
        if 'masks' in sample.pred_instances:
            masks = sample.pred_instances.masks
            masks = masks.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
            sample.pred_instances.masks = masks
    if 'pred_sem_seg' in sample:
        labels = sample.pred_sem_seg.data
        labels = labels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        sample.pred_sem_seg = PixelData(data=labels)
    return image, sample


def draw_reconstruction(sample: BaseDataElement, config: Config) -> np.ndarray:
    """Masked, reconstructed and original image side by side, ``(H, 3W, 3)`` uint8 RGB."""
    preprocessor = config.model.data_preprocessor
    mean, std = (torch.tensor(preprocessor[key]).view(3, 1, 1) for key in ('mean', 'std'))
    panels = [sample.masked, sample.reconstructed, sample.original]
    pixels = torch.cat([panel.cpu().float() * std + mean for panel in panels], dim=2)
    return pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write an RGB picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OSError(f'cannot write {path}')


@HOOKS.register_module()
class PictureHook(Hook):
    """Write a picture of the prediction for each image of the test set.

    Args:
        out_dir: Folder for the PNG files, named as the images.
        score_thr: Detections below are left out.
    """

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.score_thr = score_thr

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: list[BaseDataElement]
    ) -> None:
        """Draw a batch."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs:
            picture = draw_prediction(sample, runner.cfg, meta, self.score_thr)
            write_picture(picture, self.out_dir / f'{Path(sample.img_path).stem}.png')
