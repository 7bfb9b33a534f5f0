"""Data sets of the real configs on bad data: what is used, replaced, left out, and what stops."""

import copy
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import (
    BAD_ANNOTATIONS,
    BAD_IMAGES,
    HEIGHT,
    WIDTH,
    annotation,
    coco,
    encode,
    labels,
    picture,
    stored_size,
    write_images,
    write_json,
    write_label_maps,
)
from mmdet.evaluation import CocoMetric
from mmengine.config import Config, ConfigDict
from mmengine.dataset import worker_init_fn
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from convnextv2_mm.datasets.checked_datasets import leaves_folder
from convnextv2_mm.datasets.coco_problems import EFFECTS, LEFT_OUT, STOPS
from convnextv2_mm.engine.config.reading import check_data, read_config
from convnextv2_mm.errors import BadData

pytestmark = pytest.mark.long

CONFIGS = Path(__file__).parents[2] / 'configs'
# A user's classification: MMPreTrain's pipeline with our loader and data set.
CLASSIFICATION = """
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
default_scope = 'mmpretrain'
model = dict()
load = dict(type='convnextv2_mm.LoadImageFromFile')
train_dataloader = dict(
    dataset=dict(
        type='convnextv2_mm.ImageNet',
        skip_bad_data=True,
        pipeline=[load, *_base_.train_pipeline[1:]],
    )
)
val_dataloader = dict(
    dataset=dict(type='convnextv2_mm.ImageNet', pipeline=[load, *_base_.test_pipeline[1:]])
)
"""
PRETRAIN = 'pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py'
GPU_DECODE = 'pretrain/fcmae_convnextv2-b_8xb64-accum8-800e-gpu-decode_in1k-224px.py'
DETECTION = 'detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'
SEGMENTATION = 'segmentation/upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py'


def lay_out(root: Path, task: str) -> tuple[dict, list[str]]:
    """Write all kinds of images as a task expects them; give the data set's options, the kinds."""
    kinds = write_images(root / 'images')
    options = dict(data_root=str(root))
    if task == 'detection':
        entries = [(f'{k}.jpg', *stored_size(root / f'images/{k}.jpg')) for k in kinds]
        boxes = [annotation(1 + i, i, bbox=[0, 0, w, h]) for i, (_, h, w) in enumerate(entries)]
        for box, (_, height, width) in zip(boxes, entries, strict=True):
            box['segmentation'] = [[0, 0, width, 0, width, height, 0, height]]
        write_json(root / 'annotations.json', coco(entries, boxes))
        return options | dict(ann_file='annotations.json', data_prefix=dict(img='images')), kinds
    names = [f'{kind}.jpg' for kind in kinds]
    if task == 'segmentation':
        (root / 'masks').mkdir()
        for kind in kinds:
            # Of the size that the image has when it is turned.
            height, width = stored_size(root / f'images/{kind}.jpg')
            if kind == 'orientation-6':
                height, width = width, height
            mask = Image.fromarray(labels()).resize((width, height), Image.Resampling.NEAREST)
            mask.save(root / f'masks/{kind}.png')
        (root / 'list.txt').write_text('\n'.join(kinds))
        prefix = dict(img_path='images', seg_map_path='masks')
        return options | dict(ann_file='list.txt', data_prefix=prefix), kinds
    (root / 'list.txt').write_text('\n'.join(f'{name} 7' for name in names))
    return options | dict(ann_file='list.txt', data_prefix='images', split=''), kinds


@cache
def parsed(path: str) -> Config:
    return read_config(path)


