"""The command ``convnextv2``, and arguments that its tools share.

``convnextv2 train ARGUMENTS`` is ``python tools/train.py ARGUMENTS``: the tools are installed with
the package, and their arguments are written down in one place.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any

from mmengine.config import DictAction

from .utils.installation import tools_folder

TOOLS = {
    'pretrain': 'own/pretrain.py',
    'classify': 'own/classify.py',
    'detect': 'own/detect.py',
    'segment': 'own/segment.py',
    'train': 'train.py',
    'test': 'test.py',
    'infer': 'infer.py',
    'convert': 'convert_checkpoint.py',
    'export': 'export_onnx.py',
    'check': 'check_dataset.py',
    'browse': 'browse_dataset.py',
    'sweep': 'sweep.py',
    'flops': 'get_flops.py',
    'knn': 'knn.py',
    'errors': 'analysis_tools/analyse_errors.py',
    'features': 'features.py',
    'reconstruct': 'analysis_tools/reconstruct.py',
    'mask-ratio': 'analysis_tools/mask_ratio.py',
    'feature-maps': 'analysis_tools/feature_maps.py',
    'feature-diversity': 'analysis_tools/feature_diversity.py',
    'class-selectivity': 'analysis_tools/class_selectivity.py',
    'compare-runs': 'analysis_tools/compare_runs.py',
    'layer-decay': 'analysis_tools/print_layer_decay.py',
    'doctor': 'doctor.py',
    'openmmlab': 'openmmlab.py',
    'shapes': 'dataset_converters/make_shapes.py',
}
"""Commands, and their scripts in ``tools/``."""


def main() -> None:
    """Run the tool named by the first argument with the remaining arguments."""
    command, *arguments = sys.argv[1:] or ['--help']
    if command in ('-h', '--help'):
        print(describe())
        return
    if command not in TOOLS:
        hint = name_nearest(command, TOOLS)
        print(f'error: convnextv2 has no command {command!r}: {hint}', file=sys.stderr)
        sys.exit(2)
    script = tools_folder() / TOOLS[command]
    sys.argv = [f'convnextv2 {command}', *arguments]
    sys.path.insert(0, str(script.parent))  # as when Python runs the script itself
    # Not runpy.run_path, which would put the file's name into the usage.
    module = sys.modules['__main__'] = ModuleType('__main__')
    module.__file__ = str(script)
    exec(compile(script.read_text(encoding='utf-8'), script, 'exec'), module.__dict__)


def name_nearest(name: str, known: Collection[str]) -> str:
    """What to say of a name that is not known."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'did you mean {near[0]}?' if near else f'choose one of {", ".join(known)}'


def describe() -> str:
    """List the commands, each with the first sentence of its script."""
    lines = ['usage: convnextv2 COMMAND ARGUMENTS; convnextv2 COMMAND --help tells them', '']
    for command, script in TOOLS.items():
        text = (tools_folder() / script).read_text(encoding='utf-8')
        summary, *_ = (ast.get_docstring(ast.parse(text)) or '').split('\n\n')
        lines.append(f'  {command:18}{" ".join(summary.split())}')
    return '\n'.join(lines)


class _OptionsAction(DictAction):
    """MMEngine's ``--cfg-options`` action; anything but ``KEY=VALUE`` is a one-sentence error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.error(f'{option_string} {value} is not allowed: it must be KEY=VALUE')


class ValuesAction(DictAction):
    """MMEngine's ``--cfg-options`` action for lists of values, with one-sentence errors."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError, RecursionError):
            parser.error(
                f'{option_string} {" ".join(values)} is not allowed: it must be KEY=V1,V2, or '
                f'KEY=[[1,2],[3,4]] for values that are lists'
            )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...`` to a tool."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionsAction,
        metavar='KEY=VALUE',
        help='change the config',
    )


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: str) -> None:
    """Add the arguments that training and testing share.

    Args:
        parser: Of the tool.
        work_dir: What the work dir is for.
    """
    parser.add_argument('--work-dir', help=work_dir)
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # Launchers of long ago pass it; today it is in the environment.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        action=_LocalRankAction,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of :func:`run_training` that testing does not share."""
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        metavar='PATH',
        help='go on from a checkpoint, or from the newest whole one in the work dir, if any',
    )
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 mixed precision')
    parser.add_argument('--compile', action='store_true', help='compile the network')
    parser.add_argument('--tensorboard', action='store_true', help='log to TensorBoard too')


class _LocalRankAction(argparse.Action):
    """Puts the rank into the environment, where MMEngine looks for it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))


OWN_CLASSES = (
    'names of the classes in the order of their labels, or a text file with one in each line'
)
_RUN_OPTIONS = ('resume', 'amp', 'compile', 'tensorboard', 'work_dir', 'cfg_options', 'launcher')


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that the commands for a user's own data share."""
    parser.add_argument('--channels', type=int, help='of the images')
    parser.add_argument('--size', type=int, help='of the images that the network sees, in pixels')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--batch', type=int, help='images in a step, on each GPU')
    parser.add_argument('--arch', help='size of the network: atto, femto, pico, nano, tiny, ...')
    parser.add_argument('--init', help='file, convnextv2://NAME, or none for random weights')
    parser.add_argument('--val-fraction', type=float, help='share of the images to validate on')
    parser.add_argument('--seed', type=int, help='of the split')
    add_training_arguments(parser)
    add_run_arguments(parser, 'folder for logs and checkpoints')


def run_own(task: str, options: dict[str, Any]) -> None:
    """Train on a user's own data.

    Args:
        task: As for :func:`~convnextv2_mm.apis.own_data.choose_recipe`.
        options: The arguments of the command; those that were not given are None.
    """
    from .apis.own_data import choose_recipe
    from .errors import exit_on_user_error

    run = {key: options.pop(key) for key in _RUN_OPTIONS}
    classes = options.get('classes') or []
    if len(classes) == 1 and os.path.isfile(classes[0]):
        options['classes'] = classes[0]
    with exit_on_user_error():
        config, own = choose_recipe(task, **options)
    run_training(config, run | dict(cfg_options=own | (run['cfg_options'] or {})))


def run_training(config: str, options: dict[str, Any]) -> None:
    """Train as a command: mistakes end it with a sentence, and signals after a checkpoint.

    Args:
        config: File, or ``convnextv2_mm::FOLDER/NAME.py``.
        options: Of :func:`~convnextv2_mm.apis.train.build_runner`.
    """
    from .apis.train import build_runner
    from .engine.runner.resume import exit_on_stopped_run
    from .engine.runner.work_dir import ignore_broken_pipe
    from .errors import BadData, exit_on_user_error
    from .utils.distributed import destroying_process_group

    with ignore_broken_pipe():
        with exit_on_user_error():
            runner = build_runner(config, **options)
        stops = exit_on_stopped_run(runner.work_dir)
        with exit_on_user_error((BadData,)), stops, destroying_process_group():
            runner.train()


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` to a tool; the default is the GPU, if there is one."""
    import torch

    parser.add_argument(
        '--device', type=device_name, default='cuda' if torch.cuda.is_available() else 'cpu'
    )


def device_name(text: str) -> str:
    """Type of ``--device``: one that PyTorch can put a tensor on."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split('. ')[0].splitlines()[0]
        raise argparse.ArgumentTypeError(f'{text!r} cannot be used: {reason}') from error
    return text
