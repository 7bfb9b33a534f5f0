"""k-NN classification with frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..checkpoints import read_backbone
from ..engine.config.reading import check_data, read_config
from ..models import ConvNeXtV2
from ..utils.imports import without_onedl

with without_onedl():
    from mmpretrain.models import BaseClassifier


class KNNAccuracy(NamedTuple):
    """What k-NN classification gives.

    Attributes:
        top1: Accuracy between 0 and 1 for each number of neighbours.
        queries: Number of test images.
        neighbours: Number of training images.
    """

    top1: dict[int, float]
    queries: int
    neighbours: int


def evaluate_knn(
    config: str | Path | Config,
    checkpoint: str,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> KNNAccuracy:
    """Classify by nearest neighbours in the space of frozen features.

    The weighted vote of Wu et al. (arXiv 1805.01978) with the settings of DINO (arXiv 2104.14294):
    cosine similarity, weights exp(similarity / temperature). The backbone, averaged over space and
    normalised, sees the training images without augmentation, as it sees the test images.

    Args:
        config: Of a classifier: file, ``convnextv2_mm::FOLDER/NAME.py``, or config.
        checkpoint: File, folder, URL, or ``convnextv2://NAME``, in any layout.
        k: Numbers of neighbours.
        temperature: Of the weights.
        device: Where to compute.
        cfg_options: Changes of the config.

    Raises:
        FileNotFoundError: If the config, its data or the checkpoint does not exist.
        ValueError: If they do not fit each other, or there are fewer training images than k.
    """
    if min(k) < 1 or temperature <= 0:
        raise ValueError('-k and --temperature must be positive')
    config = read_config(config, cfg_options)
    model = build_classifier(config, checkpoint).to(device)
    train, test = build_loaders(config)
    if max(k) > len(train.dataset):
        raise ValueError(
            f'-k {max(k)} is not allowed: there are {len(train.dataset)} training images'
        )
    queries, truth = map(torch.cat, zip(*extract(model, test), strict=True))
    nearest = NearestNeighbours(queries, max(k))
    for features, labels in extract(model, train):
        nearest.add(features, labels)
    correct = {n: nearest.vote(n, temperature).argmax(1) == truth for n in k}
    top1 = {n: float(c.float().mean()) for n, c in correct.items()}
    return KNNAccuracy(top1, len(test.dataset), len(train.dataset))


class NearestNeighbours:
    """The nearest of the features seen so far, for each query.

    Args:
        queries: ``(Q, C)``.
        k: How many to keep.
    """

    def __init__(self, queries: Tensor, k: int) -> None:
        self.queries = F.normalize(queries, dim=1)
        self.k = k
        self.similarities = queries.new_empty(len(queries), 0)  # [Q, up to k], falling
        self.labels = torch.empty_like(self.similarities, dtype=torch.long)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """See more: ``(N, C)`` features and ``(N,)`` labels."""
        similarities = self.queries @ F.normalize(features, dim=1).t()  # [Q, N]
        similarities = torch.cat([self.similarities, similarities], 1)
        labels = torch.cat([self.labels, labels.expand(len(self.queries), -1)], 1)
        k = min(self.k, similarities.shape[1])
        self.similarities, nearest = similarities.topk(k, 1)
        self.labels = labels.gather(1, nearest)

    def vote(self, k: int, temperature: float) -> Tensor:
        """Votes ``(Q, classes)`` of the first k, each with exp(similarity / temperature)."""
        # Relative to the nearest: nothing overflows, and all votes of a query scale alike.
        weights = ((self.similarities[:, :k] - self.similarities[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(weights), int(self.labels.max()) + 1)
        return votes.scatter_add_(1, self.labels[:, :k], weights)


def build_classifier(config: Config, checkpoint: str) -> nn.Module:
    """The classifier of a config, its backbone with pre-trained weights.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it does not fit, or the config is not one of a ConvNeXt V2 classifier.
    """
    model = MODELS.build(config.model)
    if not isinstance(model, BaseClassifier) or not isinstance(model.backbone, ConvNeXtV2):
        raise ValueError(
            f'the config is of {type(model).__name__}, it must be of a classifier with ConvNeXtV2'
        )
    # FCMAE has no norm after the last stage: it has no weights of its own then.
    weights = read_backbone(model.backbone, checkpoint, prefix='backbone.')
    model.backbone.load_state_dict(weights, strict=False)
    return model.eval()


def build_loaders(config: Config) -> list[DataLoader]:
    """Loaders of the training and of the test images, both prepared as for a test."""
    loaders = []
    for key in ('train_dataloader', 'test_dataloader'):
        check_data(config[key])
        dataset = dict(config[key].dataset, pipeline=config.test_dataloader.dataset.pipeline)
        loaders.append(Runner.build_dataloader(dict(config.test_dataloader, dataset=dataset)))
    return loaders


def extract(model: nn.Module, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Features ``(N, C)`` and labels ``(N,)`` of each batch.

    Raises:
        ValueError: If the features of an image are not one vector.
    """
    for batch in track_iter_progress((loader, len(loader))):
        data = model.data_preprocessor(batch, training=False)
        with torch.no_grad():
            features = model.backbone(data['inputs'])[-1]
        if features.ndim != 2:
            raise ValueError(
                f'features have shape {tuple(features.shape)}: the backbone must average them over '
                f'space, with gap_before_final_norm=True'
            )
        yield features, torch.cat([sample.gt_label for sample in data['data_samples']])
