"""Every analysis tool run on tiny models and drawn images; its JSON against direct computation."""

import gc
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from run_tool import run_tool

from convnextv2_mm import analysis
from convnextv2_mm.apis.analysis import feature_diversity
from convnextv2_mm.apis.inference import build_model, image_reader
from convnextv2_mm.datasets.shapes.drawing import write_shapes
from convnextv2_mm.engine.config.reading import read_config
from convnextv2_mm.models import FCMAE

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['convnextv2_mm'])
model = dict(
    type='convnextv2_mm.FCMAE',
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor', mean=[124, 116, 104], std=[58, 57, 57], to_rgb=True
    ),
    backbone=dict(
        type='convnextv2_mm.SparseConvNeXtV2',
        arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]),
    ),
    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=32, embed_dims=16),
    head=dict(type='convnextv2_mm.FCMAEHead'),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_dataloader = dict(
    dataset=dict(type='CustomDataset', pipeline=pipeline), collate_fn=dict(type='default_collate')
)
"""
DETECTION = """
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['convnextv2_mm'])
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[124, 116, 104], std=[58, 57, 57], bgr_to_rgb=True
    ),
    backbone=dict(
        type='convnextv2_mm.ConvNeXtV2',
        arch=dict(depths=[1, 1, 2, 1], channels=[8, 16, 24, 32]),
        out_indices=[1, 2, 3],
        gap_before_final_norm=False,
    ),
)
test_dataloader = dict(
    dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')])
)
"""
LAYERS = ['stages.0.0', 'stages.1.0', 'stages.2.0', 'stages.2.1', 'stages.3.0']


def run(tool: str, *arguments: object) -> None:
    run_tool(f'analysis_tools/{tool}', *arguments)


def numbers(path: Path) -> dict:
    return json.loads(path.with_suffix('.json').read_text())


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=12, num_val=1, size=64, seed=0)
    return sorted((root / 'images' / 'train').rglob('*.jpg'))


@pytest.fixture(scope='module')
def folder(images):
    return images[0].parent.parent


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Config and checkpoint of FCMAE on V2 and on V1, and of a detector with the encoder of V2."""
    root = tmp_path_factory.mktemp('models')
    changes = {
        'v2': {},
        'v1': {'model.backbone.use_grn': False, 'model.backbone.layer_scale_init_value': 0.5},
    }
    found = {}
    for name, options in changes.items():
        config = Config.fromstring(CONFIG, '.py')
        config.merge_from_dict(options)
        config.dump(root / f'{name}.py')
        torch.manual_seed(len(found))
        model = FCMAE(**{key: value for key, value in config.model.items() if key in PARTS})
        for key, parameter in model.named_parameters():
            if '.grn.' in key:
                torch.nn.init.normal_(parameter)
        torch.save(dict(state_dict=model.state_dict()), root / f'{name}.pth')
        found[name] = [root / f'{name}.py', root / f'{name}.pth']
    (root / 'detector.py').write_text(DETECTION)
    found['detector'] = [root / 'detector.py', root / 'v2.pth']
    return found


PARTS = ('backbone', 'neck', 'head')


def fcmae(pair, **options):
    config = read_config(str(pair[0]), options)
    return build_model(config, str(pair[1]), 'cpu'), image_reader(config)


def features_of(pair, image):
    """Expansion features and outputs of each block, by a forward pass written out."""
    model, read = fcmae(pair)
    x = model.data_preprocessor(read(str(image)), False)['inputs'].permute(0, 2, 3, 1)
    expansion, output = {}, {}
    with torch.no_grad():
        for stage, (downsample, blocks) in enumerate(
            zip(model.backbone.downsample_layers, model.backbone.stages, strict=True)
        ):
            x = downsample(x)
            for number, block in enumerate(blocks):
                y = block.depthwise_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                y = F.gelu(block.pointwise_conv1(block.norm(y)))
                if block.grn is not None:
                    norm = y.norm(dim=(1, 2), keepdim=True)
                    response = norm / (norm.mean(-1, keepdim=True) + 1e-6)
                    y = block.grn.gamma * (y * response) + block.grn.beta + y
                expansion[f'stages.{stage}.{number}'] = y
                y = block.pointwise_conv2(y)
                x = x + (y if block.gamma is None else y * block.gamma)
                output[f'stages.{stage}.{number}'] = x
    return expansion, output


