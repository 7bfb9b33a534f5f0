"""Commands, paths and links on the pages for users are those of things that exist."""

import argparse
import importlib.util
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from convnextv2_mm.cli import TOOLS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('configs/**/*.md')])
COMMAND = re.compile(r'(?:python |bash )?(tools/[\w/]+\.(?:py|sh)|convnextv2 [\w-]+)\b(.*)')
# Where a launcher has the arguments of the tool that it starts
LAUNCHERS = {
    'tools/dist_train.sh': ('tools/train.py', [0], 2),
    'tools/dist_test.sh': ('tools/test.py', [0, 1], 3),
    'tools/slurm_train.sh': ('tools/train.py', [2], 3),
}


def commands(text: str) -> list[str]:
    """Commands in code blocks, and in code within the text if they have arguments."""
    blocks = re.findall(r'^```(?:bash|sh|shell|console)\n(.*?)^```', text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace('\\\n', ' ').splitlines()]
    prose = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    lines += re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose)
    found = []
    for line in lines:
        match = COMMAND.match(re.sub(r'\s+#\s.*', '', line.strip()).removeprefix('$ '))
        if match and match[2].strip():
            tool = match[1]
            if tool.startswith('convnextv2 '):
                tool = f'tools/{TOOLS[tool.split()[1]]}'
            found.append(' '.join([tool, *match[2].split()]))
    return found


ALL = [
    pytest.param(command, id=f'{page.relative_to(ROOT)}: {command}')
    for page in PAGES
    for command in dict.fromkeys(commands(page.read_text()))
]


@cache
def load_tool(path: str):
    spec = importlib.util.spec_from_file_location(f'docs_{Path(path).stem}', ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def load_config(path: str) -> ConfigDict:
    return Config.fromfile(ROOT / path)._cfg_dict


class ParsedError(Exception):
    """Stops a tool once it has understood its arguments."""


def parse(tool: str, arguments: list[str], monkeypatch) -> argparse.Namespace:
    """Have a tool read its arguments, and go no further."""
    real = argparse.ArgumentParser.parse_args

    def stop(parser, *args):
        raise ParsedError(real(parser, *args))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    monkeypatch.syspath_prepend(str((ROOT / tool).parent))  # for what it shares with others there
    with pytest.raises(ParsedError) as parsed:
        load_tool(tool).main()
    return parsed.value.args[0]


def has(config: ConfigDict, key: str) -> bool:
    for name in key.split('.'):
        if isinstance(config, list | tuple) and name.isdigit() and int(name) < len(config):
            config = config[int(name)]
        elif isinstance(config, dict) and name in config:
            config = config[name]
        else:
            return False
    return True


def check(command: str, monkeypatch) -> None:
    """See that a tool takes the arguments, and that its config has what they change."""
    command = re.sub(r'\[(--[^\]]*)\]', r'\1', command)  # optional
    command = re.sub(r'\b[HWN]\b', '224', command)  # stand for numbers
    tool, *arguments = shlex.split(re.sub(r'\.\.\.|…', '', command))
    if tool in LAUNCHERS:
        tool, kept, rest = LAUNCHERS[tool]
        assert len(arguments) >= rest, f'{command}: {rest} arguments are needed'
        arguments = [arguments[i] for i in kept] + arguments[rest:]
    parsed = parse(tool, arguments, monkeypatch)
    config = getattr(parsed, 'config', '')
    if config.startswith('configs/'):
        for key in getattr(parsed, 'cfg_options', None) or {}:
            part = '.'.join(key.split('.')[:2])  # below it, a key may have been left at its default
            assert has(load_config(config), part), f'{config} has no {part}'


def alternatives(command: str) -> list[str]:
    """``tools/x.py a\\|b`` is two commands."""
    for word in command.split():
        if '|' in word:
            choices = word.replace('\\', '').split('|')
            return [command.replace(word, choice) for choice in choices]
    return [command]


@pytest.mark.parametrize('command', ALL)
def test_command_is_understood(command, monkeypatch):
    for choice in alternatives(command):
        check(choice, monkeypatch)


@pytest.mark.parametrize(
    'command',
    [
        'tools/infer.py CONFIG CHECKPOINT IMAGES...',
        'tools/train.py CONFIG --wokr-dir x',
        'tools/browse_dataset.py CONFIG --mode originl',
        'benchmarks/speed.py pretrian',
    ],
)
def test_wrong_commands_are_found(command, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        check(command, monkeypatch)


def test_wrong_options_of_a_config_are_found(monkeypatch):
    command = 'tools/train.py configs/demo/fcmae_convnextv2-a_shapes.py --cfg-options model.mask=1'
    with pytest.raises(AssertionError, match='has no model.mask'):
        check(command, monkeypatch)


def test_commands_are_found_where_pages_have_them():
    text = (
        'Run `tools/train.py CONFIG`, see `examples/demo.py`.\n```bash\n# a comment\n'
        'bash tools/dist_train.sh \\\n    CONFIG 8    # on 8 GPUs\n```\n```python\ntools = 1\n```\n'
    )
    assert commands(text) == ['tools/dist_train.sh CONFIG 8', 'tools/train.py CONFIG']
    assert len(ALL) > 40


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    named = set(re.findall(r'(?<![\w/])((?:configs|tools)/[\w./-]+\.(?:py|sh|md))', text))
    for path in named:
        assert (ROOT / path).is_file(), f'{page.name} names {path}'
    for link in re.findall(r'\]\((?!\w+:|#)([^)\s#]+)', text):
        assert (page.parent / link).exists(), f'{page.name} links {link}'


def test_pictures_are_small_and_used():
    pictures = sorted((ROOT / 'docs/pictures').iterdir())
    assert sum(picture.stat().st_size for picture in pictures) < 1_000_000
    pages = ''.join(page.read_text() for page in PAGES)
    for picture in pictures:
        assert f'pictures/{picture.name}' in pages
