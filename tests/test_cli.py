"""The command ``convnextv2``, and what argparse says of arguments that cannot be used."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from convnextv2_mm.cli import TOOLS, add_cfg_options, device_name, main


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--device', type=device_name)
    add_cfg_options(parser)
    return parser.parse_args(arguments)


def test_options_are_read_as_mmengine_does():
    found = parse('--cfg-options', 'a.b=1', 'c=[(1,2),x]', 'd==', '--device', 'cpu').cfg_options
    assert found == {'a.b': 1, 'c': [(1, 2), 'x'], 'd': '='}
    assert parse().cfg_options is None


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--cfg-options', 'a=1', 'picture.jpg'], '--cfg-options picture.jpg is not allowed'),
        (['--cfg-options', 'a=[(1,2]'], '--cfg-options a=[(1,2] is not allowed'),
        (['--device', 'cudda'], "'cudda' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    words = [sys.executable, '-m', 'convnextv2_mm', *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


@pytest.mark.long
def test_trains_one_of_our_configs_from_any_folder(tmp_path):
    options = ['train_cfg.max_epochs=1', 'val_cfg=None', 'val_dataloader=None']
    options += ['val_evaluator=None', 'train_dataloader.dataset.make.num_train=4']
    options += ['train_dataloader.dataset.make.num_val=2', 'train_dataloader.batch_size=2']
    options += ['train_dataloader.dataset.make.size=64', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False', 'custom_hooks=[]']
    options += ['train_dataloader.dataset.pipeline.1.scale=64']
    config = 'convnextv2_mm::demo/fcmae_convnextv2-a_shapes.py'
    ended = command('train', config, '--cfg-options', *options, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / 'work_dirs/fcmae_convnextv2-a_shapes/epoch_1.pth').is_file()
    saved = 'work_dirs/fcmae_convnextv2-a_shapes/fcmae_convnextv2-a_shapes.py'
    looked = command('browse', saved, '--number', '1', '--out', 'pictures', folder=tmp_path)
    assert looked.returncode == 0, looked.stderr[-3000:]
    assert 'OneDL' not in ended.stdout + looked.stdout  # what OpenMMLab prints on import


def test_commands_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['convnextv2'])
    main()
    listed = capsys.readouterr().out
    assert all(f'  {name} ' in listed for name in TOOLS)
    folder = Path(__file__).parents[1] / 'tools'
    scripts = {str(path.relative_to(folder)) for path in folder.rglob('*.py')}
    assert scripts - set(TOOLS.values()) == {'analysis_tools/arguments.py'}


def test_a_typo_names_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['convnextv2', 'trian'])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: convnextv2 has no command 'trian': did you mean train?\n"


def test_usage_is_that_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['convnextv2', 'convert', '--help'])
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith('usage: convnextv2 convert ')
