"""k-NN and linear probe: an FCMAE checkpoint made here, evaluated by the tools."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from run_tool import run_tool as run

from convnextv2_mm.apis.knn import NearestNeighbours
from convnextv2_mm.datasets.shapes.drawing import CLASSES, write_shapes
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.models import ConvNeXtV2

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs/classification').glob('*_linear-probe_*.py'))
NUM_TRAIN, NUM_VAL, SIZE = 48, 24, 64


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """Drawings with a tint for each class, which any features show."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, seed=0)
    for label, name in enumerate(CLASSES):
        hue = np.full((1, 1, 3), (30 * label, 255, 255), np.uint8)
        tint = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR).astype(np.float32)
        for path in root.glob(f'images/*/{name}/*.jpg'):
            image = 0.5 * cv2.imread(str(path)) + 0.5 * tint
            cv2.imwrite(str(path), image.astype(np.uint8))
    return root


@pytest.fixture(scope='module')
def pretrained(shapes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('fcmae')
    options = ['train_dataloader.dataset.pipeline.1.scale=64', 'train_cfg.max_epochs=1']
    options += ['train_dataloader.batch_size=8', 'default_hooks.checkpoint.interval=1']
    for split in ('train', 'val', 'test'):
        options += [f'{split}_dataloader.dataset.make=None']
        options += [f'{split}_dataloader.dataset.data_root={shapes}']
    config = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'
    run('train', config, '--work-dir', work_dir, '--cfg-options', *options)
    return work_dir / 'epoch_1.pth'


@pytest.fixture(scope='module')
def options(shapes, pretrained):
    """What turns the configs of ImageNet to those drawings, on the command line."""
    changes = [f'model.backbone.init_cfg.checkpoint={pretrained}']
    changes += ['model.head.num_classes=6', 'model.data_preprocessor.num_classes=6']
    changes += [
        'train_dataloader.dataset.pipeline.1.scale=64',
        'optim_wrapper.accumulative_counts=1',
    ]
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        changes += [f'{loader}.dataset.type=convnextv2_mm.ShapesClsDataset']
        changes += [f'{loader}.dataset.data_root={shapes}', f'{loader}.batch_size=16']
        changes += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        if split != 'train':
            changes += [f'{loader}.dataset.pipeline.1.scale=64']
            changes += [f'{loader}.dataset.pipeline.2.crop_size=64']
    return changes


def read_images(root: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images and labels, without the pipeline of the config."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for path in sorted((root / 'images' / split / name).glob('*.jpg')):
            images.append((cv2.imread(str(path))[..., ::-1] - mean) / std)
            labels.append(label)
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float(), torch.tensor(labels)


def vote_by_hand(
    queries: np.ndarray, features: np.ndarray, labels: np.ndarray, k: int, temperature: float
) -> np.ndarray:
    """Votes, one query and one neighbour at a time, in float64."""
    votes = np.zeros((len(queries), labels.max() + 1))
    for i, query in enumerate(queries.astype(np.float64)):
        cosines = [f @ query / np.linalg.norm(f) / np.linalg.norm(query) for f in features]
        for j in sorted(range(len(features)), key=lambda j: -cosines[j])[:k]:
            votes[i, labels[j]] += np.exp(cosines[j] / temperature)
    return votes


@pytest.mark.parametrize('k', [1, 7, 40])
@pytest.mark.parametrize('batch', [3, 64])
def test_votes_are_those_of_brute_force(k, batch):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(10, 16, generator=generator)
    features = torch.randn(50, 16, generator=generator)
    labels = torch.randint(5, (50,), generator=generator)
    nearest = NearestNeighbours(queries, 40)
    for part in range(0, 50, batch):
        nearest.add(features[part : part + batch], labels[part : part + batch])
    votes = nearest.vote(k, 0.07).double()
    expected = vote_by_hand(queries.numpy(), features.double().numpy(), labels.numpy(), k, 0.07)
    # Votes of a query may be scaled; float32 similarities differ by 1e-7, times 1 / 0.07.
    votes, expected = (v / v.sum(1, keepdims=True) for v in (votes, torch.tensor(expected)))
    assert torch.allclose(votes, expected[:, : votes.shape[1]], rtol=1e-4, atol=1e-6)


def test_votes_do_not_overflow():
    features = torch.ones(4, 2)
    nearest = NearestNeighbours(features, 4)
    nearest.add(features, torch.tensor([0, 1, 1, 1]))
    assert nearest.vote(4, 1e-3).argmax(1).tolist() == [1] * 4


def test_knn_on_a_pretrained_checkpoint(pretrained, options, shapes, capsys):
    run('knn', CONFIGS[0], pretrained, '-k', 1, 5, 20, '--cfg-options', *options)
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[2]: float(line.split()[-1]) for line in lines if line.startswith('k = ')}

    backbone = ConvNeXtV2('atto').eval()
    weights = torch.load(pretrained, weights_only=False)['state_dict']
    backbone.load_state_dict(
        {k[9:]: v for k, v in weights.items() if k.startswith('backbone.')}, strict=False
    )
    with torch.no_grad():
        images, labels = read_images(shapes, 'train')
        features = backbone(images)[-1].double().numpy()
        images, truth = read_images(shapes, 'val')
        queries = backbone(images)[-1].double().numpy()
    for k in (1, 5, 20):
        votes = vote_by_hand(queries, features, labels.numpy(), k, 0.07)
        accuracy = (votes.argmax(1) == truth.numpy()).mean()
        # One image of 24 may change sides: the resize of the pipeline is not ours.
        assert found[str(k)] == pytest.approx(100 * accuracy, abs=100 / NUM_VAL + 0.01)
    assert found['1'] > 60  # six classes


def test_linear_probe_learns_on_frozen_features(pretrained, options, tmp_path):
    schedule = ['train_cfg.max_epochs=24', 'param_scheduler.0.end=1', 'param_scheduler.1.begin=1']
    schedule += ['param_scheduler.1.end=24', 'default_hooks.logger.interval=1']
    run('train', CONFIGS[0], '--work-dir', tmp_path, '--cfg-options', *options, *schedule)
    log = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    entries = [json.loads(line) for line in log]
    accuracy = [entry['accuracy/top1'] for entry in entries if 'accuracy/top1' in entry]
    assert len(accuracy) == 24
    assert accuracy[-1] > 90 > accuracy[0]

    before = torch.load(pretrained, weights_only=False)['state_dict']
    after = torch.load(tmp_path / 'epoch_24.pth', weights_only=False)['state_dict']
    frozen = [name for name in after if name.startswith('backbone.') and '.norm3.' not in name]
    assert len(frozen) == len([name for name in before if name.startswith('backbone.')])
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert torch.equal(after['backbone.norm3.weight'], torch.ones(320))
    assert torch.equal(after['backbone.norm3.bias'], torch.zeros(320))
    assert after['neck.bn.running_mean'].abs().sum() > 0


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem.split('_')[0])
def test_configs_of_the_probe(path):
    config = read_config(str(path))
    size = path.stem.split('_')[0].removeprefix('convnextv2-')
    assert config.model.backbone.init_cfg.checkpoint.startswith(f'convnextv2://{size}')
    assert config.model.backbone.init_cfg.checkpoint.endswith('_fcmae_in1k')
    config.model.backbone.pop('init_cfg')
    model = check_model(config.model)
    assert (
        model.backbone.channels == ConvNeXtV2.arch_settings[config.model.backbone.arch]['channels']
    )
    assert model.neck.bn.num_features == model.head.fc.in_features == model.backbone.channels[-1]
    assert '_8xb512-accum4-90e-' in path.stem
    loader, wrapper = config.train_dataloader, config.optim_wrapper
    assert 8 * loader.batch_size * wrapper.accumulative_counts == 16384
    assert wrapper.optimizer.lr == pytest.approx(0.1 * 16384 / 256)
    assert config.train_cfg.max_epochs == config.param_scheduler[-1].end == 90
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rsplit('.', 1)[0] for name in trains} == {'head.fc', 'backbone.norm3'}


MISTAKES = [
    (['{config}', 'no.pth'], 'checkpoint no.pth does not exist'),
    (['{config}', '{fcmae}', '-k', '0'], '-k and --temperature must be positive'),
    (['{config}', '{fcmae}', '-k', '49'], '-k 49 is not allowed: there are 48 training images'),
    (['configs/demo/upernet_convnextv2-a_shapes.py', '{fcmae}'], 'the config is of EncoderDecoder'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_end_in_one_sentence(arguments, message, pretrained, options, capsys):
    known = {'{config}': CONFIGS[0], '{fcmae}': pretrained}
    arguments = [known.get(a, ROOT / a if a.startswith('configs/') else a) for a in arguments]
    if arguments[0] == CONFIGS[0]:
        arguments += ['--cfg-options', *options]
    with pytest.raises(SystemExit) as stop:
        run('knn', *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_checkpoint_of_another_size_is_refused(pretrained, options, capsys):
    with pytest.raises(SystemExit):
        run('knn', CONFIGS[0], pretrained, '--cfg-options', *options, 'model.backbone.arch=femto')
    assert 'atto' in capsys.readouterr().err
