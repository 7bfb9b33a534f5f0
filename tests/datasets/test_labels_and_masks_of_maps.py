"""Label maps and images that mean something else than they seem to: what is read, and what is said.

Each test is a row of the tables of docs/bad_data.md.
"""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bad_files import HEIGHT, WIDTH, encode, picture, tiff
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from PIL import Image

from convnextv2_mm.datasets import LoadAnnotations, LoadEncodedJPEG, LoadImageFromFile
from convnextv2_mm.datasets.class_counts import inner_datasets, report_classes
from convnextv2_mm.engine.config.ignore_index import check_ignore_index
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.errors import BadData

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/demo/upernet_convnextv2-a_shapes.py')
SIDE = 64


def write_maps(root: Path, maps: list[np.ndarray]) -> dict:
    """Write label maps with an image each; give the options of their data set."""
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True)
    for index, values in enumerate(maps):
        Image.fromarray(values).save(root / f'masks/{index:03}.png')
        Image.new('RGB', values.shape[::-1]).save(root / f'images/{index:03}.jpg')
    prefix = dict(img_path='images', seg_map_path='masks')
    return dict(type='convnextv2_mm.BaseSegDataset', data_root=str(root), data_prefix=prefix)


def build(options: dict, classes: int | list[str], *, load: dict | None = None, **changes):
    init_default_scope('mmseg')
    names = [f'c{i}' for i in range(classes)] if isinstance(classes, int) else classes
    steps = [dict(type='convnextv2_mm.LoadImageFromFile')]
    steps += [dict(type='convnextv2_mm.LoadAnnotations', **(load or {}))]
    steps += [dict(type='PackSegInputs')]
    return DATASETS.build(options | dict(metainfo=dict(classes=names), pipeline=steps) | changes)


def said(dataset) -> tuple[str, bool]:
    return report_classes(list(inner_datasets(dataset)))


def binary(value: int) -> np.ndarray:
    """A mask of 0 and a value in a quarter of it."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[: SIDE // 2, : SIDE // 2] = value
    return values


def test_masks_of_0_and_255_are_told(tmp_path):
    options = write_maps(tmp_path, [binary(255)] * 3)
    sentence, warns = said(build(options, ['ground', 'crack']))
    assert warns
    assert sentence == (
        '1 of 2 classes have no pixel in all 3 label maps of the training set: crack; 25.0% of '
        'the pixels are ignored; the label maps hold 0 and 255, and 255 means ignored: store 0 '
        'and 1, or give LoadAnnotations mapping={255: 1}'
    )


def test_the_mapping_that_the_sentence_names_cures_masks_of_0_and_255(tmp_path):
    options = write_maps(tmp_path, [binary(255)] * 3)
    # As a config that has been dumped and read again has it.
    for key in (255, '255'):
        data = build(options, ['ground', 'crack'], load=dict(mapping={key: 1}))
        found = data[0]['data_samples'].gt_sem_seg.data[0].numpy()
        assert np.array_equal(found, binary(1))
        sentence, warns = said(data)
        assert not warns
        assert sentence == (
            'all 2 classes are in all 3 label maps of the training set; 0.0% of the pixels are '
            'ignored'
        )


def test_a_mapping_may_exchange_labels(tmp_path):
    options = write_maps(tmp_path, [binary(1)])
    data = build(options, 2, load=dict(mapping={0: 1, 1: 0}))
    assert np.array_equal(data[0]['data_samples'].gt_sem_seg.data[0].numpy(), 1 - binary(1))


def test_reduce_zero_label_with_masks_of_0_and_1_is_told(tmp_path):
    options = write_maps(tmp_path, [binary(1)] * 3)
    data = build(options, ['ground', 'crack'], reduce_zero_label=True)
    sentence, warns = said(data)
    assert warns
    assert '1 of 2 classes have no pixel in all 3 label maps of the training set: crack' in sentence
    assert '75.0% of the pixels are ignored; reduce_zero_label=True turns 0 into' in sentence
    assert not said(build(options, ['ground', 'crack']))[1]


@pytest.mark.parametrize('value', [0, 255])
def test_a_training_set_of_ignored_pixels_alone_stops(value, tmp_path):
    options = write_maps(tmp_path, [np.full((SIDE, SIDE), value, np.uint8)] * 3)
    data = build(options, 2, reduce_zero_label=value == 0)
    with pytest.raises(BadData, match='every pixel of all 3 label maps looked at is ignored'):
        said(data)


def test_of_many_label_maps_some_are_looked_at_and_the_sentence_stays_true(tmp_path):
    # The last class is in one map of 300 that is not among them.
    maps = [binary(1)[:8, :8]] * 300
    maps[1] = np.full((8, 8), 39, np.uint8)
    data = build(write_maps(tmp_path, maps), 40)
    sentence, warns = said(data)
    assert not warns
    assert sentence.startswith('38 of 40 classes have no pixel in 200 of 300 label maps of the')


def test_labels_from_1_without_reduce_zero_label_name_the_cause(tmp_path):
    data = build(write_maps(tmp_path, [binary(2)]), 2)
    with pytest.raises(BadData, match='has the label 2, but the classes are 0 to 1; where'):
        data[0]


def test_label_maps_as_jpeg_are_refused(tmp_path):
    options = write_maps(tmp_path, [binary(1)])
    Image.fromarray(binary(1)).save(tmp_path / 'masks/000.jpg')
    with pytest.raises(BadData, match=r'000.jpg is a JPEG, whose compression changes labels'):
        build(options | dict(seg_map_suffix='.jpg'), 2)[0]


# More than 255 classes: 16 bits, and another ignore index.

CLASSES = 300
NO_CLASS = 65535


def wide_maps() -> list[np.ndarray]:
    """Patches of the labels 0, 43, 255, 256 and 299, and pixels of no class."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 43, 255, 256, 299, NO_CLASS], np.uint16)
    return [labels[rng.integers(0, 6, (8, 8))].repeat(8, 0).repeat(8, 1) for _ in range(4)]