@pytest.fixture(scope='session')
def classification(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'classification.py'
    path.write_text(CLASSIFICATION)
    return str(path)


def real_config(name: str) -> Config:
    """A config as a tool would read it; read once for all tests."""
    config = copy.deepcopy(parsed(str(CONFIGS / name)))
    init_default_scope(config.default_scope)
    return config


@pytest.fixture
def log(tmp_path):
    """Gives the log so far."""
    logger = MMLogger.get_instance(str(tmp_path), log_file=str(tmp_path / 'log'))
    yield (tmp_path / 'log').read_text
    MMLogger._instance_dict.pop(logger.instance_name)


TASKS = dict(pretrain=PRETRAIN, gpu=GPU_DECODE, detection=DETECTION, segmentation=SEGMENTATION)


@pytest.mark.parametrize('task', [*TASKS, 'classification'])
def test_training_uses_or_replaces_every_kind_of_image(task, tmp_path, log, classification):
    options, kinds = lay_out(tmp_path / 'data', task)
    config = real_config(TASKS.get(task, classification))
    cfg = config.train_dataloader.dataset
    cfg.update(options | dict(max_bad=1.0))
    cfg.pop('filter_cfg', None)  # which leaves out small images
    data = DATASETS.build(cfg)
    assert len(data) == len(kinds)
    paths = [Path(data.get_data_info(i)['img_path']).stem for i in range(len(data))]
    for _ in range(2):
        for index, kind in enumerate(paths):
            sample = data[index]
            used = Path(sample['data_samples'].img_path).stem
            assert used not in BAD_IMAGES
            if task != 'detection':  # there a crop without objects is replaced too
                assert (used == kind) == (kind not in BAD_IMAGES)
    # Flipped, an image of one pixel in width cannot be packed by MMDetection: as chance has it.
    bad = {paths[i] for i in data._is_bad.nonzero().flatten()}
    assert bad - ({'one-wide'} if task == 'detection' else set()) == set(BAD_IMAGES)
    lines = [line for line in log().splitlines() if 'another sample takes its place' in line]
    lines = [line for line in lines if 'one-wide.jpg cannot be processed' not in line]
    assert len(lines) == len(BAD_IMAGES)
    for kind, said in BAD_IMAGES.items():
        assert sum(f'images/{kind}.jpg {said}' in line for line in lines) == 1
    assert lines[-1].endswith(f' of {len(kinds)} so far)')


@pytest.mark.parametrize('task', [*TASKS, 'classification'])
def test_evaluation_ends_at_every_bad_image_by_name(task, tmp_path, classification):
    options, kinds = lay_out(tmp_path / 'data', task)
    config = real_config(TASKS.get(task, classification))
    cfg = config.get('val_dataloader', config.get('test_dataloader')).dataset
    cfg.update(options)
    data = DATASETS.build(cfg)
    for index in range(len(data)):
        kind = Path(data.get_data_info(index)['img_path']).stem
        if kind in BAD_IMAGES:
            with pytest.raises(BadData, match=re.escape(f'images/{kind}.jpg {BAD_IMAGES[kind]}')):
                data[index]
        else:
            sample = data[index]
            assert Path(sample['data_samples'].img_path).stem == kind
    assert len(data) == len(kinds)


def pretraining_data(root: Path, **changes) -> torch.utils.data.Dataset:
    options, _ = lay_out(root, 'pretrain')
    cfg = real_config(PRETRAIN).train_dataloader.dataset
    cfg.update(options | changes)
    return DATASETS.build(cfg)


def test_workers_share_the_count_and_repeat_the_replacements(tmp_path, log):
    data = pretraining_data(tmp_path / 'data', max_bad=1.0)

    def paths() -> list[str]:
        loader = DataLoader(
            data,
            batch_size=2,
            num_workers=2,
            collate_fn=list,
            worker_init_fn=lambda worker: worker_init_fn(worker, 2, 0, seed=3),
        )
        return [sample['data_samples'].img_path for batch in loader for sample in batch]

    first, second = paths(), paths()
    assert first == second
    assert len(first) == len(data)
    lines = [line for line in log().splitlines() if 'another sample' in line]
    assert len(lines) == len(BAD_IMAGES)
    assert data._is_bad.sum() == len(BAD_IMAGES)


def test_too_many_bad_samples_end_the_run(tmp_path):
    data = pretraining_data(tmp_path / 'data', max_bad=0.1)  # 5 of 20 are bad
    with pytest.raises(BadData) as error:
        for index in range(len(data)):
            data[index]
    assert re.search(
        r'\.jpg .*, and so are 3 of 20 samples, more than max_bad=0.1', str(error.value)
    )
    assert 'tools/check_dataset.py' in str(error.value)


def test_a_thin_image_that_no_resize_leaves_anything_of(tmp_path, log):
    thin = Image.new('RGB', (1, 4000))
    (tmp_path / 'images').mkdir()
    for name, image in (('good', picture()), ('thin', thin)):
        image.save(tmp_path / f'images/{name}.jpg')
    sizes = [('good.jpg', HEIGHT, WIDTH), ('thin.jpg', 4000, 1)]
    outline = [[0, 0, 1, 0, 1, 4000, 0, 4000]]
    second = annotation(2, 1, bbox=[0, 0, 1, 4000], segmentation=outline)
    write_json(tmp_path / 'x.json', coco(sizes, [annotation(1, 0), second]))
    config = real_config(DETECTION)
    place = dict(data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='images'))
    config.train_dataloader.dataset.update(place)
    config.val_dataloader.dataset.update(place)
    assert len(DATASETS.build(config.train_dataloader.dataset)) == 1  # min_size=32
    del config.train_dataloader.dataset['filter_cfg']
    config.train_dataloader.dataset.pipeline[2].ratio_range = (0.1, 0.2)
    data = DATASETS.build(config.train_dataloader.dataset)
    for _ in range(5):
        assert Path(data[1]['data_samples'].img_path).stem in ('good', 'thin')
    assert 'thin.jpg cannot be processed: OpenCV' in log()
    with pytest.raises(BadData, match=r'thin.jpg cannot be processed'):
        DATASETS.build(config.val_dataloader.dataset)[1]


