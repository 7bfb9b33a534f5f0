"""How much the channels of a layer tell the classes apart (paper, appendix, Figure 7)."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassMeans:
    """Mean activity of each channel for each class, image by image.

    Activity is what the index was made for, the output of a ReLU averaged over space (Morcos et
    al., https://arxiv.org/abs/1803.06959, section 2.3). ConvNeXt's blocks end without one, and the
    paper does not say what it took: here negative values count as no activity, which keeps the
    index between 0 and 1.

    Keeps ``num_classes · C`` sums in float64, however many images come.

    Args:
        num_classes: Labels are below this.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._sums: Tensor | None = None
        self._counts = torch.zeros(num_classes, dtype=torch.float64)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add images.

        Args:
            features: ``(N, ..., C)``.
            labels: ``(N,)`` int64.
        """
        x = features.flatten(1, -2).clamp(min=0)  # [N, L, C]
        activity = x.mean(1, dtype=torch.promote_types(x.dtype, torch.float32)).double().cpu()
        if self._sums is None:
            self._sums = activity.new_zeros(self.num_classes, activity.shape[1])
        self._sums.index_add_(0, labels, activity)
        self._counts += torch.bincount(labels, minlength=self.num_classes)

    def compute(self) -> Tensor:
        """``(K, C)`` float64, the means of the K classes that had images, in order of labels."""
        assert self._sums is not None, 'no images yet'
        is_seen = self._counts > 0
        return self._sums[is_seen] / self._counts[is_seen].unsqueeze(1)


def class_selectivity(means: Tensor) -> Tensor:
    """Class selectivity index ``(μ_max − μ_rest) / (μ_max + μ_rest)`` of each channel.

    ``μ_max`` is the mean activity for the class that excites the channel most, ``μ_rest`` the mean
    over the other classes. 0: all classes excite it alike; 1: one class alone does. From Morcos et
    al. (https://arxiv.org/abs/1803.06959, section 2.3).

    Args:
        means: ``(K, C)``, mean activity of C channels for each of K ≥ 2 classes, not negative.

    Returns:
        ``(C,)``, NaN for a channel that no class excites.

    Raises:
        ValueError: If there is one class only, or an activity is negative.
    """
    if len(means) < 2:
        raise ValueError(f'class selectivity of {len(means)} class is not defined: it needs 2')
    if means.min() < 0:
        raise ValueError(f'activity {means.min().item():.4g} is not allowed: 0 is the least')
    largest = means.max(0).values
    rest = (means.sum(0) - largest) / (len(means) - 1)
    return (largest - rest).clamp(min=0) / (largest + rest)