def distance_by_pairs(features):
    maps = features.double().flatten(0, -2).T  # [C, L]
    cosines = F.cosine_similarity(maps[:, None], maps[None], dim=-1, eps=0)
    return ((1 - cosines) / 2).mean().item()


# ------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize('kind', ['expansion', 'output'])
def test_feature_diversity(models, images, folder, tmp_path, capsys, kind):
    out = tmp_path / 'new' / 'diversity.svg'
    versus = ['--versus', *models['v1'], '--names', 'V2', 'V1']
    run('feature_diversity', *models['v2'], folder, *versus, '--features', kind, '--out', out)
    found = numbers(out)
    assert found['images'] == 12
    assert [model['name'] for model in found['models']] == ['V2', 'V1']
    printed = capsys.readouterr().out
    for model, pair in zip(found['models'], (models['v2'], models['v1']), strict=True):
        assert [row['layer'] for row in model['layers']] == LAYERS
        assert [row['depth'] for row in model['layers']] == [0, 0.25, 0.5, 0.75, 1]
        each = [features_of(pair, image)[kind == 'output'] for image in images]
        for row in model['layers']:
            distances = [distance_by_pairs(features[row['layer']]) for features in each]
            assert row['cosine_distance'] == pytest.approx(np.mean(distances), rel=1e-5)
            assert row['std'] == pytest.approx(np.std(distances), rel=1e-2, abs=1e-6)
            assert f'{row["layer"]:12}{row["cosine_distance"]:10.4f}' in printed
    assert 'normalised depth' in out.read_text()
    assert not list(out.parent.glob('.*'))  # nothing half-written


def test_a_detector_has_the_features_of_its_backbone(models, folder, tmp_path):
    for name in ('v2', 'detector'):
        out = tmp_path / f'{name}.png'
        run('feature_diversity', *models[name], folder, '--num-images', 2, '--out', out)
    layers = [
        numbers(tmp_path / f'{name}.png')['models'][0]['layers'] for name in ('v2', 'detector')
    ]
    for expected, found in zip(*layers, strict=True):
        assert found['cosine_distance'] == pytest.approx(expected['cosine_distance'], rel=1e-5)


def test_class_selectivity(models, images, folder, tmp_path):
    out = tmp_path / 'selectivity.png'
    layers = ['--layers', 'stages.2.1', 'stages.0.0']
    run('class_selectivity', *models['v2'], folder, *layers, '--out', out)
    found = numbers(out)
    classes = sorted({image.parent.name for image in images})
    assert found['classes'] == classes
    assert len(classes) > 2
    activity = {name: {c: [] for c in classes} for name in layers[1:]}
    for image in images:
        _, output = features_of(models['v2'], image)
        for name, of_class in activity.items():
            of_class[image.parent.name].append(output[name][0].double().relu().mean((0, 1)))
    for row in found['models'][0]['layers']:
        of_class = activity[row['layer']].values()
        means = torch.stack([torch.stack(values).mean(0) for values in of_class])
        index = []
        for column in means.T.tolist():
            largest = max(column)
            rest = (sum(column) - largest) / (len(column) - 1)
            index += [(largest - rest) / (largest + rest)] if largest else []
        assert row['mean'] == pytest.approx(np.mean(index), rel=1e-5)
        assert row['inactive'] == means.shape[1] - len(index)
        density, _ = np.histogram(index, 25, (0, 1), density=True)
        assert row['density'] == pytest.approx(density.tolist())
    assert cv2.imread(str(out)).std() > 0