def detection_data(root: Path, content: dict, split: str = 'train', **changes):
    """The real data set of detection on one COCO file and plain images of its names."""
    (root / 'images').mkdir(exist_ok=True)
    for image in content['images']:
        if not leaves_folder(str(root / 'images' / image['file_name']), str(root / 'images')):
            picture().save(root / 'images' / image['file_name'])
    write_json(root / 'x.json', content)
    cfg = real_config(DETECTION)[f'{split}_dataloader'].dataset
    place = dict(data_root=str(root), ann_file='x.json', data_prefix=dict(img='images'))
    cfg.update(place | changes)
    return DATASETS.build(cfg)


def test_training_leaves_out_bad_annotations_and_says_so_in_one_line(tmp_path, log):
    changes = [changes for changes, _ in BAD_ANNOTATIONS.values()]
    bad = [annotation(10 + i, 0) | change for i, change in enumerate(changes)]
    bad = [{k: v for k, v in entry.items() if v is not None} for entry in bad]
    content = coco([('x.jpg', HEIGHT, WIDTH), ('y.jpg', HEIGHT, WIDTH)], [annotation(1, 1), *bad])
    data = detection_data(tmp_path, content)
    kinds = [kind for _, kind in BAD_ANNOTATIONS.values()]
    left_out = [kind for kind in kinds if kind and EFFECTS[kind][0] == LEFT_OUT]
    (line,) = [line for line in log().splitlines() if 'are left out' in line]
    assert f'x.json: {len(left_out)} of {len(content["annotations"])} annotations are' in line
    assert f'polygon: {left_out.count("polygon")}' in line
    assert 'the first: annotation 10 of x.jpg: its box [20, 10, 0, 40] is less' in line
    used = len(kinds) - len(left_out)
    assert [len(data.get_data_info(i)['instances']) for i in range(2)] == [used, 1]
    np.random.seed(0)
    for index in (0, 1) * 5:
        sample = data[index]['data_samples']
        assert len(sample.gt_instances.masks) == len(sample.gt_instances.bboxes) > 0


def test_an_image_without_annotations_is_no_training_image(tmp_path):
    content = coco([(f'{i}.jpg', HEIGHT, WIDTH) for i in range(3)], [annotation(1, 1)])
    data = detection_data(tmp_path, content)
    assert [data.get_data_info(i)['img_id'] for i in range(len(data))] == [1]
    assert len(detection_data(tmp_path, content, 'val')) == 3
    with pytest.raises(BadData, match=r'no image to use is in .*x.json'):
        detection_data(tmp_path, content | dict(annotations=[]))


