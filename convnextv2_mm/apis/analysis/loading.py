"""Models to look into, and images for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...analysis import choose_blocks
from ...engine.config.reading import read_config
from ...errors import USER_ERRORS, BadData
from ...models import FCMAE, ConvNeXtV2
from ..inference import build_model, build_preprocessor, image_reader, load_backbone


class NamedBackbone(NamedTuple):
    """A backbone to compare with others, and what turns an image file into its input.

    Attributes:
        name: In figures.
        config: File.
        checkpoint: File or URL.
        backbone: The dense network.
        read: Gives ``(1, 3, H, W)``.
    """

    name: str
    config: str | Path | Config
    checkpoint: str
    backbone: ConvNeXtV2
    read: Callable[[str], Tensor]

    def describe(self) -> dict:
        """Where it comes from."""
        return dict(name=self.name, config=self.config, checkpoint=self.checkpoint)


@contextmanager
def naming(image: str) -> Iterator[None]:
    """Say which image cannot be read or does not fit the model.

    Raises:
        BadData: If one does not.
    """
    try:
        yield
    except USER_ERRORS as error:
        print(flush=True)  # the progress bar is in this line
        raise BadData(f'{image}: {error}') from error


def load_fcmae(
    config: str | Path | Config, checkpoint: str, device: str, cfg_options: dict | None
) -> tuple[FCMAE, Config, Callable[[str], BaseDataElement]]:
    """FCMAE with its config, and what reconstructs an image file: see :meth:`FCMAE.predict`.

    Raises:
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If they do not fit each other, or are not of FCMAE.
    """
    name, config = config, read_config(config, cfg_options)
    kind = MODELS.get(config.model.type)
    if not isinstance(kind, type) or not issubclass(kind, FCMAE):
        raise ValueError(f'config {name} is of {config.model.type}, it must be of FCMAE')
    read = image_reader(config)
    model: Any = build_model(config, checkpoint, device)

    @torch.no_grad()
    def reconstruct(image: str) -> BaseDataElement:
        with naming(image):
            return model.test_step(read(image))[0]

    return model, config, reconstruct


def load_backbones(
    pairs: Sequence[tuple[str | Path | Config, str]],
    names: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    device: str = 'cpu',
    cfg_options: dict | None = None,
) -> list[NamedBackbone]:
    """Load the backbones of several models.

    Args:
        pairs: Config and checkpoint of each, of any task.
        names: Of the models; by default the last two parts of the checkpoint's path.
        layers: Blocks that all of them must have.
        device: Where to put them.
        cfg_options: Changes of all configs.

    Raises:
        FileNotFoundError: If a config or a checkpoint does not exist.
        ValueError: If they do not fit each other, names are missing or not unique, or there is no
            such block.
    """
    names = names or ['/'.join(Path(path).with_suffix('').parts[-2:]) for _, path in pairs]
    if len(names) != len(pairs) or len(set(names)) < len(names):
        raise ValueError(f'{len(pairs)} models need --names as many and different, got {names}')
    models = []
    for name, (path, checkpoint) in zip(names, pairs, strict=True):
        config = read_config(path, cfg_options)
        backbone = load_backbone(config, checkpoint, device)
        choose_blocks(backbone, layers)
        read, preprocessor = image_reader(config), build_preprocessor(config, device)

        def prepare(image: str, read=read, preprocessor=preprocessor) -> Tensor:
            with naming(image):
                return preprocessor(read(image), False)['inputs']

        models.append(NamedBackbone(name, path, checkpoint, backbone, prepare))
    return models
