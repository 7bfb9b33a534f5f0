"""What a training run is made to use, unless its config says otherwise."""

from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config

from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.engine.runner.resume import make_resumable

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'configs').glob('[!_]*/*.py'))


@pytest.mark.parametrize('path', [p for p in CONFIGS if 'convnextv2-a' in p])
def test_every_family_uses_them(path):
    config = read_config(str(ROOT / path))
    before = deepcopy(config)
    make_resumable(config)
    kind = before.train_cfg.get('type') or 'EpochBasedTrainLoop'
    assert config.train_cfg.type == f'convnextv2_mm.{kind}'
    assert 'by_epoch' not in config.train_cfg
    hooks = config.default_hooks
    assert hooks.checkpoint.type == 'convnextv2_mm.CheckpointHook'
    assert hooks.checkpoint.interval == before.default_hooks.checkpoint.interval
    assert hooks.non_finite.type == 'convnextv2_mm.NonFiniteHook'
    assert hooks.no_targets.type == 'convnextv2_mm.NoTargetsHook'
    assert config.randomness.seed == 0  # so that a run killed before its first checkpoint repeats


def test_config_can_say_otherwise():
    config = dict(
        train_cfg=dict(type='mmengine.IterBasedTrainLoop', max_iters=1),
        default_hooks=dict(
            checkpoint=dict(type='mmengine.CheckpointHook'), non_finite=None, no_targets=None
        ),
    )
    made = Config(config)
    make_resumable(made)
    del config['default_hooks']['non_finite'], config['default_hooks']['no_targets']
    assert made.to_dict() == config


def test_empty_config_gets_all():
    made = Config(dict(train_cfg=dict(by_epoch=False, max_iters=1)))
    made.merge_from_dict({'default_hooks.non_finite.stop_after': 3})
    make_resumable(made)
    assert made.to_dict() == dict(
        train_cfg=dict(type='convnextv2_mm.IterBasedTrainLoop', max_iters=1),
        default_hooks=dict(
            checkpoint=dict(type='convnextv2_mm.CheckpointHook', interval=1),
            non_finite=dict(type='convnextv2_mm.NonFiniteHook', stop_after=3),
            no_targets=dict(type='convnextv2_mm.NoTargetsHook'),
        ),
    )
