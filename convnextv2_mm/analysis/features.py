"""Watch features inside a network while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers.block import ConvNeXtV2Block
from ..ops import global_response_norm

FEATURES = ('expansion', 'output')
"""``expansion``: the 4C channels that the second linear layer of a block takes, after GELU and, in
V2, GRN or what replaces it: the paper's "high-dimensional features" of Figures 3 and 4. ``output``:
the C channels at the end of the block, with the shortcut, as in Figure 7."""


def choose_blocks(
    backbone: nn.Module, names: Sequence[str] | None = None
) -> dict[str, ConvNeXtV2Block]:
    """Blocks by name, such as ``stages.2.5``; all of them, from first to last, without names.

    Raises:
        ValueError: If there is no such block.
    """
    blocks = {
        name: part for name, part in backbone.named_modules() if isinstance(part, ConvNeXtV2Block)
    }
    unknown = [name for name in names or () if name not in blocks]
    if unknown:
        raise ValueError(f'layer {unknown[0]} does not exist: choose from {", ".join(blocks)}')
    return {name: blocks[name] for name in names or blocks}


@contextmanager
def watch_features(
    blocks: Mapping[str, ConvNeXtV2Block],
    measure: Callable[[str, Tensor], None],
    kind: str = 'expansion',
) -> Iterator[None]:
    """Call ``measure(name, features)`` whenever one of the blocks runs.

    Features are ``(N, H, W, channels)``, or ``(N, K, s, s, channels)`` in a sparse encoder. Keep no
    reference to them where memory counts: then those of one block live at a time. In a block, GELU,
    GRN and the second linear layer are one operator, so ``expansion`` is computed a second time,
    from the output of the first linear layer.

    Args:
        blocks: As of :func:`choose_blocks`.
        measure: Takes the name of a block and its features.
        kind: One of ``FEATURES``.
    """
    handles = [
        (block if kind == 'output' else block.pointwise_conv1).register_forward_hook(
            _hook(name, block, measure, kind)
        )
        for name, block in blocks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(
    name: str, block: ConvNeXtV2Block, measure: Callable[[str, Tensor], None], kind: str
) -> Callable[[nn.Module, tuple, Tensor], None]:
    def hook(_: nn.Module, __: tuple, features: Tensor) -> None:
        if kind == 'expansion':
            features = F.gelu(features)
            if block.grn is not None:
                features = global_response_norm(features, block.grn.gamma, block.grn.beta)
            elif block.feature_norm is not None:
                features = block.feature_norm(features)
        measure(name, features)

    return hook
