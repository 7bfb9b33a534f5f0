"""Classify by nearest neighbours in the space of frozen features: a pre-training in one figure.

The weighted vote of Wu et al. (arXiv 1805.01978) with the settings of DINO (arXiv 2104.14294):
cosine similarity, weights exp(similarity / 0.07). CONFIG is one of a classifier, such as
configs/classification/*_linear-probe_*: its backbone, averaged over space and normalised, sees the
training images without augmentation, as it sees the test images. CHECKPOINT is of any layout that
docs/checkpoints.md names, FCMAE's as it is. One process; the training features are not kept.
"""

import argparse
from collections.abc import Iterator

from convnextv2_mm.checkpoints import read_backbone
from convnextv2_mm.cli import add_cfg_options, device_name
from convnextv2_mm.engine.config.reading import check_data, read_config
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.models import ConvNeXtV2

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a classifier')
    parser.add_argument('checkpoint', help='file, folder, URL or convnextv2://NAME')
    parser.add_argument(
        '-k', type=int, nargs='+', default=[10, 20, 100, 200], help='numbers of neighbours'
    )
    parser.add_argument('--temperature', type=float, default=0.07, help='of the weights')
    parser.add_argument(
        '--device', type=device_name, default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    add_cfg_options(parser)
    return parser.parse_args()


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


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        if min(args.k) < 1 or args.temperature <= 0:
            raise ValueError('-k and --temperature must be positive')
        config = read_config(args.config, args.cfg_options)
        model = build_classifier(config, args.checkpoint).to(args.device)
        train, test = build_loaders(config)
        if max(args.k) > len(train.dataset):
            raise ValueError(
                f'-k {max(args.k)} is not allowed: there are {len(train.dataset)} training images'
            )
        queries, truth = map(torch.cat, zip(*extract(model, test), strict=True))
        nearest = NearestNeighbours(queries, max(args.k))
        for features, labels in extract(model, train):
            nearest.add(features, labels)
    print(f'\n{len(test.dataset)} images, neighbours among {len(train.dataset)}')
    for k in args.k:
        correct = nearest.vote(k, args.temperature).argmax(1) == truth
        print(f'k = {k:<4} top-1 accuracy {100 * correct.float().mean():.2f}')


if __name__ == '__main__':
    main()
