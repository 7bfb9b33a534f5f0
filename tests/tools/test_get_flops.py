"""get_flops: against the papers, another counter, and sums by hand."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convnextv2_mm.apis import flops
from convnextv2_mm.models import ConvNeXtV2
from convnextv2_mm.models.layers.block import ConvNeXtV2Block, PatchConv

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
import get_flops  # noqa: E402

PRETRAIN = 'configs/pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'
DETECTION = 'configs/detection/mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
SEGMENTATION = 'configs/segmentation/upernet_convnextv2-b_4xb4-160k-fcmae_ade20k-512px.py'


def run(capsys, *arguments: object) -> dict[str, tuple[float, float]]:
    """The printed table: parameters in millions and multiply-adds in billions by part."""
    before, sys.argv = sys.argv, ['get_flops.py', *map(str, arguments)]
    try:
        get_flops.main()
    finally:
        sys.argv = before
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('|')] for line in out.splitlines() if '|' in line]
    return {row[1]: (float(row[2][:-1]), float(row[3][:-1])) for row in rows[1:]}


class Additions:
    """What the counter of mmcv 1 adds to multiply-adds of the layers that it knows.

    https://github.com/open-mmlab/mmcv/blob/1.x/mmcv/cnn/utils/flops_counter.py: the bias of
    convolutions, ReLU once, batch norm twice an element. It knows no GELU, GRN, and no LayerNorm
    of the official ConvNeXt, and leaves out the bias of linear layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        for module in model.modules():
            module.register_forward_hook(self.add)

    def add(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(module, nn.ConvTranspose2d):  # its bias: height times height
            self.total += output.shape[0] * output.shape[1] * output.shape[2] ** 2
        elif isinstance(module, nn.Conv2d | PatchConv):
            self.total += output.numel() * (module.bias is not None)
        elif isinstance(module, ConvNeXtV2Block):  # its depthwise convolution is not called
            self.total += output.numel()
        elif isinstance(module, nn.ReLU):
            self.total += output.numel()
        elif isinstance(module, _BatchNorm):
            self.total += 2 * output.numel()


@pytest.fixture
def additions(monkeypatch) -> Iterator[list[Additions]]:
    """Of each model that is counted."""
    found = []
    count = flops.count

    def count_both(model: nn.Module, shape: tuple[int, int]) -> dict:
        found.append(Additions(model))
        return count(model, shape)

    monkeypatch.setattr(flops, 'count', count_both)
    return found


# The paper's Mask R-CNN at 1280x800 and UPerNet at 2048x512 †, in 10^9.
PAPER = [('base', 486, 1170), ('large', 875, 1573), ('huge', 2525, 3272)]


@pytest.mark.parametrize(('arch', 'expected'), [(arch, flops) for arch, flops, _ in PAPER])
def test_mask_rcnn_has_the_flops_of_the_paper(arch, expected, capsys, additions):
    channels = ConvNeXtV2.arch_settings[arch]['channels']
    changes = [f'model.backbone.arch={arch}', f'model.neck.in_channels={channels}']
    table = run(capsys, ROOT / DETECTION, '--shape', 800, 1280, '--cfg-options', *changes)
    products = table['MaskRCNN'][1]
    assert products == pytest.approx(expected, abs=1)
    assert round(products + additions[0].total / 1e9) == expected
    parts = [table[name][1] for name in ('backbone', 'neck', 'rpn_head', 'roi_head')]
    assert sum(parts) == pytest.approx(products, abs=0.03)  # rounded four times


@pytest.mark.parametrize(('arch', 'expected'), [(arch, flops) for arch, _, flops in PAPER])
def test_upernet_has_the_flops_of_the_paper(arch, expected, capsys, additions):
    channels = ConvNeXtV2.arch_settings[arch]['channels']
    changes = [f'model.backbone.arch={arch}', f'model.decode_head.in_channels={channels}']
    changes += [f'model.auxiliary_head.in_channels={channels[2]}']
    table = run(capsys, ROOT / SEGMENTATION, '--shape', 512, 2048, '--cfg-options', *changes)
    products = table['EncoderDecoder'][1]
    assert products == pytest.approx(expected, abs=1)
    assert round(products + additions[0].total / 1e9) == expected
    assert table['auxiliary_head'][1] == 0  # of training only


CASCADE = """
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['convnextv2_mm'])
box_head = dict(
    type='ConvFCBBoxHead', num_shared_convs=4, num_shared_fcs=1, in_channels=256,
    conv_out_channels=256, fc_out_channels=1024, roi_feat_size=7, num_classes=80,
    reg_class_agnostic=False, norm_cfg=dict(type='SyncBN', requires_grad=True),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
)
model = dict(
    backbone=dict(
        _delete_=True, type='convnextv2_mm.ConvNeXtV2', arch='base', out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False, use_grn=False, layer_scale_init_value=1e-6,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
    roi_head=dict(bbox_head=[box_head] * 3),
)
"""


# ConvNeXt V1 (arXiv 2201.03545) †, in 10^9.
V1 = [('tiny', 741), ('small', 827), ('base', 964), ('large', 1354), ('xlarge', 1898)]


@pytest.mark.parametrize(('arch', 'expected'), V1)
def test_cascade_has_the_flops_of_the_first_paper(arch, expected, tmp_path, capsys, additions):
    path = tmp_path / 'cascade.py'
    path.write_text(CASCADE)
    channels = ConvNeXtV2.arch_settings[arch]['channels']
    changes = [f'model.backbone.arch={arch}', f'model.neck.in_channels={channels}']
    table = run(capsys, path, '--shape', 800, 1280, '--cfg-options', *changes)
    products = table['CascadeRCNN'][1]
    assert products == pytest.approx(expected, abs=1)
    assert round(products + additions[0].total / 1e9) == expected


def test_classifier_agrees_with_another_counter(capsys):
    path = next((ROOT / 'configs/classification').glob('convnextv2-a_linear-probe_*.py'))
    table = run(capsys, path, '--shape', 96, 64)
    model = ConvNeXtV2('atto').eval()
    other = FlopAnalyzer(model, (torch.zeros(1, 3, 96, 64),)).unsupported_ops_warnings(False)
    products = {'conv', 'linear', 'addmm', 'matmul', 'einsum', 'bmm', 'mm'}
    expected = sum(n for name, n in other.by_operator().items() if name in products)
    assert expected > 1e6
    assert table['backbone'][1] == pytest.approx(expected / 1e9, abs=0.005)
    assert table['head'][0] == pytest.approx(320 * 1000 / 1e6 + 0.001, abs=0.005)


def encoder(arch: str, patches: int) -> float:
    """Multiply-adds at all sites of some patches of 32x32 pixels, by hand."""
    depths, channels = (ConvNeXtV2.arch_settings[arch][key] for key in ('depths', 'channels'))
    total, before = 0, 3
    for stage, (depth, width) in enumerate(zip(depths, channels, strict=True)):
        sites = patches * (8 >> stage) ** 2
        total += sites * before * width * (16 if stage == 0 else 4)
        total += sites * depth * (49 * width + 8 * width**2)
        before = width
    return total / 1e9


@pytest.mark.parametrize(('height', 'width', 'visible'), [(224, 224, 19), (96, 160, 6)])
def test_fcmae_counts_visible_sites(height, width, visible, capsys):
    patches = height * width // 32**2
    table = run(capsys, ROOT / PRETRAIN, '--shape', height, width)
    assert table['backbone'][1] == pytest.approx(encoder('base', visible), abs=0.006)
    decoder = patches * (1024 * 512 + 49 * 512 + 8 * 512**2 + 512 * 3 * 32**2) / 1e9
    assert table['neck'][1] == pytest.approx(decoder, abs=0.006)
    assert table['FCMAE'][1] == pytest.approx(encoder('base', visible) + decoder, abs=0.006)


def test_fcmae_without_sparse_encoding_counts_all_sites(capsys):
    changes = ['--cfg-options', 'model.backbone.backend=masked']
    table = run(capsys, ROOT / PRETRAIN, '--shape', 224, 224, *changes)
    assert table['backbone'][1] == pytest.approx(encoder('base', 49), abs=0.006)


def test_fcmae_names_what_the_whole_image_would_take(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['', str(ROOT / PRETRAIN), '--shape', '224', '224'])
    get_flops.main()
    out = capsys.readouterr().out
    assert '19 of 49 patches are visible' in out
    assert f'with all of them the encoder would take {encoder("base", 49):.2f}G' in out
    assert encoder('base', 49) == pytest.approx(15.4, abs=0.1)


def test_depth(capsys):
    arguments = [ROOT / PRETRAIN, '--shape', 224, 224, '--depth']
    assert list(run(capsys, *arguments, 0)) == ['FCMAE']
    deep = run(capsys, *arguments, 2)
    assert deep['downsample_layers'][1] + deep['stages'][1] == pytest.approx(
        deep['backbone'][1], abs=0.015
    )


MISTAKES = [
    (['configs/nothing.py', '--shape', '224', '224'], 'nothing.py does not exist'),
    ([PRETRAIN, '--shape', '220', '224'], 'image size 220x224 is not allowed'),
    ([PRETRAIN, '--shape', '0', '224'], '--shape must be positive'),
    ([DETECTION, '--shape', '16', '224'], 'image size 16x224 is too small'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_end_in_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['', str(ROOT / arguments[0]), *arguments[1:]])
    with pytest.raises(SystemExit) as stop:
        get_flops.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
