"""What docs/deploy.md says, run as it stands there."""

import re
import shlex
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from command_line import Command
from mmengine.registry import MODELS

from convnextv2_mm import load_model
from convnextv2_mm.cli import TOOLS
from convnextv2_mm.datasets.shapes.drawing import draw
from convnextv2_mm.engine.config.reading import read_config

PAGE = Path(__file__).parents[2] / 'docs/deploy.md'
NUMBER = 8


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A trained classifier with its config, a detector, and photographs."""
    monkeypatch.chdir(tmp_path)
    for i in range(NUMBER):
        for path in (f'photos/{i}.png', f'sorted/{("one", "two")[i % 2]}/{i}.png'):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(path, draw(0, 'train', i, 64).image[..., ::-1])
    options = ['--size', 64, '--epochs', 1, '--batch', 4, '--init', 'none']
    Command('own/classify', 'sorted', *options, folder=tmp_path).end()
    Path('work_dirs/classifier/epoch_1.pth').rename('classifier.pth')
    Path('work_dirs/classifier/classifier.py').rename('config.py')
    detector = read_config(
        'convnextv2_mm::detection/mask-rcnn_convnextv2-a_fpn_ms-1x-fcmae_coco.py'
    )
    detector.model.backbone.init_cfg = None
    model = MODELS.build(detector.model)
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(dict(state_dict=model.state_dict()), 'detector.pth')
    return tmp_path


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block on the page."""
    return re.findall(r'^```(\w+)\n(.*?)^```', PAGE.read_text(encoding='utf-8'), re.M | re.S)


@torch.no_grad()
def test_each_block_runs_and_gives_the_same_network(home):
    names: dict = {}
    for language, text in blocks():
        if language == 'bash':
            for line in text.splitlines():
                _, command, *arguments = shlex.split(line)
                script = TOOLS[command].removesuffix('.py')
                Command(script, *arguments, folder=home).end()
        else:
            with torch.enable_grad():
                exec(compile(text, str(PAGE), 'exec'), names)
            if 'ConvNeXt' in text and 'mmpretrain' in text:
                stock = names['backbone']  # the next block gives the name to another one

    images = torch.randn(2, 3, 64, 64)
    ours = load_model('classifier.pth')
    expected = ours.head(ours.backbone(images))
    assert torch.allclose(names['classifier'](images), expected, atol=1e-5)
    assert torch.allclose(names['hf_model'](images).logits, expected, atol=1e-5)

    backbone = names['backbone'].eval()
    stock = mmpretrain.registry.MODELS.build(stock)
    stock.init_weights()
    stock.eval()  # gives None
    for found, other in zip(stock(images), backbone(images), strict=True):
        assert torch.allclose(found, other, atol=1e-4)
    assert len(names['oddness']) == NUMBER - 6
    assert names['cam'].shape == (2, 2) and names['cam'].isfinite().all()
    assert len(names['layers']) == 2 * 12
    saved = np.load(home / 'features/0.npz')
    assert sorted(saved) == ['stage1', 'stage2']
