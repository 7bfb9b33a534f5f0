"""MMDetection's tools find what loads in each of our configs."""

from pathlib import Path

import mmdet.datasets
import pytest

from convnextv2_mm.engine.config.datasets import find_datasets
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.patches.loading_pipelines import recognise_loaders

CONFIGS = sorted((Path(__file__).parents[2] / 'configs/detection').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_what_loads_is_found(path, monkeypatch):
    monkeypatch.setattr(mmdet.datasets, 'get_loading_pipeline', None)
    recognise_loaders()
    dataset = find_datasets(read_config(path).train_dataloader)[0]
    steps = mmdet.datasets.get_loading_pipeline(dataset.pipeline)
    assert [step.type.split('.')[-1] for step in steps] == ['LoadImageFromFile', 'LoadAnnotations']