@pytest.fixture(scope='module')
def wide_config(tmp_path_factory) -> str:
    """The demo's segmentor with 300 classes, as a user would write it."""
    root = tmp_path_factory.mktemp('wide')
    options = write_maps(root / 'data', wide_maps())
    (root / 'config.py').write_text(f"""
_base_ = '{CONFIG}'
names = ['c' + str(i) for i in range({CLASSES})]
data = dict(_delete_=True, ignore_index={NO_CLASS}, metainfo=dict(classes=names), **{options})
load = [dict(type='convnextv2_mm.LoadImageFromFile'), dict(type='convnextv2_mm.LoadAnnotations')]
model = dict(
    data_preprocessor=dict(size=({SIDE}, {SIDE}), seg_pad_val={NO_CLASS}),
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes={CLASSES}, ignore_index={NO_CLASS}),
    auxiliary_head=dict(num_classes={CLASSES}, ignore_index={NO_CLASS}),
)
train_dataloader = dict(batch_size=4, dataset=data | dict(pipeline=load + [
    dict(type='RandomCrop', crop_size=(48, 56), cat_max_ratio=0.75, ignore_index={NO_CLASS}),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]))
val_dataloader = dict(batch_size=1, dataset=data | dict(pipeline=load + [
    dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index={NO_CLASS})
test_evaluator = val_evaluator
""")
    return str(root / 'config.py')


def test_labels_above_255_reach_the_losses(wide_config):
    config = read_config(wide_config)
    check_ignore_index(config, check_model(config.model), ['train', 'val', 'test'])
    torch.manual_seed(0)
    np.random.seed(0)
    data = DATASETS.build(config.train_dataloader.dataset)
    model = MODELS.build(config.model)
    batch = model.data_preprocessor(pseudo_collate([data[i] for i in range(4)]), training=True)
    labels = torch.cat([sample.gt_sem_seg.data for sample in batch['data_samples']])
    assert labels.shape == (4, SIDE, SIDE)  # padded from 48x56
    assert set(labels.unique().tolist()) == {0, 43, 255, 256, 299, NO_CLASS}
    assert (labels[:, 48:] == NO_CLASS).all()

    model.eval()  # no dropout, and batch norm as it is
    losses = model.loss(**batch)
    features = model.extract_feat(batch['inputs'])
    for head, name in ((model.decode_head, 'decode'), (model.auxiliary_head, 'aux')):
        logits = F.interpolate(head(features), (SIDE, SIDE), mode='bilinear').double()
        used = labels != NO_CLASS
        chosen = logits.log_softmax(1).gather(1, labels.where(used, 0)[:, None])[:, 0]
        expected = -(chosen * used).sum() / labels.numel() * (1 if name == 'decode' else 0.4)
        assert losses[f'{name}.loss_ce'].item() == pytest.approx(expected.item(), rel=1e-5)
        right = ((logits.argmax(1) == labels) & used).sum() / used.sum()
        accuracy = losses[f'{name}.acc_seg'].item()
        assert accuracy == pytest.approx(100 * right.item(), abs=1e-3)
    losses['decode.loss_ce'].backward()
    gradients = model.decode_head.conv_seg.bias.grad
    # A class that is there is pushed up, any other down: 255 and 299 are there.
    assert (gradients[[0, 43, 255, 256, 299]] < 0).all()
    assert (gradients[[1, 44, 254, 298]] > 0).all()


