"""What the paper compares GRN with (section 3.2, table 2): other forms of it, other layers.

They stand between GELU and the second linear layer of a block, on its 4C hidden channels. Each
takes channels-last features, dense ``(N, H, W, C)`` or packed ``(N, K, s, s, C)``, with the layout
of the visible patches or None, and gives the same shape. Masked sites of dense features never
count, and what is returned there means nothing. Samples do not see each other, but for ``BN``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...ops import PatchLayout, depthwise_conv

EPS = 1e-6


def _visible_map(x: Tensor, layout: PatchLayout | None) -> Tensor | None:
    """``(N, H, W, 1)`` bool for dense features with masked sites, None where all sites count."""
    if layout is None or x.ndim == 5:
        return None
    return layout.visible_map(x.shape[1] // layout.grid[0])


def _average(x: Tensor, visible: Tensor | None) -> Tensor:
    """Mean of each channel of a sample over its visible sites: ``(N, 1, ..., 1, C)`` float32."""
    sites = tuple(range(1, x.ndim - 1))
    dtype = torch.promote_types(x.dtype, torch.float32)
    if visible is None:
        return x.mean(sites, keepdim=True, dtype=dtype)
    return (x * visible).sum(sites, keepdim=True, dtype=dtype) / visible.sum(sites, keepdim=True)


def _norm(x: Tensor, visible: Tensor | None, order: int) -> Tensor:
    sites = tuple(range(1, x.ndim - 1))
    dtype = torch.promote_types(x.dtype, torch.float32)
    seen = x if visible is None else x * visible
    return torch.linalg.vector_norm(seen, order, dim=sites, keepdim=True, dtype=dtype)


# G: what is known of a channel of a sample, over space.
AGGREGATIONS = {
    'average': _average,
    'l1': lambda x, visible: _norm(x, visible, 1),
    'l2': lambda x, visible: _norm(x, visible, 2),
}
# N: how it compares with the other channels.
NORMALIZATIONS = {
    'mean': lambda g: g / (g.mean(-1, keepdim=True) + EPS),
    'sum': lambda g: g / (g.sum(-1, keepdim=True) + EPS),
    'inverse_sum': lambda g: 1 / (g.sum(-1, keepdim=True) + EPS),
    'standardize': lambda g: (g - g.mean(-1, keepdim=True)) / (g.std(-1, keepdim=True) + EPS),
}


class GRNVariant(nn.Module):
    """Global response normalisation with each of its three steps configurable.

    ``gamma · (x · N(G(x))) + beta + x``; as it is by default it is that of the paper, which a block
    computes faster with :func:`~convnextv2_mm.ops.gelu_grn_linear`.

    Args:
        channels: C.
        aggregation: G of a channel over space: ``l2`` or ``l1``, its norm, or ``average``.
        normalization: N, over the channels: ``mean``, G / mean(G), which its code computes;
            ``sum``, G / sum(G), which the paper writes, 1/C of that; ``inverse_sum``, 1 / sum(G);
            or ``standardize``, (G − mean(G)) / std(G).
        residual: Add ``x``.

    Raises:
        ValueError: If ``aggregation`` or ``normalization`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        aggregation: str = 'l2',
        normalization: str = 'mean',
        residual: bool = True,
    ) -> None:
        super().__init__()
        _check('GRN aggregation', aggregation, AGGREGATIONS)
        _check('GRN normalization', normalization, NORMALIZATIONS)
        self.aggregation = aggregation
        self.normalization = normalization
        self.residual = residual
        # With the residual, zeros make it the identity at first. Without, they would let nothing
        # through, and no layer before it would have a gradient. Ones pass x · N, which for the
        # paper's N is x on average over the channels.
        self.gamma = nn.Parameter(torch.full((channels,), 0.0 if residual else 1.0))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        response = AGGREGATIONS[self.aggregation](x, _visible_map(x, layout))
        response = NORMALIZATIONS[self.normalization](response)  # [N, 1, ..., 1, C]
        scale = self.gamma * response + (1 if self.residual else 0)
        return (x * scale + self.beta).to(x.dtype)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Each site divided by what its neighbouring channels hold.

    Args:
        channels: Not needed; it has no parameters.
        size: Channels that count, around each.
        **kwargs: As of ``torch.nn.LocalResponseNorm``.
    """

    def __init__(self, channels: int, size: int = 5, **kwargs) -> None:
        super().__init__(size, **kwargs)

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        sites = x.flatten(0, -2).unsqueeze(-1)  # [sites, C, 1]
        return super().forward(sites).view_as(x)


class BatchNorm(nn.BatchNorm1d):
    """Each channel normalised over the visible sites of the batch."""

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        masked = layout if x.ndim == 4 else None
        sites = x if masked is None else masked.pack(x)  # [..., C]
        sites = super().forward(sites.flatten(0, -2)).view(sites.shape)
        return sites if masked is None else masked.unpack(sites)


class LayerNorm(nn.LayerNorm):
    """Each site normalised over its channels."""

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        return super().forward(x)


class SqueezeExcitation(nn.Module):
    """Channels gated by the averages of all (arXiv 1709.01507).

    Args:
        channels: C.
        ratio: Of C to the width between the two layers that compute the gates.
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, max(1, channels // ratio))
        self.fc2 = nn.Linear(max(1, channels // ratio), channels)

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        average = _average(x, _visible_map(x, layout)).to(x.dtype)  # [N, 1, ..., 1, C]
        return x * self.fc2(self.fc1(average).relu()).sigmoid()


class CBAM(nn.Module):
    """Channels gated by their averages and maxima, then sites by what is around them (arXiv
    1807.06521).

    The official code adds a batch norm after the convolution of the gate of sites, which the paper
    does not have; here there is none, and samples stay apart.

    Args:
        channels: C.
        ratio: As of :class:`SqueezeExcitation`.
        kernel_size: Of the convolution, odd.
    """

    def __init__(self, channels: int, ratio: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, max(1, channels // ratio))
        self.fc2 = nn.Linear(max(1, channels // ratio), channels)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, layout: PatchLayout | None = None) -> Tensor:
        visible = _visible_map(x, layout)
        average = _average(x, visible).to(x.dtype)  # [N, 1, ..., 1, C]
        seen = x if visible is None else x.masked_fill(~visible, -torch.inf)
        maximum = seen.amax(tuple(range(1, x.ndim - 1)), keepdim=True)
        x = x * sum(self.fc2(self.fc1(y).relu()) for y in (average, maximum)).sigmoid()

        # A convolution of two channels into one is the sum of two depthwise ones, which have a form
        # for visible patches.
        summary = torch.stack([x.mean(-1), x.amax(-1)], -1)  # [..., 2]
        weight = self.conv.weight.transpose(0, 1)  # [2, 1, k, k]
        around = depthwise_conv(summary, weight, None, layout, 'torch').sum(-1, keepdim=True)
        bias = self.conv.bias
        return x * (around + bias).sigmoid()  # type: ignore[operator]


FEATURE_NORMS = dict(
    GRN=GRNVariant,
    LRN=LocalResponseNorm,
    BN=BatchNorm,
    LN=LayerNorm,
    SE=SqueezeExcitation,
    CBAM=CBAM,
)
PAPER_GRN = dict(type='GRN', aggregation='l2', normalization='mean', residual=True)


def is_paper_grn(config: Mapping | None) -> bool:
    """Whether a config says nothing but the defaults of GRN."""
    return isinstance(config, Mapping) and {**PAPER_GRN, **config} == PAPER_GRN


def build_feature_norm(config: Mapping, channels: int) -> nn.Module:
    """Build a layer for the hidden channels of a block.

    Args:
        config: ``dict(type=NAME, ...)`` with a name of ``FEATURE_NORMS``, GRN by default, and
            arguments of its class.
        channels: 4C.

    Raises:
        ValueError: If it is no such dict, or the type, or a choice of it, is unknown.
        TypeError: If the type does not take such an argument.
    """
    if not isinstance(config, Mapping):
        raise ValueError(
            f'feature_norm {config!r} is not allowed: give dict(type=...) with one of '
            f'{", ".join(FEATURE_NORMS)}'
        )
    arguments = dict(config)
    name = arguments.pop('type', 'GRN')
    _check('feature_norm type', name, FEATURE_NORMS)
    return FEATURE_NORMS[name](channels, **arguments)


def _check(what: str, value: str, allowed: Mapping) -> None:
    if value not in allowed:
        raise ValueError(f'{what} {value!r} is unknown: choose one of {", ".join(allowed)}')
