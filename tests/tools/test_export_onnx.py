"""tools/export_onnx.py: what it writes is what onnxruntime computes, at any batch and size."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from run_tool import run_tool
from torch import nn

from convnextv2_mm.apis import export
from convnextv2_mm.apis.export import AdaptiveAveragePool
from convnextv2_mm.engine.config.reading import read_config

ROOT = Path(__file__).parents[2]
ARCH = dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 40])
BACKBONE = f"""
        type='convnextv2_mm.ConvNeXtV2',
        arch={ARCH},
"""
CLASSIFIER = f"""
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['convnextv2_mm'])
model = dict(
    type='ImageClassifier',
    backbone=dict({BACKBONE}),
    head=dict(type='LinearClsHead', num_classes=6, in_channels=40),
)
"""
SEGMENTOR = f"""
_base_ = '{ROOT}/configs/demo/upernet_convnextv2-a_shapes.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{ARCH}), init_cfg=None),
    decode_head=dict(in_channels=[8, 16, 24, 40], channels=16),
    auxiliary_head=dict(in_channels=24, channels=16),
)
"""


run = partial(run_tool, 'export_onnx')


def write_model(text, folder):
    """A config and a random checkpoint of it."""
    config, checkpoint = folder / 'config.py', folder / 'checkpoint.pth'
    config.write_text(text)
    model = MODELS.build(read_config(str(config)).model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return config, checkpoint, model.eval()


def same_as_network(path, network):
    """Compare at sizes that the tool itself has not seen; returns the names of the outputs."""
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for shape in ((1, 3, 64, 200), (4, 3, 33, 47)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = network(images)
        results = session.run(None, {'images': images.numpy()})
        for found, out in zip(results, expected, strict=True):
            np.testing.assert_allclose(found, out, atol=1e-4 * out.abs().max().item())
    return [output.name for output in session.get_outputs()]


def test_classifier(tmp_path, monkeypatch, capsys):
    config, checkpoint, model = write_model(CLASSIFIER, tmp_path)
    run(config, checkpoint, tmp_path / 'out.onnx')
    printed = capsys.readouterr().out
    assert printed.count('largest relative difference') == 3 and 'out.onnx: logits' in printed
    assert same_as_network(tmp_path / 'out.onnx', lambda images: [model(images)]) == ['logits']
    names = ['checkpoint.pth', 'config.py', 'out.onnx']
    assert sorted(path.name for path in tmp_path.iterdir()) == names

    # An export that is not of these weights is an error, and nothing is written.
    model.head.fc.bias.data += 1
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    monkeypatch.setattr(export, 'export', lambda *a: shutil.copy(tmp_path / 'out.onnx', a[-1]))
    with pytest.raises(SystemExit):
        run(config, checkpoint, tmp_path / 'other.onnx')
    assert 'error: onnxruntime differs by' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_segmentor_and_its_backbone(tmp_path):
    config, checkpoint, model = write_model(SEGMENTOR, tmp_path)

    def logits(images):
        metas = [dict(img_shape=images.shape[2:])]
        return [model.encode_decode(images, metas)]

    run(config, checkpoint, tmp_path / 'out.onnx')
    assert same_as_network(tmp_path / 'out.onnx', logits) == ['logits']
    run(config, checkpoint, tmp_path / 'backbone.onnx', '--backbone')
    names = same_as_network(tmp_path / 'backbone.onnx', model.backbone)
    assert names == ['stage1', 'stage2', 'stage3', 'stage4']


@pytest.mark.parametrize('output_size', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('size', [(1, 2), (6, 6), (7, 16), (13, 5)])
def test_pooling_is_that_of_pytorch(output_size, size):
    x = torch.randn(2, 3, *size)
    found = AdaptiveAveragePool(output_size)(x)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, output_size))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['config.py', 'no.pth', 'out.onnx'], 'checkpoint no.pth does not exist'),
        (['config.py', 'checkpoint.pth', 'out.pth'], 'out.pth must be a .onnx file in a folder'),
        (['config.py', 'checkpoint.pth', 'no/out.onnx'], 'must be a .onnx file in a folder'),
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    write_model(CLASSIFIER, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        ('mask-rcnn_convnextv2-a_fpn_shapes', [], 'MaskRCNN cannot be exported, only classifiers'),
        ('fcmae_convnextv2-a_shapes', ['--backbone'], 'FCMAE has a sparse encoder'),
    ],
)
def test_other_models_are_refused(config, options, message, tmp_path, capsys):
    config = ROOT / f'configs/demo/{config}.py'
    model = read_config(str(config)).model
    model.backbone.pop('init_cfg', None)
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), tmp_path / 'checkpoint.pth')
    with pytest.raises(SystemExit):
        run(config, tmp_path / 'checkpoint.pth', tmp_path / 'out.onnx', *options)
    assert message in capsys.readouterr().err
