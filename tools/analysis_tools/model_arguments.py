"""Models and images on the command line of the tools beside this file."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convnextv2_mm.analysis import FEATURES
from convnextv2_mm.apis.inference import build_model, image_reader, load_backbone
from convnextv2_mm.cli import add_cfg_options, device_name
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.errors import USER_ERRORS, exit_on_user_error
from convnextv2_mm.models import FCMAE, ConvNeXtV2
from convnextv2_mm.visualization.figures import check_figure_path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor


@dataclass
class Model:
    """A backbone, and what turns an image file into its input ``(1, 3, H, W)``."""

    name: str
    config: str
    checkpoint: str
    backbone: ConvNeXtV2
    read: Callable[[str], Tensor]

    def describe(self) -> dict:
        """Where it comes from, for the numbers."""
        return dict(name=self.name, config=self.config, checkpoint=self.checkpoint)


@contextmanager
def errors_of(image: str) -> Iterator[None]:
    """End the program with one sentence if an image cannot be read or does not fit the model."""
    with exit_on_user_error():
        try:
            yield
        except USER_ERRORS as error:
            print(flush=True)  # the progress bar is in this line
            raise ValueError(f'{image}: {error}') from error


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """One model and its images, as in ``tools/infer.py``, and where the figure goes."""
    parser.add_argument('config', help='config file, of any task')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', nargs='+', help='image files, or folders of them')
    add_output_arguments(parser)
    parser.add_argument('--num-images', type=int, help='take so many of them at random')
    parser.add_argument(
        '--device', type=device_name, default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    add_cfg_options(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the figure goes."""
    parser.add_argument(
        '--out', required=True, help='figure, .png or .svg; its numbers go beside it, as .json'
    )


def add_several_models(parser: argparse.ArgumentParser, features: str) -> None:
    """More models to compare with the first, and which of their features."""
    parser.add_argument(
        '--versus',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='another model, again for each',
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='of the models, for the legend')
    parser.add_argument('--layers', nargs='+', metavar='BLOCK', help='such as stages.2.5')
    parser.add_argument(
        '--features',
        choices=FEATURES,
        default=features,
        help='expansion: the 4C channels after GELU and GRN; output: of the block (%(default)s)',
    )


def load_fcmae(args: argparse.Namespace) -> tuple[FCMAE, Config, Callable[[str], BaseDataElement]]:
    """FCMAE with its config, and what reconstructs an image file, see :meth:`FCMAE.predict`.

    Raises:
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If they do not fit each other, or are not of FCMAE.
    """
    args.out = check_figure_path(args.out)
    config = read_config(args.config, args.cfg_options)
    kind = MODELS.get(config.model.type)
    if not isinstance(kind, type) or not issubclass(kind, FCMAE):
        raise ValueError(f'config {args.config} is of {config.model.type}, it must be of FCMAE')
    read = image_reader(config)
    model = build_model(config, args.checkpoint, args.device)

    @torch.no_grad()
    def reconstruct(image: str) -> BaseDataElement:
        with errors_of(image):
            return model.test_step(read(image))[0]

    return model, config, reconstruct


def load_models(args: argparse.Namespace) -> list[Model]:
    """The backbones of all models of a command line, with its ``--out`` checked first.

    Raises:
        FileNotFoundError: If a config or a checkpoint does not exist.
        ValueError: If they do not fit each other, or names are missing or not unique.
    """
    args.out = check_figure_path(args.out)
    pairs = [(args.config, args.checkpoint), *map(tuple, args.versus)]
    names = args.names or ['/'.join(Path(path).with_suffix('').parts[-2:]) for _, path in pairs]
    if len(names) != len(pairs) or len(set(names)) < len(names):
        raise ValueError(f'{len(pairs)} models need --names as many and different, got {names}')
    models = []
    for name, (path, checkpoint) in zip(names, pairs, strict=True):
        config = read_config(path, args.cfg_options)
        backbone = load_backbone(config, checkpoint, args.device)
        read, preprocessor = image_reader(config), MODELS.build(config.model.data_preprocessor)
        preprocessor.to(args.device)

        def prepare(image: str, read=read, preprocessor=preprocessor) -> Tensor:
            with errors_of(image):
                return preprocessor(read(image), False)['inputs']

        models.append(Model(name, path, checkpoint, backbone, prepare))
    return models