def test_feature_maps(models, images, tmp_path):
    out = tmp_path / 'maps.svg'
    versus = ['--versus', *models['v1'], '--names', 'V2', 'V1', '--channels', 10]
    run('feature_maps', *models['v2'], images[3], *versus, '--out', out)
    found = numbers(out)
    for model, pair in zip(found['models'], (models['v2'], models['v1']), strict=True):
        expansion, _ = features_of(pair, images[3])
        assert [row['layer'] for row in model['layers']] == [
            'stages.0.0',
            'stages.1.0',
            'stages.2.1',
            'stages.3.0',
        ]
        for row in model['layers']:
            maps = expansion[row['layer']][0].double()
            assert row['shape'] == list(maps.shape)
            assert row['cosine_distance'] == pytest.approx(distance_by_pairs(maps[None]), rel=1e-5)
            maps = maps.flatten(0, 1)
            flat = (maps.std(0, correction=0) < 0.01 * maps.std(correction=0)).double().mean()
            assert row['flat'] == pytest.approx(flat.item())
            assert row['shown']['mean'] == pytest.approx(maps.mean(0)[:10].tolist(), abs=1e-5)
    text = out.read_text()
    assert 'stages.2.1, 10 of 96 channels, 4x4' in text
    assert text.count('10 of 128 channels') == 2


def test_reconstructions(models, images, tmp_path, capsys):
    out = tmp_path / 'grid.png'
    run('reconstruct', *models['v2'], *images[:5], '--rows', 2, '--out', out)
    names = {'grid.png', 'grid-2.png', 'grid-3.png', 'grid.json'}
    assert {path.name for path in tmp_path.iterdir()} == names
    found = numbers(out)
    model, read = fcmae(models['v2'])
    with torch.no_grad():
        losses = [model.test_step(read(str(i)))[0].reconstruction_loss for i in images[:5]]
    assert [row['image'] for row in found['images']] == [str(image) for image in images[:5]]
    assert [row['loss'] for row in found['images']] == pytest.approx(losses)
    assert found['mean_loss'] == pytest.approx(np.mean(losses))
    assert f'{np.mean(losses):8.4f}  mean of 5 images, 60% masked' in capsys.readouterr().out
    heights = [cv2.imread(str(tmp_path / f'grid{end}.png')).shape[0] for end in ('', '-3')]
    assert 1.5 < heights[0] / heights[1] < 2  # two rows and one


def test_loss_at_mask_ratios(models, images, tmp_path):
    out = tmp_path / 'ratio.png'
    run('mask_ratio', 'checkpoint', *models['v2'], *images[:4], '--ratios', 0.7, 0.3, '--out', out)
    found = numbers(out)
    assert found['images'] == 4
    assert [row['model.mask_ratio'] for row in found['rows']] == [0.3, 0.7]
    for row in found['rows']:
        model, read = fcmae(models['v2'], **{'model.mask_ratio': row['model.mask_ratio']})
        with torch.no_grad():
            losses = [model.test_step(read(str(i)))[0].reconstruction_loss for i in images[:4]]
        assert row['loss'] == pytest.approx(np.mean(losses))
        assert row['standard_error'] == pytest.approx(np.std(losses, ddof=1) / 2, rel=1e-3)


SWEEP = [
    {'model.mask_ratio': 0.6, 'run': 'a', 'mIoU': 40.0, 'seed': 1},
    {'model.mask_ratio': 0.4, 'run': 'b', 'mIoU': 38.0, 'seed': 1},
    {'model.mask_ratio': 0.6, 'run': 'c', 'mIoU': 41.0, 'seed': 2},
    {'model.mask_ratio': 0.8, 'run': 'failed', 'mIoU': None, 'seed': 2},
]


