"""Own data: what a recipe finds out about it, and the sentences on data that cannot be used."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, PARAM_SCHEDULERS
from pycocotools import mask as coco_mask
from torch import nn

from convnextv2_mm import ConvNeXtV2
from convnextv2_mm.apis.own_data import RECIPES, choose_recipe
from convnextv2_mm.apis.train import check_config
from convnextv2_mm.checkpoints import MODEL_ZOO
from convnextv2_mm.datasets import BaseSegDataset
from convnextv2_mm.engine.config.own_data import classes_of_labels, pair, split
from convnextv2_mm.engine.config.own_recipe import TASKS, published_weights
from convnextv2_mm.engine.config.reading import read_config


def write(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8) if values is None else values)


def write_coco(folder: Path, number: int = 10, segmentation=((1, 1, 9, 1, 9, 9),)) -> dict:
    """Images, and annotations whose category ids are not in the order of their names."""
    content = dict(images=[], annotations=[], categories=[])
    content['categories'] = [dict(id=7, name='dog'), dict(id=3, name='cat')]
    for i in range(number):
        write(folder / f'images/{i}.jpg')
        content['images'].append(dict(id=i, file_name=f'{i}.jpg', height=40, width=60))
        entry = dict(id=i + 1, image_id=i, category_id=(3, 7)[i % 2], bbox=[1, 1, 8, 8], area=64)
        entry |= dict(segmentation=segmentation) if segmentation else {}
        content['annotations'].append(entry | dict(iscrowd=0))
    (folder / 'train.json').write_text(json.dumps(content))
    return content


def write_all(folder: Path, number: int = 10) -> dict[str, dict]:
    """Data for each task, and the arguments that name it."""
    values = np.zeros((40, 60), np.uint8)
    for i in range(number):
        write(folder / f'photos/{i}.{("jpg", "png")[i % 2]}')
        write(folder / f'classes/{("ant", "bee")[i % 2]}/{i}.jpg')
        values[:20] = i % 3
        write(folder / f'masks/{i}.png', values)
    write_coco(folder, number)
    return dict(
        pretrain=dict(images=str(folder / 'photos')),
        classify=dict(images=str(folder / 'classes')),
        detect=dict(images=str(folder / 'images'), train=str(folder / 'train.json')),
        segment=dict(images=str(folder / 'photos'), masks=str(folder / 'masks')),
    )


def filled(task: str, folder: Path, options: dict | None = None, **own):
    config, changes = choose_recipe(task, **{'init': 'none', **own})
    return read_config(config, changes | (options or {}), str(folder / 'work_dir'))


def nones(node, path='') -> list[str]:
    """Keys of a config that are None."""
    if isinstance(node, dict):
        return [n for key, value in node.items() for n in nones(value, f'{path}.{key}')]
    if isinstance(node, list | tuple):
        return [n for value in node for n in nones(value, path)]
    return [path] if node is None else []


@pytest.mark.parametrize('task', TASKS)
def test_nothing_is_left_open(task, tmp_path):
    config = filled(task, tmp_path, **write_all(tmp_path)[task])
    allowed = {'.model.pretrained', '.model.backbone.init_cfg', '.load_from'}
    assert 'own' not in config
    assert set(nones({k: config[k] for k in config if '_dataloader' in k})) == set()
    assert set(nones(dict(model=config.model, schedule=config.param_scheduler))) <= allowed
    assert not nones(config.optim_wrapper) and not nones(config.train_cfg)
    for split_name, number in (('train', 8 if task != 'pretrain' else 9), ('val', 2)):
        dataset = config[f'{split_name}_dataloader'].dataset
        assert Path(dataset.ann_file).is_file()
        if dataset.ann_file.endswith('.txt'):
            lines = Path(dataset.ann_file).read_text().splitlines()
            assert len(lines) == (number if split_name == 'train' or task == 'classify' else 1)


@pytest.mark.parametrize('task', TASKS)
def test_what_is_set_stays(task, tmp_path):
    options = {
        'optim_wrapper.optimizer.lr': 0.123,
        'train_cfg.val_interval': 77,
        'model.backbone.arch': 'pico',
    }
    own = write_all(tmp_path)[task] | dict(epochs=5, batch=3, size=96)
    config = filled(task, tmp_path, options, **own)
    assert config.optim_wrapper.optimizer.lr == 0.123
    assert config.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=5, val_interval=77)
    assert config.model.backbone.arch == 'pico'
    assert config.train_dataloader.batch_size == 3
    assert '512' in str([config.model.get(p) for p in ('neck', 'head', 'decode_head')])
    assert '96' in str(config.train_dataloader.dataset.pipeline)


def test_other_parts_of_the_run_follow_what_is_set(tmp_path):
    own = write_all(tmp_path, 40)['classify']
    schedule = [dict(type='ConstantLR', factor=1.0)]
    options = {'train_dataloader.batch_size': 5, 'param_scheduler': schedule}
    config = filled('classify', tmp_path, options | {'model.backbone.arch': 'nano'}, **own)
    assert config.param_scheduler == schedule
    lr = TASKS['classify'].lr[1] * (5 / TASKS['classify'].batch) ** 0.5
    assert config.optim_wrapper.optimizer.lr == pytest.approx(lr, rel=0.05)
    config = filled('classify', tmp_path, {'model.backbone.arch': 'nano'}, **own, init=None)
    assert config.model.backbone.init_cfg.checkpoint == 'convnextv2://nano_fcmae_ft_in22k_in1k'
    assert config.optim_wrapper.paramwise_cfg.decay_rate == 0.9


@pytest.mark.parametrize(('number', 'batch', 'epochs'), [(2, 1, 1), (8, 4, 3), (50, 8, 100)])
def test_the_schedule_warms_up_and_ends_at_zero(number, batch, epochs, tmp_path):
    own = write_all(tmp_path, number)['pretrain']
    config = filled('pretrain', tmp_path, **own, batch=batch, epochs=epochs, val_fraction=0.01)
    wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type='SGD', lr=1.0)))
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper))
        for s in config.param_scheduler
    ]
    rates = []
    for _ in range(epochs * ((number - 1) // batch)):
        rates.append(wrapper.get_lr()['lr'][0])
        for scheduler in schedulers:
            scheduler.step()
    if len(rates) > 20:
        assert max(rates) == pytest.approx(1.0, abs=0.01)
        assert rates[0] < 0.01 and rates[-1] < 0.01
        assert rates.index(max(rates)) <= 0.05 * len(rates) + 2


@pytest.mark.parametrize('number', [2, 3, 10, 1000])
@pytest.mark.parametrize('fraction', [0.01, 0.2, 0.9])
def test_a_split_takes_each_name_once_and_is_the_same_again(number, fraction):
    names = [f'{i}.jpg' for i in range(number)]
    train, val = split(names, dict(val_fraction=fraction, seed=0), Path())
    assert sorted(train + val) == sorted(names) and train and val
    assert len(val) == min(max(1, round(fraction * number)), number - 1)
    backwards = split(names[::-1], dict(val_fraction=fraction, seed=0), Path())
    assert [sorted(part) for part in backwards] == [sorted(train), sorted(val)]


@pytest.mark.parametrize(
    ('values', 'names', 'mapping'),
    [
        ([0, 1, 2], '0 1 2', {}),
        ([0, 1, 255], '0 1', {}),
        ([0, 255], '0 255', {0: 0, 255: 1}),  # in black and white
        ([0, 38, 75], '0 38 75', {0: 0, 38: 1, 75: 2}),
        ([1, 2, 255], '1 2', {1: 0, 2: 1}),
    ],
)
def test_classes_of_label_maps(values, names, mapping):
    found, found_mapping, _ = classes_of_labels(values, Path('masks'))
    assert (list(found), found_mapping) == (names.split(), mapping)


def test_black_and_white_masks_train_two_classes(tmp_path):
    own = write_all(tmp_path)['segment']
    for path in (tmp_path / 'masks').iterdir():
        values = np.zeros((40, 60), np.uint8)
        values[:10] = 255
        write(path, values)
    config = filled('segment', tmp_path, **own)
    assert config.model.decode_head.num_classes == 2
    dataset = dict(config.train_dataloader.dataset)
    dataset.pop('type')
    dataset['pipeline'] = dataset['pipeline'][:2]
    labels = BaseSegDataset(**dataset)[0]['gt_seg_map']
    assert np.bincount(labels.ravel()).tolist() == [30 * 60, 10 * 60]


def test_masks_may_have_an_ending_of_their_own(tmp_path):
    for i in range(3):
        write(tmp_path / f'images/a/{i}.jpg')
        write(tmp_path / f'masks/a/{i}_mask.png')
    found = pair(tmp_path / 'images', tmp_path / 'masks')
    assert found == {f'a/{i}.jpg': f'a/{i}_mask.png' for i in range(3)}
    write(tmp_path / 'images/a/9.jpg')
    with pytest.raises(FileNotFoundError, match='1 of 4 images .* no label map .* such as a/9.jpg'):
        pair(tmp_path / 'images', tmp_path / 'masks')


def test_the_kind_of_annotations_chooses_the_detector(tmp_path):
    own = dict(images=str(tmp_path / 'images'), train=str(tmp_path / 'train.json'))
    write_coco(tmp_path)
    config = filled('detect', tmp_path, **own)
    load = config.train_dataloader.dataset.pipeline[1]
    assert config.model.type == 'MaskRCNN' and load.poly2mask is False
    # By their ids, as in the file.
    assert config.train_dataloader.dataset.metainfo.classes == ('cat', 'dog')
    assert filled('detect', tmp_path, boxes=True, **own).model.type == 'FasterRCNN'

    lengths = coco_mask.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))
    lengths['counts'] = lengths['counts'].decode()
    write_coco(tmp_path, segmentation=lengths)
    config = filled('detect', tmp_path, **own)
    assert config.train_dataloader.dataset.pipeline[1].poly2mask is True

    write_coco(tmp_path, segmentation=None)
    config = filled('detect', tmp_path, **own)
    assert config.model.type == 'FasterRCNN' and config.val_evaluator.metric == 'bbox'
    assert config.model.roi_head.mask_head is None


def test_maps_of_the_masks(tmp_path):
    own = write_all(tmp_path)
    photos, masks = own['pretrain']['images'], own['segment']['masks']
    steps = ('convnextv2_mm.LoadMaskMap', 'convnextv2_mm.MaskPatches')
    load = dict(type=steps[0], images=photos, masks=masks, suffix='.png')
    for given, expected in (
        (None, []),
        (masks, [load, dict(type=steps[1])]),
        ('numpy.mean', [dict(type=steps[1], function='numpy.mean')]),
    ):
        config = filled('pretrain', tmp_path, images=photos, masks=given)
        for part in ('train', 'val', 'test'):
            pipeline = config[f'{part}_dataloader'].dataset.pipeline
            assert [step for step in pipeline if step.type in steps] == expected


def test_hidden_files_are_no_images_and_hidden_folders_no_classes(tmp_path):
    own = write_all(tmp_path)
    write(tmp_path / 'classes/.ipynb_checkpoints/1.jpg')
    (tmp_path / 'photos/._1.png').write_bytes(b'what macOS leaves')
    assert filled('classify', tmp_path, **own['classify']).model.head.num_classes == 2
    config = filled('pretrain', tmp_path, **own['pretrain'])
    lists = [config[f'{part}_dataloader'].dataset.ann_file for part in ('train', 'val')]
    assert '._1.png' not in ''.join(Path(file).read_text() for file in lists)


def test_objects_without_masks_are_told(tmp_path, capsys):
    content = write_coco(tmp_path)
    for entry in content['annotations'][:2]:
        entry['segmentation'] = []
    (tmp_path / 'train.json').write_text(json.dumps(content))
    own = dict(images=str(tmp_path / 'images'), train=str(tmp_path / 'train.json'))
    own['val'] = own['train']
    assert filled('detect', tmp_path, **own).model.type == 'FasterRCNN'
    assert 'boxes only: 2 of 10 objects have no mask' in capsys.readouterr().err


@pytest.mark.parametrize('task', TASKS)
def test_with_a_gpu_the_recipe_is_that_of_a_gpu(task, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: True)
    config = filled(task, tmp_path, **{**write_all(tmp_path)[task], 'init': None})
    assert config.model.backbone.arch == 'tiny'
    assert (config.optim_wrapper.type, config.optim_wrapper.dtype) == (
        'AmpOptimWrapper',
        'bfloat16',
    )
    init = config.model.backbone.get('init_cfg')
    published = 'convnextv2://tiny_fcmae_ft_in22k_in1k'
    assert (init is None) if task == 'pretrain' else init.checkpoint == published


def test_ids_that_are_text_are_read_as_the_data_set_reads_them(tmp_path):
    content = write_coco(tmp_path)
    for entry in content['annotations']:
        entry['category_id'] = str(entry['category_id'])
        del entry['iscrowd']
    content['categories'].append(dict(id=9, name='dog'))  # a second one without objects
    (tmp_path / 'train.json').write_text(json.dumps(content))
    own = dict(images=str(tmp_path / 'images'), train=str(tmp_path / 'train.json'))
    dataset = filled('detect', tmp_path, **own).train_dataloader.dataset
    assert dataset.metainfo.classes == ('cat', 'dog')
    found = [info['instances'] for info in DATASETS.build(dataset).load_data_list()]
    assert len(found) == 8 and all(found)


def change(folder, **changes):
    path = folder / 'train.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD = {
    'no such folder': (
        'pretrain',
        dict(images='nowhere'),
        '',
        'own.images nowhere is not a folder',
    ),
    'nothing in it': ('pretrain', {}, 'photos', 'holds no image'),
    'one image': ('pretrain', {}, 'one', 'at least 2 are needed'),
    'one class': ('classify', {}, 'class', 'has 1 folders of classes'),
    'an empty class': ('classify', {}, 'empty', 'holds no image'),
    'another class': ('classify', dict(classes=['ant', 'cow']), '', "differ: 'bee' is in one only"),
    'a part too large': ('classify', dict(val_fraction=1.5), '', 'val_fraction 1.5 is not allowed'),
    'neither maps nor a function': (
        'pretrain',
        dict(masks='./maps'),
        '',
        'own.masks maps is neither a folder nor a function MODULE.NAME',
    ),
    'a key of another task': ('detect', dict(masks='maps'), '', 'own.masks is not a key that is'),
    'not a multiple': ('pretrain', dict(size=100), '', 'own.size 100 is not allowed'),
    'no epochs': ('segment', dict(epochs=0), '', 'own.epochs 0 is not allowed'),
    'no json': ('detect', {}, 'text', 'is not a json file'),
    'another json': ('detect', {}, 'list', 'it is not a COCO file: it holds no object with images'),
    'an entry without a field': (
        'detect',
        {},
        'field',
        'annotation 1 has no category_id',
    ),
    'no objects': ('detect', {}, 'no objects', 'has no annotations'),
    'missing files': ('detect', {}, 'missing', '1 of 8 images .* are not in .*such as'),
    'an unknown category': ('detect', dict(classes=['cow']), '', "own.classes has 'cow'"),
    'no mask': ('segment', {}, 'mask', 'have no label map'),
    'one image in a step': ('segment', dict(batch=1), '', '1 in a step, are not enough'),
    'one label': ('segment', {}, 'labels', 'hold only the values 0: at least 2 classes'),
    'one folder for both': ('segment', {}, 'folder', 'label maps would be taken for images'),
    'colours': ('segment', {}, 'colours', 'is no label map'),
}


def spoil(folder: Path, how: str) -> None:
    photos = sorted((folder / 'photos').iterdir())
    if how == 'photos':
        for path in photos:
            path.rename(path.with_suffix('.txt'))
    elif how == 'one':
        for path in photos[1:]:
            path.unlink()
    elif how == 'class':
        (folder / 'classes/bee').rename(folder / 'bees')
    elif how == 'empty':
        (folder / 'classes/cow').mkdir()
    elif how == 'text':
        (folder / 'train.json').write_text('{')
    elif how == 'list':
        (folder / 'train.json').write_text('[]')
    elif how == 'field':
        change(folder, annotations=[dict(id=1, image_id=0)])
    elif how == 'no objects':
        change(folder, annotations=[])
    elif how == 'missing':
        train, _ = split([f'{i}.jpg' for i in range(10)], dict(val_fraction=0.2, seed=0), Path())
        (folder / 'images' / train[0]).unlink()
    elif how == 'mask':
        (folder / 'masks/3.png').unlink()
    elif how == 'labels':
        for path in (folder / 'masks').iterdir():
            write(path, np.zeros((40, 60), np.uint8))
    elif how == 'colours':
        write(folder / 'masks/3.png', np.full((40, 60, 3), (1, 2, 3), np.uint8))


@pytest.mark.parametrize('case', BAD)
def test_data_that_cannot_be_used_is_named_before_training(case, tmp_path):
    task, changes, how, message = BAD[case]
    own = write_all(tmp_path)[task] | changes
    if how == 'folder':
        own['masks'] = own['images']
    spoil(tmp_path, how)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        filled(task, tmp_path, **own)
    assert '\n' not in str(raised.value)


def test_a_misspelled_key_is_named(tmp_path):
    config, own = choose_recipe('pretrain', **write_all(tmp_path)['pretrain'])
    with pytest.raises(ValueError, match='own.epoch is not a key that is read: did you mean own'):
        read_config(config, own | {'own.epoch': 3}, str(tmp_path))


def test_every_size_of_v2_has_weights_to_start_from():
    for arch in ('atto', 'femto', 'pico', 'nano', 'tiny', 'base', 'large', 'huge'):
        name = published_weights(arch).removeprefix('convnextv2://')
        assert MODEL_ZOO[name].size == arch
        assert name.startswith(f'{arch}_fcmae_ft')
    assert {published_weights(a) for a in ConvNeXtV2.arch_settings if a in ('small', 'xlarge')} == {
        'none'
    }


def test_recipes_are_there():
    folder = Path(__file__).parents[3] / 'configs/own'
    assert {path.stem for path in folder.glob('*.py')} == {*RECIPES.values(), 'faster-rcnn'}


def test_the_config_of_the_docs_is_filled_in(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / 'docs/own_data.md').read_text()
    text = next(block for block in re.findall(r'```python\n(.*?)```', page, re.S) if 'own' in block)
    assert len(text.splitlines()) <= 12
    write_coco(tmp_path)
    (tmp_path / 'images').rename(tmp_path / 'photos')
    (tmp_path / 'train.json').rename(tmp_path / 'instances.json')
    (tmp_path / 'mine.py').write_text(text)
    monkeypatch.chdir(tmp_path)
    config = read_config('mine.py', {'own.init': 'none'})
    assert config.train_cfg.max_epochs == 30
    assert config.optim_wrapper.optimizer.lr == 2e-4
    assert config.model.roi_head.bbox_head.num_classes == 2


@pytest.mark.parametrize(
    ('task', 'options', 'message'),
    [
        ('classify', {'model.backbone.in_channels': 4}, 'mean has 3 values, but .* is 4'),
        ('detect', {'model.backbone.in_channels': 1}, 'mean has 3 values, but .* is 1'),
        ('pretrain', {'model.neck.out_channels': 4}, 'out_channels 4 is not allowed: .* is 3'),
    ],
)
def test_channels_that_do_not_agree_are_named(task, options, message, tmp_path):
    config = filled(task, tmp_path, options, **write_all(tmp_path)[task])
    with pytest.raises(ValueError, match=message):
        check_config(config)


@pytest.mark.parametrize('channels', [1, 4, 13])
@pytest.mark.parametrize('task', TASKS)
def test_all_parts_have_the_channels_of_the_images(task, channels, tmp_path):
    own = write_all(tmp_path)[task]
    for path in (*tmp_path.glob('photos/*'), *tmp_path.glob('classes/*/*')):
        path.unlink()
        np.save(path.with_suffix('.npy'), np.random.rand(40, 60, channels))
    for path in tmp_path.glob('images/*'):
        np.save(path.with_suffix('.npy'), np.random.rand(40, 60, channels))
    annotations = (tmp_path / 'train.json').read_text().replace('.jpg', '.npy')
    (tmp_path / 'train.json').write_text(annotations)
    config = filled(task, tmp_path, **own)
    model = check_config(config)
    assert config.model.backbone.in_channels == channels
    assert len(config.model.data_preprocessor.mean) == channels
    np.testing.assert_allclose(config.model.data_preprocessor.mean, 0.5, atol=0.02)
    np.testing.assert_allclose(config.model.data_preprocessor.std, 12**-0.5, atol=0.02)
    sample = DATASETS.build(config.train_dataloader.dataset)[0]['inputs']
    assert sample.shape[0] == channels
    assert model.data_preprocessor is not None