def test_labels_above_255_are_scored(wide_config):
    config = read_config(wide_config)
    data = DATASETS.build(config.val_dataloader.dataset)
    metric = METRICS.build(config.val_evaluator)
    metric.dataset_meta = data.metainfo
    rng = np.random.default_rng(1)
    pairs = []
    for index, stored in enumerate(wide_maps()):
        truth = data[index]['data_samples'].gt_sem_seg.data
        assert np.array_equal(truth[0].numpy(), stored)
        found = np.where(rng.random(stored.shape) < 0.7, stored, 43).astype(np.int64)
        found[stored == NO_CLASS] = rng.choice([43, 255, 299])
        sample = dict(pred_sem_seg=dict(data=torch.from_numpy(found)[None]))
        metric.process({}, [sample | dict(gt_sem_seg=dict(data=truth))])
        pairs.append((stored[stored != NO_CLASS], found[stored != NO_CLASS]))
    truth, found = map(np.concatenate, zip(*pairs, strict=True))
    scores = [
        ((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum()
        for c in (0, 43, 255, 256, 299)
    ]
    assert metric.evaluate(4)['mIoU'] == pytest.approx(100 * np.mean(scores), abs=0.01)


FORGOTTEN = {
    'train_dataloader.dataset.ignore_index': r'ignore_index=255 is not allowed: .* up to 299',
    'val_dataloader.dataset.ignore_index': r'val_data.*ignore_index=255 is not allowed',
    'model.decode_head.ignore_index': r'the same in model.decode_head.ignore_index=255$',
    'model.auxiliary_head.ignore_index': r'the same in model.auxiliary_head.ignore_index=255$',
    'model.data_preprocessor.seg_pad_val': r'same in model.data_preprocessor.seg_pad_val=255$',
    'train_dataloader.dataset.pipeline.2.ignore_index': r'pipeline RandomCrop.ignore_index=255$',
    'val_evaluator.ignore_index': r'the same in val_evaluator.ignore_index=255$',
}


@pytest.mark.parametrize('place', FORGOTTEN)
def test_no_place_may_ignore_a_label_that_is_a_class(place, wide_config):
    config = read_config(wide_config, {place: 255})
    with pytest.raises(ValueError, match=FORGOTTEN[place]):
        check_ignore_index(config, check_model(config.model), ['train', 'val'])


ROTATE = dict(type='RandomRotate', prob=1.0, degree=9)


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('train_dataloader.dataset.pipeline.1.type', 'LoadAnnotations', 'know 255 alone'),
        ('train_dataloader.dataset.type', 'BaseSegDataset', 'know 255 alone'),
        ('val_evaluator.output_dir', 'work_dirs/x', 'IoUMetric writes 8 bits'),
        (
            'train_dataloader.dataset.pipeline.4',
            dict(type='Pad', size=(SIDE, SIDE)),
            'pipeline Pad.pad_val.seg=255$',
        ),
        (
            'train_dataloader.dataset.pipeline.4',
            dict(type='RandomApply', transforms=[ROTATE]),
            'pipeline RandomRotate.seg_pad_val=255$',
        ),
        (
            'model.decode_head.loss_decode',
            dict(_delete_=True, type='DiceLoss'),
            'model.decode_head.loss_decode.ignore_index=255$',
        ),
    ],
)
def test_what_knows_255_alone_is_refused(place, value, message, wide_config):
    config = read_config(wide_config, {place: value})
    with pytest.raises(ValueError, match=message):
        check_ignore_index(config, check_model(config.model), ['train', 'val'])


