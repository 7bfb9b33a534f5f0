"""What the tools say of a config that does not exist."""

from pathlib import Path

import pytest

from convnextv2_mm.engine.config.reading import parse_config

CONFIGS = Path(__file__).parents[3] / 'configs'
BASE = 'convnextv2-b_8xb64-accum8-800e_in1k-224px.py'


@pytest.mark.parametrize(
    ('name', 'option'),
    [
        ('fcmae-mask-ratio-0.7', 'model.mask_ratio=0.7'),
        ('fcmae-decoder-depth-12', 'model.neck.depth=12'),
        ('fcmae-decoder-width-1024', 'model.neck.embed_dims=1024'),
    ],
)
def test_an_ablation_that_became_an_option(name, option):
    with pytest.raises(FileNotFoundError) as error:
        parse_config(CONFIGS / 'ablations' / f'{name}_{BASE}')
    base = CONFIGS / 'pretrain' / f'fcmae_{BASE}'
    assert base.is_file()
    assert str(error.value).endswith(f'use {base} with --cfg-options {option}')


def test_a_misspelt_name():
    with pytest.raises(FileNotFoundError, match=f'did you mean .*/fcmae_{BASE}\\?'):
        parse_config(CONFIGS / 'pretrain' / f'fcmea_{BASE}')


def test_a_name_like_no_other():
    with pytest.raises(FileNotFoundError, match=r'nothing\.py does not exist$'):
        parse_config(CONFIGS / 'nothing.py')
