"""Cosine distance against all C² pairs in float64."""

import pytest
import torch
import torch.nn.functional as F

from convnextv2_mm.analysis import cosine_distance


def by_pairs(features):
    """The definition, pair by pair; two dead channels are alike."""
    distances = []
    for sample in features.double():
        maps = sample.flatten(0, -2).T  # [C, L]
        cosines = F.cosine_similarity(maps[:, None], maps[None], dim=-1, eps=0).nan_to_num(0)
        dead = (maps == 0).all(1)
        cosines[dead[:, None] & dead[None]] = 1
        distances.append(((1 - cosines) / 2).mean())
    return torch.stack(distances)


@pytest.mark.parametrize('shape', [(3, 5, 7, 24), (2, 4, 3, 3, 40), (1, 1, 1, 8), (2, 6, 6, 1)])
def test_equals_all_pairs(shape):
    torch.manual_seed(0)
    features = F.gelu(torch.randn(shape, dtype=torch.float64) + torch.randn(shape[-1]))
    torch.testing.assert_close(cosine_distance(features), by_pairs(features), rtol=0, atol=1e-14)
    single = cosine_distance(features.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), by_pairs(features), rtol=0, atol=1e-6)
    half = features.bfloat16()
    torch.testing.assert_close(cosine_distance(half).double(), by_pairs(half), rtol=0, atol=1e-6)


def test_dead_channels_are_alike_and_orthogonal_to_the_others():
    torch.manual_seed(0)
    features = torch.randn(2, 4, 4, 10, dtype=torch.float64)
    features[..., 3:7] = 0
    features[1, ..., 8] = 0
    torch.testing.assert_close(cosine_distance(features), by_pairs(features), rtol=0, atol=1e-14)
    assert cosine_distance(torch.zeros(1, 4, 4, 10)) == 0


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_scale_of_a_channel_does_not_matter(scale):
    torch.manual_seed(0)
    features = torch.randn(1, 6, 6, 12)
    scaled = torch.cat([features[..., :5] * scale, features[..., 5:]], dim=-1)
    torch.testing.assert_close(cosine_distance(scaled), cosine_distance(features))


def test_known_values():
    x = torch.randn(1, 4, 4, 1, dtype=torch.float64)
    assert cosine_distance(x.expand(-1, -1, -1, 8)) == pytest.approx(0, abs=1e-15)
    assert cosine_distance(torch.cat([x, -x], -1)) == pytest.approx(0.5)
    orthogonal = torch.eye(4, dtype=torch.float64).view(1, 2, 2, 4)
    assert cosine_distance(orthogonal) == pytest.approx((1 - 1 / 4) / 2)
