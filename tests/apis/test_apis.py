"""Training, testing and predicting from Python: what comes back, and what is left as it was."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch._dynamo.utils import counters

from convnextv2_mm.apis import train as train_module
from convnextv2_mm.apis.analysis.reconstruction import reconstruct
from convnextv2_mm.apis.browse import browse_dataset
from convnextv2_mm.apis.conversion import convert
from convnextv2_mm.apis.dataset_check import check_dataset
from convnextv2_mm.apis.flops import count_flops
from convnextv2_mm.apis.inference import fit_to_patches, load_model, predict
from convnextv2_mm.apis.test import test as evaluate
from convnextv2_mm.apis.train import train
from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.engine.config.reading import parse_config, read_config
from convnextv2_mm.engine.config.saved import read_saved_config
from convnextv2_mm.models import ConvNeXtV2

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=4, num_val=2, size=64, seed=0)
    return root


@pytest.fixture
def config(shapes, tmp_path):
    """Pre-training of two steps on the drawings."""
    config = Config.fromfile(ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py')
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(make=None, data_root=str(shapes))
    config.train_dataloader.dataset.pipeline[1].scale = 64
    config.train_cfg.max_epochs = 1
    config.work_dir = str(tmp_path / 'run')
    return config


def test_train_test_and_predict(config, shapes, tmp_path):
    before = deepcopy(config.to_dict())
    runner = train(config)
    assert runner.iter == 2
    checkpoint = str(tmp_path / 'run/epoch_1.pth')
    metrics = evaluate(config, checkpoint)
    assert 0 < metrics['fcmae/loss'] < 10
    saved = tmp_path / 'run/fcmae_convnextv2-a_shapes.py'
    of_the_training = saved.read_text()
    again = evaluate(saved, checkpoint, cfg_options={'model.mask_ratio': 0.3})
    assert again['fcmae/loss'] != metrics['fcmae/loss']
    assert saved.read_text() == of_the_training
    (of_the_test,) = (path for path in saved.parent.glob('*/*.py') if '0.3' in path.read_text())
    model = load_model(config, checkpoint)
    images = sorted((shapes / 'images/val').rglob('*.jpg'))
    found = list(predict(model, shapes / 'images/val'))
    assert [Path(sample.img_path) for sample in found] == images
    assert all(sample.reconstruction_loss > 0 for sample in found)
    drawn = reconstruct(config, checkpoint, [str(shapes / 'images/val')], tmp_path / 'figure.png')
    losses = {sample.img_path: sample.reconstruction_loss for sample in found}
    assert drawn.losses == pytest.approx(losses, rel=1e-5) and drawn.mask_ratio == 0.6
    assert (tmp_path / 'figure.png').is_file() and (tmp_path / 'figure.json').is_file()
    assert config.to_dict() == before

    alone = load_model(checkpoint)  # its config is in it
    (again,) = predict(alone, cv2.imread(str(images[0])))
    mask_depends_on_the_name = pytest.approx(found[0].reconstruction_loss, rel=0.5)
    assert again.reconstruction_loss == mask_depends_on_the_name


@pytest.mark.long
def test_a_compiled_run_is_the_same(config):
    """With the hooks of a run; the one that looks into the network is not compiled with it."""
    config.train_cfg.max_epochs = 2
    config.custom_hooks[0].interval = 1
    config.model.backbone.arch = dict(depths=[1, 1, 1, 1], channels=[40, 80, 160, 320])
    expected = train(config).model.state_dict()
    config.compile = dict(backend='aot_eager')
    torch.compiler.reset()
    counters.clear()
    found = train(config, work_dir=f'{config.work_dir}-compiled', compile=True).model.state_dict()
    # Three parts, in training and in validation.
    assert counters['stats']['unique_graphs'] == 6 and not counters['graph_break']
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('size', [(45, 70), (20, 300), (1100, 40)])
def test_fcmae_takes_any_photograph(config, tmp_path, size):
    model = MODELS.build(read_config(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'random.pth')
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    model = load_model(config, str(tmp_path / 'random.pth'))
    (found,) = predict(model, image)
    height, width = found.original.shape[-2:]
    assert height % 32 == width % 32 == 0
    assert max(height, width) <= 1024
    for length, whole in zip(size, (height, width), strict=True):
        assert abs(length * min(1, 1024 / max(size)) - whole) <= 16 or whole == 64


def test_whole_patches_stay_as_they_are():
    image = torch.randint(256, (3, 64, 2048), dtype=torch.uint8)  # more than photographs get
    assert fit_to_patches(image, 32) is image


def test_means_beside_the_model_normalise_as_in_a_run(tmp_path):
    """MMPreTrain's own configs have them there, and its runner moves them."""
    config = parse_config(
        'convnextv2_mm::classification/convnextv2-t_8xb128-accum4-300e_in1k-224px.py'
    )
    config.data_preprocessor = config.model.pop('data_preprocessor')
    config.model.backbone.arch = dict(depths=[1, 1, 1, 1], channels=[8, 8, 8, 8])
    config.model.head.in_channels = 8
    weights = MODELS.build(read_config(config).model).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'random.pth')
    model = load_model(config, str(tmp_path / 'random.pth'))
    mean = model.data_preprocessor.mean.flatten().tolist()
    assert mean == pytest.approx(config.data_preprocessor.mean)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'holds no config of its run'),
        ('import os', 'not as MMEngine writes it: line 1'),
        ("a = __import__('os').getcwd()", 'not as MMEngine writes it'),
        ('a = dict(b=open("x"))', 'not as MMEngine writes it'),
    ],
)
def test_a_config_in_a_checkpoint_is_not_run(text, message, tmp_path):
    meta = dict(cfg=text) if text else {}
    torch.save(dict(meta=meta, state_dict={}), tmp_path / 'some.pth')
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / 'some.pth'))


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/own').glob('*.py')), ids=lambda p: p.stem)
def test_a_config_in_a_checkpoint_is_that_of_the_run(path, tmp_path):
    config = parse_config(path)
    torch.save(dict(meta=dict(cfg=config.pretty_text)), tmp_path / 'some.pth')
    assert read_saved_config(str(tmp_path / 'some.pth')).to_dict() == config.to_dict()


