"""The tools in the process of a test, which has imported everything already."""

import runpy
import sys
from pathlib import Path
from unittest import mock

from mmengine.visualization import Visualizer

TOOLS = Path(__file__).parents[1] / 'tools'


def forget_visualizers() -> None:
    """Forget those of former runs.

    Runs that start in the same second share a visualizer, which writes where the first one did.
    """
    kinds = [Visualizer]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind._instance_dict.clear()


def run_tool(name: str, *arguments: object) -> None:
    """Run ``python tools/NAME.py ARGUMENTS`` in this process, as if it were a new one."""
    forget_visualizers()
    path = TOOLS / f'{name}.py'
    with (
        mock.patch.object(sys, 'argv', [path.name, *map(str, arguments)]),
        mock.patch.object(sys, 'path', [str(path.parent), *sys.path]),
    ):
        runpy.run_path(str(path), run_name='__main__')
