"""Configs, tools and the model index are where MMEngine and MIM look, however it is installed."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from importlib_metadata import packages_distributions  # Python 3.10's knows fewer
from modelindex.load_model_index import load as load_model_index

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PARTS = ('configs', 'tools', 'model-index.yml')
CONFIG = 'pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py'

# In a process of its own, in a folder that is not ours.
RESOLVE = f"""
import sys
import convnextv2_mm
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.utils import get_installed_path

config = Config.fromfile('user.py')
assert config.model.mask_ratio == 0.5
assert config.model.type == 'convnextv2_mm.FCMAE'
assert config.model.backbone == dict(type='convnextv2_mm.SparseConvNeXtV2', arch='atto'), config
assert config.train_dataloader.batch_size == 512
assert get_config('convnextv2_mm::{CONFIG}').model.mask_ratio == 0.6
print(convnextv2_mm.__file__, get_installed_path('convnextv2_mm'))
"""


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The files of a fresh clone."""
    folder = tmp_path_factory.mktemp('source')
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('convnextv2_mm', 'configs', 'tools'):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    if (ROOT / 'model-index.yml').is_file():
        shutil.copy(ROOT / 'model-index.yml', folder)
    else:
        (folder / 'model-index.yml').write_text('Import: []\n')
    return folder


def run(*command: object, cwd: Path, path: str | Path = '') -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | {'PYTHONPATH': str(path), 'PYTHONDONTWRITEBYTECODE': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(root: Path) -> dict[str, bytes]:
    """Content of the files under the parts that are installed."""
    found = [path for part in PARTS for path in [root / part, *(root / part).rglob('*')]]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in found
        if path.is_file() and '__pycache__' not in path.parts
    }


def resolves(python_path: str | Path, package: Path, tmp_path: Path) -> None:
    """A user's config is read by a Python that finds the package on a path."""
    text = f"_base_ = 'convnextv2_mm::{CONFIG}'\nmodel = dict(mask_ratio=0.5)\n"
    (tmp_path / 'user.py').write_text(text)
    out = run(sys.executable, '-c', RESOLVE, cwd=tmp_path, path=python_path)
    assert out.split()[-2:] == [str(package / '__init__.py'), str(package)]


def build_py(source: Path, target: Path, is_editable: bool) -> None:
    """Run the build step of setup.py as setuptools does for a wheel or an editable one."""
    code = 'from setuptools import Distribution; import setuptools, runpy\n'
    code += 'captured = {}\n'
    code += 'setuptools.setup = lambda **kwargs: captured.update(kwargs)\n'
    code += "runpy.run_path('setup.py')\n"
    code += 'distribution = Distribution(captured); distribution.parse_config_files()\n'
    code += "command = captured['cmdclass']['build_py'](distribution)\n"
    code += f'command.build_lib, command.editable_mode = {str(target)!r}, {is_editable}\n'
    code += 'command.ensure_finalized(); command.run()'
    run(sys.executable, '-c', code, cwd=source)


@pytest.mark.long
def test_build_holds_what_is_not_python_code(source, tmp_path):
    run(sys.executable, 'setup.py', '-q', 'build', '--build-base', tmp_path / 'build', cwd=source)
    package = tmp_path / 'build/lib/convnextv2_mm'
    assert files(package / '.mim') == files(source)
    assert len(files(source)) > 20
    assert not any(path.is_symlink() for path in package.rglob('*'))
    assert not (source / 'convnextv2_mm/.mim').exists()
    resolves(tmp_path / 'build/lib', package, tmp_path)


def test_editable_build_links_to_the_working_tree(source, tmp_path):
    clone = tmp_path / 'clone'
    shutil.copytree(source, clone, ignore=shutil.ignore_patterns('*.egg-info', 'build'))
    build_py(clone, tmp_path / 'build', is_editable=True)
    build_py(clone, tmp_path / 'build', is_editable=True)  # a second time, over the first
    links = clone / 'convnextv2_mm/.mim'
    assert files(links) == files(clone) == files(source)
    new = clone / 'configs/pretrain/new.py'
    new.write_text('')
    assert (links / 'configs/pretrain/new.py').is_file()


def test_model_index_names_files_that_are_there(source):
    """What `mim search` and `mmengine.hub` read."""
    index = load_model_index(str(source / 'model-index.yml'))
    for model in index.models or []:
        assert (source / model.config).is_file(), model.name


def imported(path: Path) -> set[str]:
    """Names of the packages that a module imports at its top, itself and its folder left out."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    beside = {other.stem for other in path.parent.glob('*.py')}
    return {name.split('.')[0] for name in names} - beside - {'convnextv2_mm'}


def test_what_is_imported_is_declared(monkeypatch):
    """triton comes with torch where there is one, and is imported only there."""
    monkeypatch.chdir(ROOT)
    project = tomllib.loads(Path('pyproject.toml').read_text(encoding='utf-8'))['project']
    required = sum(project['optional-dependencies'].values(), project['dependencies'])
    declared = {re.match(r'[\w-]+', requirement)[0] for requirement in required}

    paths = [path for name in ('convnextv2_mm', 'tools') for path in Path(name).rglob('*.py')]
    names = set().union(*map(imported, paths)) - sys.stdlib_module_names - {'triton'}
    providers = packages_distributions()
    missing = {name for name in names if not declared & set(providers.get(name, ()))}
    assert not missing


@pytest.mark.slow
def test_wheel_and_editable_installation(source, tmp_path):
    """With pip, which fetches setuptools; in folders instead of this environment."""
    pip = [sys.executable, '-m', 'pip']
    options = ['-q', '--no-deps', '--disable-pip-version-check']
    run(*pip, 'wheel', *options, '-w', tmp_path, source, cwd=tmp_path)
    wheel = next(tmp_path.glob('*.whl'))
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'convnextv2_mm/.mim/{name}' for name in files(source)} <= set(names)
    run(*pip, 'install', *options, '--target', tmp_path / 'site', wheel, cwd=tmp_path)
    resolves(tmp_path / 'site', tmp_path / 'site/convnextv2_mm', tmp_path)

    run(*pip, 'install', *options, '--target', tmp_path / 'links', '-e', source, cwd=tmp_path)
    path = f'{tmp_path / "links"}:{source}'  # a .pth file works in site-packages only
    resolves(path, source / 'convnextv2_mm', tmp_path)


@pytest.mark.slow
def test_tools_of_others_read_the_configs_once_ours_is_imported(source, tmp_path):
    run(sys.executable, 'setup.py', '-q', 'build', '--build-base', tmp_path / 'build', cwd=source)
    (tmp_path / 'user.py').write_text(f"_base_ = 'convnextv2_mm::{CONFIG}'\n")
    mmpretrain = Path(importlib.util.find_spec('mmpretrain').origin).parent
    script = mmpretrain / '.mim/tools/misc/print_config.py'
    code = 'import convnextv2_mm, runpy, sys; del sys.argv[0]; '
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, '-c', code, script, 'user.py']
    assert 'SparseConvNeXtV2' in run(*command, cwd=tmp_path, path=tmp_path / 'build/lib')
