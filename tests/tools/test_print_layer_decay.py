"""The printed learning rates of Atto and Base against the official rule, written out."""

from pathlib import Path

import pytest
from run_tool import run_tool

ROOT = Path(__file__).parents[2]
# Powers of the decay, from the input to the classifier, by optim_factory.py of the official code:
# the blocks of Atto are 12 layers, those of Base 12 groups of three.
ATTO = {
    **{'downsample_layers.0': 12, 'stages.0.0': 12, 'stages.0.1': 11},
    **{'downsample_layers.1': 10, 'stages.1.0': 10, 'stages.1.1': 9},
    **{'downsample_layers.2': 8, 'stages.2.0': 8, 'stages.2.1': 7, 'stages.2.2': 6},
    **{'stages.2.3': 5, 'stages.2.4': 4, 'stages.2.5': 3},
    **{'downsample_layers.3': 2, 'stages.3.0': 2, 'stages.3.1': 1, 'norm3': 0},
}
BASE = {
    **{'downsample_layers.0': 13, 'stages.0.0': 12, 'stages.0.1': 12, 'stages.0.2': 12},
    **{'downsample_layers.1': 11, 'stages.1.0': 11, 'stages.1.1': 11, 'stages.1.2': 11},
    **{'downsample_layers.2': 10, 'stages.2.0': 10, 'stages.2.1': 10, 'stages.2.2': 10},
    **{'stages.2.3': 9, 'stages.2.4': 9, 'stages.2.5': 9, 'stages.2.6': 8, 'stages.2.7': 8},
    **{'stages.2.8': 8, 'stages.2.9': 7, 'stages.2.10': 7, 'stages.2.11': 7, 'stages.2.12': 6},
    **{'stages.2.13': 6, 'stages.2.14': 6, 'stages.2.15': 5, 'stages.2.16': 5, 'stages.2.17': 5},
    **{'stages.2.18': 4, 'stages.2.19': 4, 'stages.2.20': 4, 'stages.2.21': 3, 'stages.2.22': 3},
    **{'stages.2.23': 3, 'stages.2.24': 2, 'stages.2.25': 2, 'stages.2.26': 2},
    **{'downsample_layers.3': 1, 'stages.3.0': 1, 'stages.3.1': 1, 'stages.3.2': 1, 'norm3': 0},
}


def run(*arguments):
    run_tool('analysis_tools/print_layer_decay', *arguments)


@pytest.mark.parametrize(
    ('config', 'base_lr', 'weight_decay', 'decay', 'powers'),
    [
        ('convnextv2-a_8xb128-600e-fcmae_in1k-224px.py', 8e-4, '0.3', 0.9, ATTO),
        ('convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py', 2.5e-3, '0.05', 0.6, BASE),
    ],
)
def test_rates_are_those_of_the_official_rule(config, base_lr, weight_decay, decay, powers, capsys):
    run(ROOT / 'configs/classification' / config)
    lines = capsys.readouterr().out.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith('part')) + 1 :]
    rates = {}
    for part, rate, share, *decays in map(str.split, lines):
        assert float(rate) == pytest.approx(base_lr * float(share), rel=1e-3)
        rates[part] = float(share)
        assert decays[1:3] == ['with', '0,'] or part == 'backbone.norm3'
        assert decays[-1] == weight_decay or part == 'backbone.norm3'
    expected = {f'backbone.{part}': decay**power for part, power in powers.items()}
    assert rates == pytest.approx(expected | dict(head=1.0), rel=1e-5)  # six digits are printed


def test_typo_ends_in_one_sentence(capsys):
    config = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'
    with pytest.raises(SystemExit) as stop:
        run(config, '--cfg-options', 'optim_wrapper.paramwise_cfg.decay_rate=2')
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        'error: decay_rate 2 is not allowed: it must be in (0, 1]'
    )
