"""What argparse says of arguments that cannot be used."""

import argparse

import pytest

from convnextv2_mm.cli import add_cfg_options, device_name


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
