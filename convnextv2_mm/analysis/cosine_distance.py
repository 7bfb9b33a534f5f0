"""How different the channels of a feature map are (paper, section 3.2 and Figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_distance(features: Tensor) -> Tensor:
    """Mean of ``(1 − cos(X_i, X_j)) / 2`` over all C² pairs of channels, for each sample.

    ``X_i`` is the map of channel i as one vector. As in the paper's ``1/C² Σ_i Σ_j``, the pairs of
    a channel with itself count. 0: all channels are alike; (1 − 1/C)/2: they are orthogonal; ½, the
    most there can be: they cancel.

    The pairs are never made. With ``u_i = X_i / ||X_i||`` the cosines of all of them add up to
    ``||Σ_i u_i||²``, so the memory is that of one copy of the features, O(C·H·W).

    The paper does not say what the cosine of a dead channel is, zero at all sites. Here two dead
    channels are alike (1), and a dead one is orthogonal to all others (0): a map of dead channels
    has the distance 0, where PyTorch's ``cosine_similarity``, 0 also between two of them, would
    make it look diverse.

    Args:
        features: ``(N, ..., C)``: dense ``(N, H, W, C)``, or packed ``(N, K, s, s, C)``. Half
            precision is computed in float32.

    Returns:
        ``(N,)``, between 0 and ½.
    """
    x = features.flatten(1, -2)  # [N, L, C]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    # Scaled to 1 at its peak, the squares of a channel neither overflow nor vanish.
    peak = torch.linalg.vector_norm(x, ord=torch.inf, dim=1, keepdim=True)  # [N, 1, C]
    is_dead = peak < torch.finfo(x.dtype).tiny
    x = (x / peak).masked_fill_(is_dead, 0)
    x /= torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=1)
    cosines = x.sum(-1).square().sum(1) + is_dead.sum((1, 2)).square()  # [N], over all pairs
    return ((1 - cosines / x.shape[-1] ** 2) / 2).clamp_(min=0)
