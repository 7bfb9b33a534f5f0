"""Every ablation is what configs/ablations/README.md says: the base with one option, and it trains.

The rows of that file's tables are the cases, with a config of their own or without.
test_configs.py builds each config at its full size.
"""

import argparse
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.models import ConvNeXtV2

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs/ablations'
LINES = (FOLDER / 'README.md').read_text(encoding='utf-8').splitlines()
PRETRAIN = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'
FINE_TUNE = '../classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'
MOCO = 'mocov3_convnextv2-b_32xb128-300e_in1k-224px.py'
AFTER_MOCO = 'convnextv2-b_8xb32-accum4-100e-mocov3_in1k-224px.py'
V1 = 'fcmae_convnext-b_8xb64-accum8-800e_in1k-224px.py'

CASES = []  # option, its config of pre-training or None, its config of fine-tuning or None
for cells in ([cell.strip() for cell in line.strip('|').split('|')] for line in LINES):
    if cells[0].startswith('`model.'):
        files = [match[1] if (match := re.search(r'\((.+)\)', cell)) else None for cell in cells]
        CASES.append((cells[0].strip('`'), files[1], files[2] if len(cells) == 4 else None))
PAIRS = [(option, file) for option, pretrain, tune in CASES for file in (pretrain, tune) if file]

# Small enough for a second.
SIZE = (128, 96)
CHANNELS = [32, 64, 96, 128]
ARCH = dict(depths=[1, 1, 1, 1], channels=CHANNELS)


@cache
def parse(file):
    return read_config(str(FOLDER / file), work_dir='work_dirs/ablation')


def read(file, **options):
    config = deepcopy(parse(file))
    init_default_scope(config.default_scope)
    config.merge_from_dict(options)
    return config


def options_of(text):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args(['--cfg-options', *text.split()]).cfg_options


def test_the_readme_has_every_config_once():
    listed = [file for _, file in PAIRS]
    assert sorted([*listed, MOCO, AFTER_MOCO]) == sorted(path.name for path in FOLDER.glob('*.py'))


def test_the_sweeps_have_every_row_without_a_config():
    rows = {option for option, pretrain, tune in CASES if not (pretrain or tune)}
    sweeps = re.findall(r'--set (model\S+)=(\S+)', '\n'.join(LINES))
    assert len(rows) == 16
    assert rows == {f'{key}={value}' for key, values in sweeps for value in values.split(',')}


@pytest.mark.parametrize(('option', 'file'), PAIRS)
def test_a_config_is_its_base_with_the_option(option, file):
    base = read(PRETRAIN if file.startswith('fcmae') else FINE_TUNE, **options_of(option))
    config = read(file)
    if not file.startswith('fcmae'):  # it starts from its own pre-training
        checkpoint = config.pop('checkpoint', None)
        if checkpoint:
            assert config.model.backbone.init_cfg.checkpoint == checkpoint
            base.model.backbone.init_cfg.checkpoint = checkpoint
            assert f'{checkpoint.split("/")[1]}.py' == pretraining_of(file)
    assert config.to_dict() == base.to_dict()


def pretraining_of(tune):
    """The config that a config of fine-tuning comes after."""
    if 'grn-added' in tune:
        return V1
    if 'grn-dropped' in tune:
        return PRETRAIN
    return next(pretrain for _, pretrain, file in CASES if file == tune)


def read_tiny(file, **options):
    config = read(file, **options, **{'optim_wrapper.accumulative_counts': 1})
    config.model.backbone.arch = ARCH
    return config


def take_two_steps(config, model, data):
    """Take them with the optimizer of the config, and see that everything learns."""
    model.train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(2):
        assert model.train_step(data, optimizer)['loss'].isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), name
            # Weight decay alone would have changed it too.
            assert optimizer.optimizer.state[parameter]['exp_avg'].any(), name
        else:
            assert name.startswith('momentum_encoder.'), name
            assert not torch.equal(parameter, before[name]), name