def test_look_at_data_and_model(config, shapes):
    before = deepcopy(config.to_dict())
    report = check_dataset(config, workers=1)
    assert report.problems == [] and report.classes == {}  # FCMAE learns no labels
    path, picture = next(browse_dataset(config))
    assert Path(path).is_file() and picture.ndim == 3
    flops = count_flops(config, (64, 64))
    encoder = ConvNeXtV2('atto', out_indices=()).parameters()
    assert sum(p.numel() for p in encoder) < flops.parameters
    assert flops.visible == (1, 4) and flops.total > 0
    content = Path(path).read_bytes()
    Path(path).write_bytes(b'')
    ((split, finding),) = check_dataset(config, ['train'], workers=1).problems
    Path(path).write_bytes(content)
    assert (split, finding.sentence) == ('train', f'{path} is empty')
    assert config.to_dict() == before


def test_mistakes_raise(config, tmp_path):
    """No function of the apis ends the program."""
    with pytest.raises(FileNotFoundError, match='config nothing.py does not exist'):
        train('nothing.py')
    with pytest.raises(FileNotFoundError, match='config convnextv2_mm::nothing.py does not exist'):
        train('convnextv2_mm::nothing.py')
    with pytest.raises(FileNotFoundError, match='checkpoint nothing.pth does not exist'):
        evaluate(config, 'nothing.pth')
    with pytest.raises(FileNotFoundError, match='checkpoint nothing.pth does not exist'):
        load_model(config, 'nothing.pth')
    with pytest.raises(FileNotFoundError, match='nothing.pth does not exist'):
        convert('nothing.pth', tmp_path / 'out.pth')


def test_convert_says_what_it_found(tmp_path):
    model = load_backbone_weights(tmp_path)
    found, how_to_open = convert(model, tmp_path / 'timm.pth', to='timm')
    assert found.architecture.size == 'atto'
    assert 'timm.create_model' in how_to_open


def load_backbone_weights(folder):
    """A checkpoint of our backbone."""
    weights = {f'backbone.{k}': v for k, v in ConvNeXtV2('atto').state_dict().items()}
    torch.save(dict(state_dict=weights), folder / 'ours.pth')
    return str(folder / 'ours.pth')


@pytest.mark.parametrize('backend', ['auto', 'torch'])
def test_kernels_are_tried_before_the_first_step(backend, monkeypatch):
    lines = []
    runner = SimpleNamespace(logger=SimpleNamespace(info=lines.append))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 3)
    monkeypatch.setattr(train_module, 'backend_choices', lambda device: {'conv': f'on {device}'})
    train_module.choose_backends(runner, ConvNeXtV2('atto', backend=backend))
    assert lines[1:] == (["backend 'auto' is conv: on cuda:3"] if backend == 'auto' else [])