def test_what_mixes_images_is_looked_at_too(wide_config):
    config = read_config(wide_config)
    mosaic = dict(type='RandomMosaic', prob=1.0, img_scale=(SIDE, SIDE))
    inner = config.train_dataloader.dataset
    mixed = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[mosaic])
    config.train_dataloader.dataset = ConfigDict(mixed)
    with pytest.raises(ValueError, match=r'pipeline RandomMosaic.seg_pad_val=255$'):
        check_ignore_index(config, check_model(config.model), ['train'])


@pytest.mark.parametrize(('classes', 'reduce_zero_label'), [(256, False), (255, True)])
def test_a_data_set_does_not_ignore_its_own_class(classes, reduce_zero_label, tmp_path):
    options = write_maps(tmp_path, [binary(1)])
    with pytest.raises(BadData, match='ignore_index=255 is not allowed for .* up to 255'):
        build(options, classes, reduce_zero_label=reduce_zero_label)
    build(options, classes - 1, reduce_zero_label=reduce_zero_label)
    data = build(options, classes, reduce_zero_label=reduce_zero_label, ignore_index=NO_CLASS)
    found = data[0]['data_samples'].gt_sem_seg.data.unique().tolist()
    assert found == ([0, NO_CLASS] if reduce_zero_label else [0, 1])


def test_shipped_segmentors_are_not_concerned():
    path = 'upernet_convnextv2-a_4xb4-160k-fcmae_ade20k-512px.py'
    config = read_config(ROOT / 'configs/segmentation' / path)
    config.model.backbone.init_cfg = None
    check_ignore_index(config, check_model(config.model), ['train', 'val', 'test'])


def test_chosen_classes_of_many_keep_class_255(tmp_path):
    """MMSegmentation marks classes that are left out by 255, which is a class here."""
    names = tuple(f'c{i}' for i in range(CLASSES))
    options = write_maps(tmp_path, wide_maps()[:1])

    @DATASETS.register_module(name='ManyClasses', force=True)
    class ManyClasses(DATASETS.get('convnextv2_mm.BaseSegDataset')):
        METAINFO = dict(classes=names)

    chosen = [name for name in names if name != 'c43']
    data = build(options | dict(type='ManyClasses'), chosen, ignore_index=NO_CLASS)
    found = data[0]['data_samples'].gt_sem_seg.data[0].numpy()
    stored = wide_maps()[0].astype(int)
    expected = np.where(stored == 43, NO_CLASS, stored - (stored > 43) * (stored < NO_CLASS))
    assert np.array_equal(found, expected)


# Images of kinds that are read otherwise than they seem: what is loaded.

COLOURS = np.asarray(picture()).copy()
FOUR = np.concatenate([COLOURS, np.full((HEIGHT, WIDTH, 1), 128, np.uint8)], -1)


