"""The same steps at several numbers of processes."""

import importlib.util
import sys
from pathlib import Path

import pytest

from convnextv2_mm.datasets.shapes.drawing import write_shapes

ROOT = Path(__file__).parents[2]


def report(capsys, config: str, *arguments: object) -> dict[str, list[float]]:
    """Run the tool; the cells of its table by the name of the line."""
    path = ROOT / 'benchmarks' / 'world_size.py'
    spec = importlib.util.spec_from_file_location('world_size', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules['world_size'] = module  # processes look for the function in its module
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), str(ROOT / 'configs' / config), *map(str, arguments)]
    try:
        spec.loader.exec_module(module)
        module.main()
    finally:
        sys.path.remove(str(path.parent))
    lines = [line.strip('| ').split('|') for line in capsys.readouterr().out.splitlines()]
    return {name.strip(): [float(c) for c in cells if c.strip()] for name, *cells in lines[2:]}


@pytest.fixture
def data(tmp_path):
    """Six drawings: the second batch of four is a smaller one."""
    write_shapes(tmp_path / 'shapes', num_train=6, num_val=1, size=64, seed=0)
    return [
        f'train_dataloader.dataset.data_root={tmp_path / "shapes"}',
        'train_dataloader.dataset.make=None',
    ]


def test_pretraining_is_the_same_on_two_processes(without_gpus, data, capsys):
    options = ['--widths', 2, '--batch', 4, '--steps', 3, '--cfg-options', *data]
    options += ['train_dataloader.dataset.pipeline.1.scale=64', 'model.neck.embed_dims=16']
    table = report(capsys, 'demo/fcmae_convnextv2-a_shapes.py', *options)
    assert table['loss'][0] > 0.5
    assert table['gradient'][0] > 1e-3
    assert table['loss'][1] < 1e-6
    assert table['gradient'][1] < 1e-5
    assert table['its worst tensor'][0] < 1e-4


@pytest.mark.slow
def test_segmentor_is_the_same_on_two_and_four_processes(without_gpus, data, capsys):
    """Without what the library draws or counts per process: dropout and batch statistics."""
    options = ['--widths', 2, 4, '--batch', 8, '--cfg-options', *data]
    for head in ('decode_head', 'auxiliary_head'):
        norm = f'model.{head}.norm_cfg'
        options += [f'{norm}.type=GN', f'{norm}.num_groups=8', f'model.{head}.dropout_ratio=0']
    options += ['model.backbone.init_cfg=None']
    table = report(capsys, 'demo/upernet_convnextv2-a_shapes.py', *options)
    assert max(table['loss'][1:]) < 1e-5
    assert max(table['gradient'][1:]) < 1e-4


def test_batch_that_cannot_be_dealt_out(capsys):
    with pytest.raises(SystemExit):
        report(capsys, 'demo/fcmae_convnextv2-a_shapes.py', '--widths', 3)
    assert '--widths 3 does not divide the batch of 8 images' in capsys.readouterr().err