def test_sweep_of_mask_ratios(tmp_path, capsys):
    table, out = tmp_path / 'table.json', tmp_path / 'sweep.svg'
    table.write_text(json.dumps(SWEEP))
    run('mask_ratio', 'sweep', table, '--metrics', 'mIoU', '--out', out)
    assert numbers(out) == dict(table=str(table), metrics=['mIoU'], rows=SWEEP)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [['0.6', '40'], ['0.4', '38'], ['0.6', '41'], ['0.8', '-']]
    assert '>mIoU<' in out.read_text()
    run('mask_ratio', 'sweep', table, '--out', out)
    assert numbers(out)['metrics'] == ['mIoU', 'seed']


def write_log(work_dir: Path, timestamp: str, entries: list[dict]) -> None:
    path = work_dir / timestamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


def test_runs_are_compared(tmp_path, capsys):
    def step(i, loss):
        return dict(loss=loss, lr=1e-4, base_lr=1e-2, epoch=1 + i // 20, iter=i, step=i)

    first = [step(10, 3.0), step(20, 2.0), {'coco/bbox_mAP': 0.1, 'step': 1}, step(30, 9.0)]
    write_log(tmp_path / 'a', '20260101_000000', first)
    # Resumed after the first epoch.
    second = [step(30, 1.5), step(40, 1.0), {'coco/bbox_mAP': 0.2, 'step': 2}]
    write_log(tmp_path / 'a', '20260102_000000', second)
    by_iteration = [dict(loss=2.5, lr=1e-3, iter=5, step=5), dict(mIoU=30.0, step=5)]
    write_log(tmp_path / 'b', '20260101_000000', by_iteration)
    out = tmp_path / 'runs.svg'
    run('compare_runs', tmp_path / 'a', tmp_path / 'b', '--out', out)
    curves = {(c['key'], c['run']): c for c in numbers(out)['curves']}
    assert set(curves) == {
        ('loss', 'a'),
        ('loss', 'b'),
        ('lr', 'a'),
        ('lr', 'b'),
        ('coco/bbox_mAP', 'a'),
        ('mIoU', 'b'),
    }
    assert curves['loss', 'a']['steps'] == [10, 20, 30, 40]
    assert curves['loss', 'a']['values'] == [3, 2, 1.5, 1]
    assert curves['lr', 'a']['values'] == [1e-2] * 4
    assert curves['coco/bbox_mAP', 'a'] == {
        'key': 'coco/bbox_mAP',
        'run': 'a',
        'unit': 'epoch',
        'steps': [1, 2],
        'values': [0.1, 0.2],
    }
    assert (curves['mIoU', 'b']['unit'], curves['mIoU', 'b']['steps']) == ('iteration', [5])
    assert '1.5' not in capsys.readouterr().out.split('lr')[0].split('loss')[2]
    text = out.read_text()
    assert all(f'>{label}<' in text for label in ('iteration', 'epoch', 'loss', 'mIoU', 'a', 'b'))


# ------------------------------------------------------------------------------ how it is done


def test_features_and_images_are_not_kept(models, images, tmp_path, monkeypatch):
    """The peak of live tensors does not depend on how many images come."""
    alive, peaks = [], []
    cosine_distance = analysis.cosine_distance

    def counted(features):
        if features.shape[-1] == 4 * 32:  # the last block of an image
            alive.append(
                sum(t.numel() for t in gc.get_objects() if issubclass(type(t), torch.Tensor))
            )
        return cosine_distance(features)

    monkeypatch.setattr(feature_diversity, 'cosine_distance', counted)
    for count in (2, 12):
        alive.clear()
        run('feature_diversity', *models['v2'], *images[:count], '--out', tmp_path / 'x.png')
        assert len(alive) == count
        peaks.append(max(alive))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)


def test_a_sample_of_a_folder_is_always_the_same(models, images, folder, tmp_path):
    chosen = []
    for name in ('a.png', 'b.png'):
        arguments = [*models['v2'], folder, '--num-images', 3, '--out', tmp_path / name]
        run('reconstruct', *arguments)
        chosen.append([row['image'] for row in numbers(tmp_path / name)['images']])
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert len(chosen[0]) == 3
    assert chosen[0] != [str(image) for image in images[:3]]


