"""How far GRN has moved from the identity that it starts as."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def grn_norms(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """L2 norms of gamma and beta of each GRN layer (paper, section 3.2: both start at 0).

    Args:
        state_dict: Weights of a backbone or a whole model.

    Returns:
        For the name of each block with GRN, the norms of its gamma and of its beta.
    """
    end = '.grn.gamma'
    blocks = [name.removesuffix(end) for name in state_dict if name.endswith(end)]
    return {
        block: tuple(
            state_dict[f'{block}.grn.{part}'].float().norm().item() for part in ('gamma', 'beta')
        )
        for block in blocks
    }
