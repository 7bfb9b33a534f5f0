"""Run a tool of MMDetection, MMSegmentation or MMPreTrain, as ``mim run`` does.

convnextv2 openmmlab mmdet confusion_matrix CONFIG RESULTS OUT, for example. Unlike there, configs
may name what this package registers, and mmcv needs no compiled operators. NAME --help tells the
tool's own arguments.
"""

import argparse
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from convnextv2_mm.cli import name_nearest
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.patches.loading_pipelines import recognise_loaders

LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def find_tools(library: str) -> dict[str, Path]:
    """The tools that an installed library brings, by name."""
    spec = find_spec(library)
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / '.mim' / 'tools'
    found = sorted(folder.rglob('*.py'), key=lambda path: -len(path.parts))  # the outermost last
    return {path.stem: path for path in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('library', choices=LIBRARIES)
    parser.add_argument('name', help='of the tool, without .py')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='of the tool')
    args = parser.parse_args()
    tools = find_tools(args.library)
    with exit_on_user_error():
        if args.name not in tools:
            hint = name_nearest(args.name, tools)
            raise ValueError(f'{args.library} has no tool {args.name!r}: {hint}')
    if args.library == 'mmdet':
        recognise_loaders()
    script = str(tools[args.name])
    sys.argv = [script, *args.arguments]
    sys.path.insert(0, str(Path(script).parent))  # as when Python runs the script itself
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main()