def pretrain(file, folder, **options) -> tuple[str, dict]:
    """Two steps; returns the checkpoint and what it holds."""
    torch.manual_seed(0)
    config = read_tiny(file, **options)
    config.model.neck.in_channels = CHANNELS if 'unet' in file else 128
    model = MODELS.build(config.model)
    model.init_weights()
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    take_two_steps(config, model, dict(inputs=images, data_samples=None))
    path = folder / 'epoch_800.pth'
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), path)
    return str(path), model.state_dict()


def fine_tune(file, checkpoint) -> dict:
    """Two steps from a checkpoint; returns the weights of the backbone before them."""
    from mmpretrain.structures import DataSample

    torch.manual_seed(0)
    options = {'head.in_channels': 128, 'backbone.init_cfg.checkpoint': checkpoint}
    config = read_tiny(file, **{f'model.{key}': value for key, value in options.items()})
    check_model(config.model)
    model = MODELS.build(config.model)
    model.init_weights()
    loaded = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    images = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    take_two_steps(config, model, dict(inputs=images, data_samples=samples))
    return loaded


@pytest.mark.parametrize(('option', 'file'), [(o, file) for o, file, tune in CASES if not tune])
def test_pretraining_takes_two_steps(option, file, tmp_path):
    options = {} if file else options_of(option)
    checkpoint, trained = pretrain(file or PRETRAIN, tmp_path, **options)
    backbone = ConvNeXtV2(ARCH, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    backbone.init_weights()
    for name, tensor in backbone.state_dict().items():
        if not name.startswith('norm3'):
            assert torch.equal(tensor, trained[f'backbone.{name}']), name


@pytest.mark.parametrize('file', [tune for *_, tune in CASES if tune])
def test_pretraining_and_fine_tuning_take_two_steps(file, tmp_path):
    checkpoint, trained = pretrain(pretraining_of(file), tmp_path)
    loaded = fine_tune(file, checkpoint)
    trained = {k.removeprefix('backbone.'): v for k, v in trained.items() if 'backbone.' in k}
    left_out = {name for name in trained if name not in loaded}
    added = {name for name in loaded if name not in trained and not name.startswith('norm3')}
    assert bool(left_out) == ('grn-dropped' in file)
    assert bool(added) == ('grn-added' in file)
    assert all('.grn.' in name for name in left_out | added)
    assert all(torch.equal(loaded[name], trained[name]) for name in trained if name in loaded)


def test_moco_and_fine_tuning_take_two_steps(tmp_path):
    torch.manual_seed(0)
    options = {'neck.in_channels': 128, 'neck.hid_channels': 64, 'head.predictor.hid_channels': 64}
    config = read_tiny(MOCO, **{f'model.{key}': value for key, value in options.items()})
    config.model.data_preprocessor = config.data_preprocessor
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    MessageHub.get_current_instance().update_info('max_iters', 100)
    views = [torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8) for _ in range(2)]
    take_two_steps(config, model, dict(inputs=views, data_samples=None))
    path = tmp_path / 'epoch_300.pth'
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), path)
    loaded = fine_tune(AFTER_MOCO, str(path))
    assert all(torch.equal(loaded[k], v) for k, v in model.backbone.state_dict().items())


def test_moco_has_the_recipe_of_vit():
    config = read(MOCO)
    assert 32 * config.train_dataloader.batch_size == config.auto_scale_lr.base_batch_size == 4096
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert config.optim_wrapper.optimizer.weight_decay == 0.1
    assert config.train_cfg.max_epochs == config.param_scheduler[-1].end == 300
    assert config.train_dataloader.collate_fn.type == 'default_collate'
    views = config.train_dataloader.dataset.pipeline[1]
    assert views.type == 'MultiView'
    assert read(AFTER_MOCO).checkpoint == f'work_dirs/{MOCO.removesuffix(".py")}/epoch_300.pth'
