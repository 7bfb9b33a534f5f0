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
from types import ModuleType
from typing import Any

from mmengine.config import DictAction

from .utils.installation import tools_folder

TOOLS = {
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
    'reconstruct': 'analysis_tools/reconstruct.py',
    'mask-ratio': 'analysis_tools/mask_ratio.py',
    'feature-maps': 'analysis_tools/feature_maps.py',
    'feature-diversity': 'analysis_tools/feature_diversity.py',
    'class-selectivity': 'analysis_tools/class_selectivity.py',
    'compare-runs': 'analysis_tools/compare_runs.py',
    'layer-decay': 'analysis_tools/print_layer_decay.py',
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
        near = difflib.get_close_matches(command, TOOLS, n=1)
        hint = f'did you mean {near[0]}?' if near else f'choose one of {", ".join(TOOLS)}'
        print(f'error: convnextv2 has no command {command!r}: {hint}', file=sys.stderr)
        sys.exit(2)
    script = tools_folder() / TOOLS[command]
    sys.argv = [f'convnextv2 {command}', *arguments]
    sys.path.insert(0, str(script.parent))  # as when Python runs the script itself
    # Not runpy.run_path, which would put the file's name into the usage.
    module = sys.modules['__main__'] = ModuleType('__main__')
    module.__file__ = str(script)
    exec(compile(script.read_text(encoding='utf-8'), script, 'exec'), module.__dict__)


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
