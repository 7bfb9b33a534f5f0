"""train, test and infer, run for real on a few drawings; and what a user's mistake ends in."""

import json
import pickle
from pathlib import Path

import cv2
import pytest
import torch
from mmpretrain.datasets import ImageNet
from real_formats import write_real_formats
from run_tool import run_tool as run

from convnextv2_mm.datasets.shapes.drawing import CLASSES, draw, write_shapes
from convnextv2_mm.engine.config.reading import check_model, read_config

ROOT = Path(__file__).parents[2]
# Classification has no demo: a small config of what a user would write.
CLASSIFICATION = """
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['convnextv2_mm'])
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=6, mean=[124, 116, 104], std=[58, 57, 57], to_rgb=True),
    backbone=dict(
        type='convnextv2_mm.ConvNeXtV2',
        arch='atto',
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(type='LinearClsHead', num_classes=6, in_channels=320, topk=1),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='convnextv2_mm.ShapesClsDataset', split='train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='convnextv2_mm.ShapesClsDataset', split='val', pipeline=pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.9),
)
"""
DEMO = {
    'pretrain': 'configs/demo/fcmae_convnextv2-a_shapes.py',
    'detection': 'configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py',
    'segmentation': 'configs/demo/upernet_convnextv2-a_shapes.py',
}
METRIC = {
    'pretrain': 'fcmae/loss',
    'classification': 'accuracy/top1',
    'detection': 'coco/bbox_mAP',
    'segmentation': 'mIoU',
}


