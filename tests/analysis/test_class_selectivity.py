"""Class selectivity against loops over images, classes and channels."""

import pytest
import torch

from convnextv2_mm.analysis import ClassMeans, class_selectivity


def test_streamed_means_equal_those_over_all_images():
    torch.manual_seed(0)
    features = torch.randn(20, 3, 5, 6, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1] * 6 + [3, 3])  # no image of class 2
    means = ClassMeans(4)
    for start in range(0, 20, 7):
        means.update(features[start : start + 7], labels[start : start + 7])
    for row, label in zip(means.compute(), (0, 1, 3), strict=True):
        for channel in range(6):
            of_class = [f[..., channel].relu().mean().item() for f in features[labels == label]]
            assert row[channel].item() == pytest.approx(sum(of_class) / len(of_class), rel=1e-13)


def test_index_equals_its_definition():
    torch.manual_seed(0)
    means = torch.rand(5, 7, dtype=torch.float64)
    for channel, index in enumerate(class_selectivity(means).tolist()):
        column = means[:, channel].tolist()
        largest = max(column)
        column.remove(largest)
        rest = sum(column) / len(column)
        assert index == pytest.approx((largest - rest) / (largest + rest), rel=1e-13)


def test_known_values():
    means = torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    one_class, all_alike, none = class_selectivity(means)
    assert one_class == 1
    assert all_alike == 0
    assert none.isnan()


def test_wrong_means_are_named():
    with pytest.raises(ValueError, match='of 1 class is not defined'):
        class_selectivity(torch.ones(1, 3))
    with pytest.raises(ValueError, match='activity -0.5 is not allowed'):
        class_selectivity(torch.tensor([[1.0], [-0.5]]))