V2, OUT = ['{v2}'], ['--out', 'x.png']
MISTAKES = [
    (['feature_diversity', 'no.py', 'no.pth', '{images}', *OUT], 'config no.py does not exist'),
    (['feature_diversity', '{config}', 'no.pth', '{images}', *OUT], 'checkpoint no.pth does not'),
    (['feature_diversity', *V2, 'no.jpg', *OUT], 'image no.jpg does not exist'),
    (['feature_diversity', *V2, '{empty}', *OUT], 'holds no image: .jpg'),
    (['feature_diversity', *V2, '{images}', *OUT, '--num-images', 0], '--num-images 0 is not'),
    (['feature_diversity', *V2, '{images}', '--out', 'x.doc'], 'must end in .png or .svg'),
    (
        ['feature_diversity', *V2, '{images}', *OUT, '--layers', 'stages.9.0'],
        'layer stages.9.0 does not exist: choose from stages.0.0, stages.1.0',
    ),
    (
        ['feature_diversity', *V2, '{images}', *OUT, '--versus', '{config}', '{v1.pth}'],
        'v1.pth is of a ConvNeXt V1',
    ),
    (
        ['feature_diversity', *V2, '{images}', *OUT, '--versus', *V2],
        '2 models need --names as many and different',
    ),
    (['feature_diversity', *V2, '{images}', *OUT, '--device', 'gpu'], "'gpu' cannot be used"),
    (['feature_diversity', *V2, '{broken}', *OUT], 'broken.jpg'),
    (['class_selectivity', *V2, '{image}', *OUT], 'images of 2 classes are needed: all are in'),
    (['reconstruct', '{detector}', '{image}', *OUT], 'is of RetinaNet, it must be of FCMAE'),
    (['mask_ratio', 'checkpoint', *V2, '{image}', '--ratios', 1.5, *OUT], '--ratios 1.5 is not'),
    (
        ['mask_ratio', 'checkpoint', *V2, '{image}', '--ratios', 0.9, *OUT],
        'mask_ratio 0.9 leaves nothing visible of 2x2 patches',
    ),
    (['mask_ratio', 'sweep', 'no.json', *OUT], 'table no.json does not exist'),
    (['mask_ratio', 'sweep', '{table}', *OUT], 'has no column model.mask_ratio: it has lr, mIoU'),
    (['mask_ratio', 'sweep', '{config}', *OUT], 'is not a JSON list of rows'),
    (['compare_runs', '{empty}', *OUT], 'has no log */vis_data/scalars.json'),
    (['compare_runs', '{run}', *OUT, '--keys', 'los'], 'no run logged los: choose from iter, loss'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_end_in_one_sentence(
    arguments, message, models, images, folder, tmp_path, monkeypatch, capsys
):
    for name in ('cwd', 'empty'):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    (tmp_path / 'broken.jpg').write_text('no picture')
    (tmp_path / 'table.json').write_text('[{"lr": 1, "mIoU": 2}]')
    write_log(tmp_path / 'run', '20260101_000000', [dict(loss=1.0, iter=1, step=1)])
    known = {f'{{{name}}}': pair for name, pair in models.items()}
    known |= {'{config}': [models['v2'][0]], '{v1.pth}': [models['v1'][1]], '{images}': [folder]}
    known |= {'{image}': [images[0]], '{broken}': [tmp_path / 'broken.jpg']}
    known |= {'{empty}': [tmp_path / 'empty'], '{run}': [tmp_path / 'run']}
    known |= {'{table}': [tmp_path / 'table.json']}
    with pytest.raises(SystemExit) as stop:
        run(*[part for argument in arguments for part in known.get(argument, [argument])])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'error: ' in line
    assert message in line
    assert not list((tmp_path / 'cwd').iterdir())