def logged(work_dir: Path, key: str) -> list[float]:
    """All values of a scalar in the newest log under ``work_dir``."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    entries = [json.loads(line) for line in newest.read_text().splitlines()]
    return [entry[key] for entry in entries if key in entry]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=8, num_val=4, size=64, seed=0)
    return root


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'convnextv2-a_shapes.py'
    path.write_text(CLASSIFICATION)
    return {'classification': path} | {task: ROOT / config for task, config in DEMO.items()}


@pytest.fixture(scope='module')
def options(shapes):
    """Options that make a config take four steps on those drawings."""
    common = ['default_hooks.logger.interval=1', 'train_dataloader.batch_size=4']
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        common += [f'{loader}.dataset.make=None', f'{loader}.dataset.data_root={shapes}']
        common += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
    epochs = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    epochs += ['default_hooks.checkpoint.interval=1']
    iterations = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    iterations += ['default_hooks.checkpoint.interval=2']
    annotations = f'{shapes}/annotations/instances_val.json'
    evaluators = [f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')]
    return {
        'pretrain': [*common, *epochs, 'train_dataloader.dataset.pipeline.1.scale=64'],
        'classification': [*common, *epochs],
        'detection': [*common, *epochs, *evaluators],
        'segmentation': [*common, *iterations, 'model.data_preprocessor.size=(64,64)'],
    }


@pytest.fixture(scope='module')
def pretrained(configs, options, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('pretrain')
    changes = ['--cfg-options', *options['pretrain']]
    run('train', configs['pretrain'], '--work-dir', work_dir, *changes)
    return work_dir


@pytest.fixture(scope='module', params=METRIC)
def trained(request, configs, options, pretrained, tmp_path_factory):
    """Work dir of a short training run of each task; fine-tuning starts from the pre-training."""
    task = request.param
    if task == 'pretrain':
        return task, pretrained
    work_dir = tmp_path_factory.mktemp(task)
    init = f'model.backbone.init_cfg.checkpoint={pretrained}/epoch_2.pth'
    run('train', configs[task], '--work-dir', work_dir, '--cfg-options', *options[task], init)
    return task, work_dir


def newest_checkpoint(work_dir: Path) -> str:
    return str(work_dir / (work_dir / 'last_checkpoint').read_text())


def test_training_logs_and_evaluates(trained):
    task, work_dir = trained
    losses = logged(work_dir, 'loss')
    assert len(losses) == 4
    assert all(loss > 0 for loss in losses)
    assert len(logged(work_dir, METRIC[task])) == 1


def test_fine_tuning_starts_from_the_pretrained_weights(trained, pretrained):
    task, work_dir = trained
    if task == 'pretrain':
        return
    before = torch.load(newest_checkpoint(pretrained), weights_only=False)['state_dict']
    after = torch.load(newest_checkpoint(work_dir), weights_only=False)['state_dict']
    name = 'backbone.stages.0.0.depthwise_conv.weight'
    # A few steps with decayed rates move little; other initial weights would be far away.
    assert (after[name] - before[name]).norm() < 0.2 * before[name].norm()


def test_evaluation_gives_what_training_logged(trained, configs, options, tmp_path):
    task, work_dir = trained
    out, pictures = tmp_path / 'predictions.pkl', tmp_path / 'pictures'
    arguments = ['--work-dir', tmp_path, '--out', out, '--show-dir', pictures]
    checkpoint = newest_checkpoint(work_dir)
    run('test', configs[task], checkpoint, *arguments, '--cfg-options', *options[task])
    log = next(tmp_path.glob('*/*.json'))
    assert json.loads(log.read_text())[METRIC[task]] == pytest.approx(
        logged(work_dir, METRIC[task])[0], rel=1e-4
    )
    with out.open('rb') as file:
        assert len(pickle.load(file)) == 4
    assert len(list(pictures.glob('*.png'))) == 4


def test_multi_scale_test(configs, options, trained, tmp_path):
    task, work_dir = trained
    if task != 'segmentation':
        return
    arguments = [newest_checkpoint(work_dir), '--work-dir', tmp_path, '--tta']
    run('test', configs[task], *arguments, '--cfg-options', *options[task])
    assert 0 < json.loads(next(tmp_path.glob('*/*.json')).read_text())['mIoU'] <= 100


def test_inference_writes_pictures_and_predictions(trained, configs, options, shapes, tmp_path):
    task, work_dir = trained
    images = sorted((shapes / 'images' / 'val').rglob('*.jpg'))[:2]
    arguments = [newest_checkpoint(work_dir), *images, '--out', tmp_path]
    run('infer', configs[task], *arguments, '--cfg-options', *options[task])
    for image in images:
        picture = cv2.imread(str(tmp_path / f'{image.stem}.png'))
        # Three panels side by side, or the drawing; enlarged for legible labels.
        assert picture.shape == ((384, 3 * 384, 3) if task == 'pretrain' else (384, 384, 3))
        if task == 'segmentation':
            labels = cv2.imread(str(tmp_path / f'{image.stem}_labels.png'), cv2.IMREAD_UNCHANGED)
            assert labels.shape == (64, 64)
            assert labels.max() < 7
            continue
        result = json.loads((tmp_path / f'{image.stem}.json').read_text())
        if task == 'pretrain':
            assert result['reconstruction_loss'] > 0
        elif task == 'classification':
            assert result['label'] in CLASSES
            assert 1 / 6 <= result['score'] <= 1
        else:
            assert all(set(entry) == {'label', 'score', 'bbox', 'mask'} for entry in result)


def test_resume_goes_on_where_it_stopped(options, pretrained, tmp_path):
    work_dir = tmp_path / 'run'
    config, changes = ROOT / DEMO['pretrain'], options['pretrain']
    run(
        'train', config, '--work-dir', work_dir, '--cfg-options', *changes, 'train_cfg.max_epochs=1'
    )
    run('train', config, '--work-dir', work_dir, '--resume', '--cfg-options', *changes)
    assert len(logged(work_dir, 'loss')) == 2  # the second epoch only
    assert newest_checkpoint(work_dir).endswith('epoch_2.pth')


ATTO = ['model.backbone.arch=atto', 'model.backbone.init_cfg=None']
PRETRAIN = [*ATTO, 'model.neck.in_channels=320', 'train_cfg.max_epochs=1']
CLASSIFICATION_ON_ATTO = [*ATTO, 'model.head.in_channels=320', 'train_cfg.max_epochs=1']
DETECTION = [*ATTO, 'model.neck.in_channels=[40,80,160,320]', 'train_cfg.max_epochs=1']
DETECTION += ['train_cfg.val_interval=2', 'model.train_cfg.rpn_proposal.max_per_img=50']
DETECTION += ['model.train_cfg.rcnn.sampler.num=8']
LSJ = [*DETECTION, 'model.data_preprocessor.batch_augments.0.size=(128,128)']
LSJ += ['train_dataloader.dataset.pipeline.2.scale=(128,128)']
LSJ += ['train_dataloader.dataset.pipeline.3.crop_size=(128,128)']
SEGMENTATION = [*ATTO, 'model.decode_head.in_channels=[40,80,160,320]', 'train_cfg.max_iters=2']
SEGMENTATION += ['model.auxiliary_head.in_channels=160', 'model.data_preprocessor.size=(64,64)']
SEGMENTATION += ['train_dataloader.dataset.pipeline.2.scale=(256,64)']
SEGMENTATION += ['train_dataloader.dataset.pipeline.3.crop_size=(64,64)']
SEGMENTATION += ['val_dataloader.dataset.pipeline.1.scale=(256,64)']
# One of each family that has no life in tests/journeys, on Atto and small images.
REAL = {
    'pretrain/fcmae_convnextv2-l_8xb256-accum2-1600e_in1k-224px.py': PRETRAIN,
    'pretrain/fcmae_convnextv2-b_8xb64-accum8-800e-gpu-decode_in1k-224px.py': [
        *PRETRAIN,
        'model.data_preprocessor.crop_size=64',
    ],
    'classification/convnextv2-t_8xb128-300e-fcmae_in1k-224px.py': CLASSIFICATION_ON_ATTO,
    'classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py': CLASSIFICATION_ON_ATTO,
    'classification/convnextv2-h_8xb64-accum8-90e-fcmae_in22k-224px.py': CLASSIFICATION_ON_ATTO,
    'classification/convnextv2-b_8xb64-30e-fcmae-in22k_in1k-224px.py': CLASSIFICATION_ON_ATTO,
    'classification/convnextv2-h_8xb32-accum2-30e-fcmae-in22k_in1k-384px.py': (
        CLASSIFICATION_ON_ATTO
    ),
    'classification/convnext-b_8xb128-accum4-300e_in1k-224px.py': CLASSIFICATION_ON_ATTO,
    'classification/convnextv2-b_8xb128-accum4-300e_in1k-224px.py': CLASSIFICATION_ON_ATTO,
    'detection/mask-rcnn_convnext-b_fpn_lsj-3x_coco.py': LSJ,
    'segmentation/upernet_convnext-b_4xb4-160k_ade20k-512px.py': SEGMENTATION,
    'segmentation/upernet_convnextv2-h_4xb4-160k-fcmae-in22k_ade20k-640px.py': SEGMENTATION,
}


@pytest.mark.parametrize('config', REAL)
def test_real_config_takes_two_steps_where_the_data_is_expected(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_real_formats(tmp_path)
    changes = ['train_dataloader.batch_size=1', 'optim_wrapper.accumulative_counts=1']
    if 'segmentation' in config:  # batch norm over the pooled 1x1 maps needs two images
        changes[0] = 'train_dataloader.batch_size=2'
    has_validation = 'pretrain' not in config and '_in22k' not in config
    for split in ('train', 'val')[: 1 + has_validation]:
        changes += [f'{split}_dataloader.num_workers=0']
        changes += [f'{split}_dataloader.persistent_workers=False']
    changes += ['default_hooks.logger.interval=1']
    run('train', ROOT / 'configs' / config, '--cfg-options', *changes, *REAL[config])
    work_dir = tmp_path / 'work_dirs' / Path(config).stem
    losses = logged(work_dir, 'loss')
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    trained = torch.load(newest_checkpoint(work_dir), weights_only=False)
    assert {state['step'].item() for state in trained['optimizer']['state'].values()} == {2}


@pytest.mark.parametrize(
    'config',
    [
        'classification/convnextv2-a_8xb128-600e-fcmae_in1k-224px.py',
        'detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py',
        'segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py',
    ],
)
def test_inference_knows_the_classes_of_real_data_sets(config, tmp_path):
    path = ROOT / 'configs' / config
    model = check_model(read_config(str(path), {'model.backbone.init_cfg': None}).model)
    torch.manual_seed(0)
    weights = {k: 0.01 * torch.randn(v.shape) for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'random.pth')
    cv2.imwrite(str(tmp_path / 'image.jpg'), draw(0, 'val', 0, 64).image)
    scale = 64 if 'classification' in config else '(64,64)'
    changes = ['--cfg-options', f'test_dataloader.dataset.pipeline.1.scale={scale}']
    run('infer', path, tmp_path / 'random.pth', tmp_path / 'image.jpg', '--out', tmp_path, *changes)
    assert cv2.imread(str(tmp_path / 'image.png')) is not None
    if 'classification' in config:
        label = json.loads((tmp_path / 'image.json').read_text())['label']
        assert label in ImageNet.METAINFO['classes']


def test_learning_rate_is_scaled_to_the_images_of_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_real_formats(tmp_path)
    changes = [*PRETRAIN, 'train_dataloader.batch_size=1', 'train_dataloader.num_workers=0']
    changes += ['train_dataloader.persistent_workers=False']
    config = ROOT / 'configs/pretrain/fcmae_convnextv2-l_8xb256-accum2-800e_in1k-224px.py'
    run('train', config, '--auto-scale-lr', '--cfg-options', *changes)
    trained = torch.load(newest_checkpoint(next(tmp_path.glob('work_dirs/*'))), weights_only=False)
    # One image twice a step, and 1.5e-4 for 256.
    for group in trained['optimizer']['param_groups']:
        assert group['initial_lr'] == pytest.approx(1.5e-4 * 2 / 256)


MISTAKES = [
    (['train', 'configs/demo/nothing.py'], 'nothing.py does not exist'),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'model.backbone.arch=bas'],
        "arch 'bas' is unknown",
    ),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'model.backbone.frozen_stages=7'],
        'frozen_stages 7 is not allowed: it must be 0 to 4',
    ),
    (
        [
            'train',
            DEMO['pretrain'],
            '--cfg-options',
            'model.backbone.type=convnextv2_mm.ConvNextV2',
        ],
        'convnextv2_mm.ConvNextV2 is not in the',
    ),
    (['train', DEMO['pretrain'], '--cfg-options', 'model.mask_ratio=1.5'], 'mask_ratio 1.5'),
    (
        ['train', 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'],
        'data/coco does not exist',
    ),
    (
        ['train', DEMO['detection'], '--cfg-options', 'model.backbone.init_cfg.checkpoint=no.pth'],
        'checkpoint no.pth does not exist',
    ),
    (
        ['train', DEMO['detection'], '--cfg-options', 'model.backbone.init_cfg.checkpoint=no.pth'],
        'model.backbone.init_cfg.checkpoint: checkpoint',
    ),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'load_from=no.pth'],
        'load_from: checkpoint no.pth does not exist',
    ),
    (['train', DEMO['pretrain'], '--resume', 'no.pth'], '--resume: checkpoint no.pth does not'),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'modle.mask_ratio=0.5'],
        'modle is not a key that is read: did you mean model?',
    ),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'model.backbone.drop_paht_rate=0.1'],
        'did you mean model.backbone.drop_path_rate?',
    ),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'optim_wrapper.clip_gard.max_norm=1'],
        'did you mean optim_wrapper.clip_grad?',
    ),
    (
        [
            'train',
            DEMO['pretrain'],
            '--cfg-options',
            'train_dataloader.dataset.pipeline.1.scale=72',
        ],
        'train_dataloader: image size 72x72 is not allowed',
    ),
    (
        [
            'train',
            DEMO['segmentation'],
            '--cfg-options',
            'model.backbone.init_cfg=None',
            'model.auxiliary_head.num_classes=6',
        ],
        'model.auxiliary_head.num_classes is 6, but convnextv2_mm.ShapesSegDataset of '
        'train_dataloader has 7 classes',
    ),
    (
        ['test', DEMO['pretrain'], '{fcmae}', '--cfg-options', 'test_dataloader.batchsize=2'],
        'did you mean test_dataloader.batch_size?',
    ),
    (
        ['infer', DEMO['pretrain'], '{fcmae}', 'no.jpg', '--out', 'x', '--cfg-options', 'modl=1'],
        'did you mean model?',
    ),
    (
        ['train', DEMO['pretrain'], '--cfg-options', 'test_dataloader.dataset.metainfo.CLASSES=1'],
        'FCMAEMonitorHook: test_dataloader: metainfo.CLASSES is not a key that is read',
    ),
    (['test', DEMO['detection'], 'no.pth'], 'checkpoint no.pth does not exist'),
    (['test', DEMO['detection'], 'README.md'], 'README.md is not a checkpoint'),
    (['test', DEMO['detection'], '{fcmae}'], 'is not one of MaskRCNN: '),
    (['test', DEMO['pretrain'], '{fcmae}', '--tta'], 'no tta_pipeline and tta_model'),
    (['test', DEMO['pretrain'], '{fcmae}', '--out', 'x.json'], 'must end in .pkl'),
    (['infer', DEMO['pretrain'], '{fcmae}', 'no.jpg', '--out', 'x'], 'image no.jpg does not exist'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_end_in_one_sentence(
    arguments, message, options, pretrained, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    known = {'{fcmae}': f'{pretrained}/epoch_2.pth', 'README.md': ROOT / 'README.md'}
    known |= {path: ROOT / path for path in arguments if path.startswith('configs/')}
    tool, *rest = [known.get(a, a) for a in arguments]
    if 'configs/demo' in str(rest[0]) and 'nothing' not in str(rest[0]):
        task = next(t for t, path in DEMO.items() if str(rest[0]).endswith(path))
        data = [o for o in options[task] if '.dataset.make' in o or '.data_root' in o]
        rest += data if '--cfg-options' in rest else ['--cfg-options', *data]
    with pytest.raises(SystemExit) as stop:
        run(tool, *rest)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    assert message in line
    assert not list(tmp_path.iterdir())


def test_wrong_size_of_a_checkpoint_is_named(configs, options, pretrained, capsys):
    other = ['model.backbone.arch=femto', 'model.neck.in_channels=384', *options['pretrain']]
    with pytest.raises(SystemExit):
        run('test', configs['pretrain'], newest_checkpoint(pretrained), '--cfg-options', *other)
    assert 'has shape (40, 3, 4, 4), the config builds (48, 3, 4, 4)' in capsys.readouterr().err


def test_resume_refuses_a_broken_checkpoint(options, tmp_path, capsys):
    (tmp_path / 'epoch_1.pth').write_bytes(b'half of it')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    arguments = ['--work-dir', tmp_path, '--resume', '--cfg-options', *options['pretrain']]
    with pytest.raises(SystemExit):
        run('train', ROOT / DEMO['pretrain'], *arguments)
    assert 'epoch_1.pth is not a checkpoint' in capsys.readouterr().err