@pytest.mark.parametrize('name', [name for name, (_, kind) in BAD_ANNOTATIONS.items() if kind])
def test_evaluation_scores_or_stops_at_its_start(name, tmp_path):
    changes, kind = BAD_ANNOTATIONS[name]
    content = coco([('x.jpg', HEIGHT, WIDTH)], [annotation(1, 0), annotation(2, 0, **changes)])
    if EFFECTS[kind][1] == STOPS:
        with pytest.raises(BadData, match=r'x.json: annotation 2 of x.jpg: its? '):
            detection_data(tmp_path, content, 'val')
        return
    data = detection_data(tmp_path, content, 'val')
    assert len(data) == 1
    metric = CocoMetric(ann_file=str(tmp_path / 'x.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = data.metainfo
    mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    mask[0, 10:50, 20:80] = 1
    found = dict(bboxes=torch.tensor([[20.0, 10, 80, 50]]), scores=torch.ones(1))
    found |= dict(labels=torch.zeros(1, dtype=torch.int64), masks=torch.from_numpy(mask))
    sample = dict(img_id=0, ori_shape=(HEIGHT, WIDTH), pred_instances=found)
    metric.process({}, [sample])
    scores = metric.evaluate(1)
    assert 0.49 < scores['coco/bbox_mAP'] <= 1  # one of at most two objects is found


STRUCTURE = {
    'image 0 is there twice': lambda c: c['images'].append(c['images'][0]),
    'annotation 1 is there twice': lambda c: c['annotations'].append(c['annotations'][0]),
    'image 0 has no height': lambda c: c['images'][0].pop('height'),
    'annotation 1 has no bbox': lambda c: c['annotations'][0].pop('bbox'),
    'classes are not among its categories': lambda c: c['categories'].pop(),
}


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('message', STRUCTURE)
def test_a_file_of_the_wrong_structure_stops_the_run(message, split, tmp_path):
    content = coco([('x.jpg', HEIGHT, WIDTH)], [annotation(1, 0)])
    STRUCTURE[message](content)
    with pytest.raises(BadData, match=f'x.json: .*{message}'):
        detection_data(tmp_path, content, split)


@pytest.mark.parametrize('text', ['{"images": [', '[1, 2]', 'no json', '\x00'])
def test_other_files_are_no_coco_file(text, tmp_path):
    (tmp_path / 'x.json').write_text(text)
    cfg = real_config(DETECTION).train_dataloader.dataset
    cfg.update(dict(data_root=str(tmp_path), ann_file='x.json'))
    with pytest.raises(BadData, match=r'x.json is not a COCO file: '):
        DATASETS.build(cfg)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_maps(split, tmp_path, log):
    said = write_label_maps(tmp_path / 'images', tmp_path / 'masks')
    cfg = real_config(SEGMENTATION)[f'{split}_dataloader'].dataset
    prefix = dict(img_path='images', seg_map_path='masks')
    cfg.update(dict(data_root=str(tmp_path), data_prefix=prefix, max_bad=1.0))
    data = DATASETS.build(cfg)
    assert len(data) == len(said)
    bad = {name for name, message in said.items() if message}
    for index in range(len(data)):
        name = Path(data.get_data_info(index)['img_path']).stem
        if split == 'val' and name in bad:
            with pytest.raises(BadData, match=rf'masks/{name}.png .*{said[name]}'):
                data[index]
            continue
        sample = data[index]['data_samples']
        assert (Path(sample.img_path).stem == name) == (name not in bad)
        values = set(sample.gt_sem_seg.data.unique().tolist())
        assert values <= {2, 149, 255}  # the drawing's, less one
    lines = [line for line in log().splitlines() if 'another sample' in line]
    assert len(lines) == (len(bad) if split == 'train' else 0)


LEAVING = ['../secret.jpg', 'a/../../secret.jpg', '/etc/passwd', '{root}/secret.jpg']


@pytest.mark.parametrize('name', LEAVING)
@pytest.mark.parametrize('task', ['pretrain', 'detection', 'segmentation'])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_no_list_of_files_leads_out_of_its_folder(name, task, split, tmp_path):
    root = tmp_path / 'data'
    (root / 'images').mkdir(parents=True)
    picture().save(tmp_path / 'data/secret.jpg')
    name = name.format(root=root)
    options = dict(data_root=str(root), ann_file='list.txt', data_prefix=dict(img_path='images'))
    if task == 'detection':
        write_json(root / 'list.txt', coco([(name, HEIGHT, WIDTH)], [annotation(1, 0)]))
        options['data_prefix'] = dict(img='images')
    elif task == 'segmentation':
        (root / 'list.txt').write_text(name.removesuffix('.jpg'))
        options['data_prefix'] = dict(img_path='images', seg_map_path='masks')
    else:
        (root / 'list.txt').write_text(f'{name} 0')
        options['split'] = ''
    cfg = real_config(TASKS[task])[f'{split}_dataloader'].dataset
    cfg.update(options)
    with pytest.raises(BadData, match=rf'list.txt names .*{Path(name).stem}.*, which is not allow'):
        DATASETS.build(cfg)


def test_which_paths_leave(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere')
    for path, folder, leaves in (
        ('data/x.jpg', 'data', False),
        ('data/x.jpg', 'data/', False),
        ('data//x..y.jpg', 'data/', False),
        ('data/a/../x.jpg', 'data', False),
        ('data/../x.jpg', 'data', True),
        ('data2/x.jpg', 'data', True),
        ('data/..', 'data', True),
        ('x.jpg', '', False),
        ('../x.jpg', '', True),
        ('/x.jpg', '', True),
        ('/x.jpg', '/', False),
        ('http://host/x.jpg', '', True),
        ('s3://bucket/x.jpg', 's3://bucket/', False),
        (f'{tmp_path}/link/x.jpg', f'{tmp_path}/link', False),
    ):
        assert leaves_folder(path, folder) == leaves, (path, folder)


@pytest.mark.parametrize('label', ['1000', '-1'])
def test_a_label_of_no_class_stops_the_run(label, tmp_path):
    (tmp_path / 'list.txt').write_text(f'x.jpg {label}\n')
    place = dict(data_root=str(tmp_path), ann_file='list.txt', data_prefix='')
    with pytest.raises(
        BadData, match=rf'x.jpg has the label {label}, but the classes are 0 to 999'
    ):
        DATASETS.build(dict(type='convnextv2_mm.ImageNet', **place))


@pytest.mark.parametrize('name', ['x.pkl', 'x.pickle', 'x.yaml', 'x.yml'])
@pytest.mark.parametrize('key', ['ann_file', 'proposal_file'])
def test_annotations_that_would_run_are_refused(name, key, tmp_path):
    (tmp_path / name).write_bytes(b'')
    part = {'type': 'CocoDataset', 'data_root': str(tmp_path), key: name}
    with pytest.raises(ValueError, match=f'{key} {name} is not allowed: MMEngine would run'):
        check_data(ConfigDict(dataset=part))


def test_a_jpeg_that_only_the_device_finds_bad_is_replaced(tmp_path, log):
    """Its header and its end are right, but a table of its is gone."""
    content = encode(picture(), quality=95)
    table = content.index(b'\xff\xdb')
    length = int.from_bytes(content[table + 2 : table + 4], 'big')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/0.jpg').write_bytes(content[:table] + content[table + 2 + length :])
    (tmp_path / 'images/1.jpg').write_bytes(content)
    (tmp_path / 'list.txt').write_text('0.jpg 0\n1.jpg 0\n')
    config = real_config(GPU_DECODE)
    cfg = config.train_dataloader.dataset
    place = dict(data_root=str(tmp_path), ann_file='list.txt', data_prefix='images', split='')
    cfg.update(place)
    data = DATASETS.build(cfg)
    batch = [data[0], data[1]]
    assert [sample['inputs'].ndim for sample in batch] == [1, 1]
    preprocessor = MODELS.build(config.model.data_preprocessor)
    batch = {key: [sample[key] for sample in batch] for key in batch[0]}
    for _ in range(2):
        images = preprocessor(batch, training=True)['inputs']
        assert torch.equal(images[0], images[1])
    (line,) = [line for line in log().splitlines() if 'cannot be decoded' in line]
    assert 'images/0.jpg cannot be decoded: ' in line
    assert line.endswith('another image of its batch takes its place (1 so far)')
    alone = {key: values[:1] for key, values in batch.items()}
    with pytest.raises(BadData, match=r'0.jpg cannot be decoded, nor any other of its batch'):
        preprocessor(alone, training=True)


def test_an_image_one_pixel_wide_that_is_flipped(tmp_path, log):
    (tmp_path / 'images').mkdir()
    for name, image in (('good', picture()), ('thin', picture().crop((0, 0, 1, HEIGHT)))):
        image.save(tmp_path / f'images/{name}.jpg')
    outline = [[0, 0, 1, 0, 1, HEIGHT, 0, HEIGHT]]
    second = annotation(2, 1, bbox=[0, 0, 1, HEIGHT], segmentation=outline)
    sizes = [('good.jpg', HEIGHT, WIDTH), ('thin.jpg', HEIGHT, 1)]
    write_json(tmp_path / 'x.json', coco(sizes, [annotation(1, 0), second]))
    cfg = real_config(DETECTION).train_dataloader.dataset
    cfg.update(data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='images'))
    del cfg['filter_cfg']
    cfg.pipeline = [*cfg.pipeline[:2], dict(type='RandomFlip', prob=1.0), cfg.pipeline[-1]]
    data = DATASETS.build(cfg)
    assert Path(data[1]['data_samples'].img_path).stem == 'good'
    assert 'thin.jpg cannot be processed: At least one stride' in log()
