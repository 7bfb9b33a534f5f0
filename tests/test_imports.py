"""What imports what, and what importing the package changes."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import convnextv2_mm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'convnextv2_mm'
# From the top down. A file imports from its own floor and those below; '' is the package itself.
FLOORS = [
    ['__main__', 'cli'],
    ['apis'],
    ['patches'],
    ['engine', 'evaluation', 'visualization', 'datasets'],
    ['checkpoints', 'analysis', 'models'],
    ['ops'],
    ['errors', 'utils', 'registry', 'version'],
]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(p): p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts}


def imports(name: str) -> set[str]:
    """The modules of the package that a file imports, inside of functions too."""
    path = MODULES[name]
    package = name.split('.') if path.name == '__init__.py' and name else name.split('.')[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        start = package[: len(package) - node.level + 1]
        target = '.'.join([*start, *(node.module.split('.') if node.module else [])])
        for alias in node.names:
            inner = f'{target}.{alias.name}'.strip('.')
            found.add(inner if inner in MODULES else target)
    return found - {name}


def floor_of(name: str) -> int:
    top = name.split('.')[0]
    return next(i for i, floor in enumerate(FLOORS) if top in floor)


def test_all_files_import_within_the_package_relatively():
    """So that ``imports`` sees every import."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith('convnextv2_mm') for a in node.names), path
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert not node.module.startswith('convnextv2_mm'), path


def test_no_import_points_up():
    up = [
        f'{name} imports {target}'
        for name in MODULES
        for target in imports(name)
        if name and target and floor_of(target) < floor_of(name)
    ]
    assert up == []


def test_no_two_files_import_each_other():
    edges = {name: imports(name) for name in MODULES if name}  # the package imports when asked
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, ' -> '.join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            visit(target, [*path, name])
        done.add(name)

    for name in edges:
        visit(name, [])


SNAPSHOT = """
import json, sys
from importlib import import_module
import mmengine.runner, mmengine.model, mmcv.cnn, mmdet, torch
from mmengine import registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.runner.checkpoint import CheckpointLoader

def state():
    found = {f'packages {k}': v for k, v in MODULE2PACKAGE.items()}
    found |= {f'scheme {k}': id(v) for k, v in CheckpointLoader._schemes.items()}
    found |= {f'finder {i}': type(f).__name__ for i, f in enumerate(reversed(sys.meta_path))}
    for name, value in vars(registry).items():
        if isinstance(value, registry.Registry):
            found |= {f'{name} {k}': id(v) for k, v in value._module_dict.items()}
            found |= {f'{name} child {k}': id(v) for k, v in value._children.items()}
    for module in [m for m in sys.modules if m.split('.')[0] in ('mmengine', 'mmcv', 'mmdet')]:
        for key, value in vars(sys.modules[module]).items():
            if callable(value):
                found[f'{module}:{key}'] = id(value)
            for method, function in vars(value).items() if isinstance(value, type) else ():
                found[f'{module}:{key}.{method}'] = id(function)
    return found

before = state()
import convnextv2_mm
after = state()
print(json.dumps(sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))))
"""


@pytest.mark.long
def test_importing_changes_only_this():
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SNAPSHOT], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    changed = json.loads(run.stdout.splitlines()[-1])
    children = [
        'DATASETS', 'FUNCTIONS', 'HOOKS', 'LOOPS', 'METRICS', 'MODELS',
        'OPTIM_WRAPPER_CONSTRUCTORS', 'STRATEGIES', 'TASK_UTILS', 'TRANSFORMS',
        'WEIGHT_INITIALIZERS',
    ]  # fmt: skip
    expected = [f'{name} child convnextv2_mm' for name in children]
    expected += ['packages convnextv2_mm', 'packages mmseg', 'scheme convnextv2://']
    expected += [name for name in changed if name.startswith('finder ')]  # of mmcv._ext
    # The dictionary of the schemes, in each module that has it, is put in order anew.
    expected += [name for name in changed if name.endswith('CheckpointLoader._schemes')]
    assert changed == sorted(expected)


HEAVY = ('torch', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'matplotlib')


def test_importing_brings_nothing_heavy():
    code = f'import convnextv2_mm, sys; print([m for m in {HEAVY} if m in sys.modules])'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == '[]', run.stderr


@pytest.mark.parametrize('name', [n for n in convnextv2_mm.__all__ if n != '__version__'])
def test_public_names(name):
    """Each is there, says what it is, and stands in the docs."""
    value = getattr(convnextv2_mm, name)
    assert name in dir(convnextv2_mm)
    if callable(value):
        assert value.__doc__
    assert f'{name}\n' in (ROOT / 'docs/api.md').read_text(encoding='utf-8')


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        convnextv2_mm.nothing  # noqa: B018


def test_public_names_are_those_that_a_type_checker_sees():
    homes = convnextv2_mm._HOME
    assert sorted([*homes, '__version__']) == sorted(convnextv2_mm.__all__)
    for name, home in homes.items():
        assert hasattr(import_module(f'convnextv2_mm.{home}'), name)