def loaded(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return LoadImageFromFile()(dict(img_path=str(path)))['img'][..., ::-1].astype(int)


@pytest.mark.parametrize('channels', [2, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_tif_channels_that_are_not_marked_as_rgb_are_read_as_the_first(channels, dtype, tmp_path):
    values = FOUR[..., :channels].astype(dtype) * (257 if dtype == np.uint16 else 1)
    image = loaded(tmp_path / 'x.tif', tiff(values, 1, (0,) * (channels - 1)))
    assert np.array_equal(image, COLOURS[..., [0, 0, 0]])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_rgb_tif_is_read_as_rgb_without_a_fourth_channel(dtype, tmp_path):
    for channels, extra in ((3, ()), (4, (0,))):
        values = FOUR[..., :channels].astype(dtype) * (257 if dtype == np.uint16 else 1)
        image = loaded(tmp_path / 'x.tif', tiff(values, 2, extra))
        assert np.array_equal(image, COLOURS)


def test_transparent_tif_is_darkened_and_transparent_png_is_not(tmp_path):
    image = loaded(tmp_path / 'x.tif', tiff(FOUR, 2, (2,)))
    assert np.abs(image - COLOURS.astype(float) * 128 / 255).max() < 1.01
    image = loaded(tmp_path / 'x.png', encode(Image.fromarray(FOUR), 'PNG'))
    assert np.array_equal(image, COLOURS)


def test_tif_of_several_pages_is_read_as_its_first(tmp_path):
    pages = dict(save_all=True, append_images=[Image.fromarray(255 - COLOURS)])
    content = encode(Image.fromarray(COLOURS), 'TIFF', **pages)
    assert np.array_equal(loaded(tmp_path / 'x.tif', content), COLOURS)


@pytest.mark.parametrize(
    ('values', 'what'),
    [
        (COLOURS[..., :1].astype(np.float32) / 255, '1 channels of 32 bits'),
        (COLOURS.astype(np.float32), '3 channels of 32 bits'),
        (FOUR[..., [0, 1, 2, 3, 0]], '5 channels of 8 bits'),
    ],
)
def test_other_tifs_are_refused_by_what_they_are(values, what, tmp_path):
    channels = values.shape[-1]
    with pytest.raises(BadData, match=f'x.tif is a TIFF of {what}: at most 4 of at most 16'):
        loaded(tmp_path / 'x.tif', tiff(values, 1, (0,) * (channels - 1)))


# What one image may cost.


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; decoding it would take as much memory."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack('>I', zlib.crc32(name + content))
        return struct.pack('>I', len(content)) + name + content + checksum

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * 4))
    body = chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + body


LOADERS = [LoadImageFromFile, LoadEncodedJPEG, LoadAnnotations]


def load(loader: type, path: Path, **options) -> dict:
    results = dict(img_path=str(path), seg_map_path=str(path), ori_shape=(HEIGHT, WIDTH))
    results |= dict(reduce_zero_label=False, seg_fields=[])
    return loader(**options)(results)


@pytest.mark.parametrize('loader', LOADERS)
def test_too_many_pixels_are_refused_before_they_are_decoded(loader, tmp_path):
    path = tmp_path / 'x.png'
    path.write_bytes(huge_png(30000, 30000))
    reason = 'x.png has 30000x30000 pixels, more than max_pixels=268435456 of what loads it'
    with pytest.raises(BadData, match=reason):
        load(loader, path)


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP', 'four channels'])
def test_max_pixels_is_for_every_format(loader, kind, tmp_path):
    path = tmp_path / 'x'
    content = tiff(FOUR, 1, (0, 0, 0)) if kind == 'four channels' else encode(picture(), kind)
    path.write_bytes(content)
    with pytest.raises(BadData, match=f'x has {WIDTH}x{HEIGHT} pixels, more than max_pixels=9999 '):
        load(loader, path, max_pixels=9999)
    if loader is not LoadAnnotations:
        assert load(loader, path, max_pixels=WIDTH * HEIGHT)['ori_shape'] == (HEIGHT, WIDTH)


def test_max_pixels_may_be_above_the_limit_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    Image.fromarray(binary(1)).save(tmp_path / 'x.png')
    results = dict(ori_shape=(SIDE, SIDE), reduce_zero_label=False, seg_fields=[])
    results |= dict(seg_map_path=str(tmp_path / 'x.png'), num_labels=2)
    assert np.array_equal(LoadAnnotations()(results)['gt_seg_map'], binary(1))
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize('loader', LOADERS)
def test_pipes_and_devices_are_not_read(loader, tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
    (tmp_path / 'link.jpg').symlink_to(tmp_path / 'pipe.jpg')
    for name in ('pipe.jpg', 'zero.jpg', 'link.jpg'):
        with pytest.raises(BadData, match=f'{name} is not allowed: it is no regular file$'):
            load(loader, tmp_path / name)


def test_links_to_images_are_followed(tmp_path):
    (tmp_path / 'x.jpg').write_bytes(encode(picture()))
    (tmp_path / 'link.jpg').symlink_to(tmp_path / 'x.jpg')
    assert load(LoadImageFromFile, tmp_path / 'link.jpg')['ori_shape'] == (HEIGHT, WIDTH)


def test_images_from_elsewhere_are_read_by_their_backend(monkeypatch):
    from mmengine.fileio import HTTPBackend

    content = cv2.imencode('.png', COLOURS)[1].tobytes()
    monkeypatch.setattr(HTTPBackend, 'get', lambda self, path: content)
    results = LoadImageFromFile()(dict(img_path='https://host/x.png'))
    assert np.array_equal(results['img'], COLOURS)
    results = LoadImageFromFile(backend_args=dict(backend='http'))(dict(img_path='x.png'))
    assert np.array_equal(results['img'], COLOURS)
