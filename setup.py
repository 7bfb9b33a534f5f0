"""The part of the build that pyproject.toml cannot say."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithMIM(build_py):
    """Also puts what is not Python code of the package where MMEngine and MIM look for it.

    That is ``convnextv2_mm/.mim``, as in the packages of OpenMMLab: copies in a wheel, links to the
    working tree in an editable installation.
    """

    def run(self) -> None:
        super().run()
        is_editable = getattr(self, 'editable_mode', False)
        target = Path('.' if is_editable else self.build_lib, 'convnextv2_mm/.mim')
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if is_editable and os.name == 'posix':
                (target / name).symlink_to(Path('../..', name))
            elif Path(name).is_dir():
                ignore = shutil.ignore_patterns('__pycache__')
                shutil.copytree(name, target / name, ignore=ignore)
            elif Path(name).is_file():
                shutil.copy(name, target / name)


setup(cmdclass=dict(build_py=BuildWithMIM))
