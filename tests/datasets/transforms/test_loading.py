"""Images and label maps, as they are read and refused."""

import numpy as np
import pytest
from bad_files import BAD_IMAGES, HEIGHT, WIDTH, label_maps, picture, write_images
from mmseg.datasets.transforms import LoadAnnotations as MMSegLoadAnnotations
from PIL import Image

from convnextv2_mm.datasets import LoadAnnotations, LoadImageFromFile
from convnextv2_mm.errors import BadData


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bad') / 'images'
    write_images(folder)
    return folder


def load(path, **size):
    return LoadImageFromFile()(dict(img_path=str(path), **size))


@pytest.mark.parametrize('kind', BAD_IMAGES)
def test_bad_images_are_named(kind, folder):
    with pytest.raises(BadData) as error:
        load(folder / f'{kind}.jpg')
    assert str(error.value) == f'{folder}/{kind}.jpg {BAD_IMAGES[kind]}'


def test_a_folder_is_no_image(folder):
    with pytest.raises(BadData, match='cannot be read: Is a directory'):
        load(folder)


# Mean difference in grey levels to the drawing, that compression and the palette explain.
USED = {'plain': 4, 'cmyk': 5, 'palette': 15, 'colour-16': 0, 'alpha': 0}
USED |= {'gif': 15, 'apng': 0, 'webp': 0}


@pytest.mark.parametrize('kind', USED)
def test_unusual_images_show_the_same(kind, folder):
    image = load(folder / f'{kind}.jpg')['img']
    expected = np.asarray(picture())[..., ::-1]
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).mean() <= USED[kind]


@pytest.mark.parametrize(('kind', 'channel'), [('grey', 'L'), ('grey-16', 1)])
def test_grey_is_all_three_channels(kind, channel, folder):
    image = load(folder / f'{kind}.jpg')['img'].astype(int)
    drawn = picture()
    expected = np.asarray(drawn.convert('L') if channel == 'L' else np.asarray(drawn)[..., channel])
    assert np.abs(image - expected[..., None]).mean() < 2


@pytest.mark.parametrize(('kind', 'turns'), [('orientation-3', 2), ('orientation-6', 3)])
def test_orientation(kind, turns, folder):
    path, stored = folder / f'{kind}.jpg', np.asarray(picture())[..., ::-1]
    turned = np.rot90(stored, turns)

    def differs(image, expected):
        return image.shape != expected.shape or np.abs(image.astype(int) - expected).mean() > 5

    assert not differs(load(path)['img'], turned)
    # What the annotations were made on has their size.
    height, width = turned.shape[:2]
    assert not differs(load(path, height=height, width=width)['img'], turned)
    result = load(path, height=HEIGHT, width=WIDTH)
    assert not differs(result['img'], turned if turns == 2 else stored)
    assert result['img_shape'] == result['ori_shape'] == (HEIGHT, WIDTH)


@pytest.mark.parametrize('size', [(HEIGHT + 1, WIDTH), (WIDTH, HEIGHT), (50, 50)])
def test_annotations_for_another_size(size, folder):
    with pytest.raises(BadData, match=rf'is 128x96 .* annotations are for {size[1]}x{size[0]}$'):
        load(folder / 'plain.jpg', height=size[0], width=size[1])


def label_map(path, **changes):
    results = dict(seg_map_path=str(path), ori_shape=(HEIGHT, WIDTH), num_labels=150)
    return results | dict(reduce_zero_label=True, label_map=None, seg_fields=[]) | changes


@pytest.mark.parametrize(('name', 'content', 'message'), list(label_maps()))
def test_label_maps(name, content, message, tmp_path):
    path = tmp_path / f'{name}.png'
    if name != 'missing':
        path.write_bytes(content)
    results = label_map(path)
    if message:
        with pytest.raises(BadData, match=message) as error:
            LoadAnnotations()(results)
        assert str(error.value).startswith(str(path))
        return
    found = LoadAnnotations()(results)['gt_seg_map']
    assert np.array_equal(found, MMSegLoadAnnotations()(label_map(path))['gt_seg_map'])
    assert found.dtype == np.uint8
    assert results['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('mapped', [None, {0: 1, 1: 255, 2: 0, 3: 2}])
def test_label_maps_equal_those_of_mmseg(reduce_zero_label, mapped, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.choice([0, 1, 2, 3, 255], (HEIGHT, WIDTH)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / 'x.png')
    settings = dict(reduce_zero_label=reduce_zero_label, label_map=mapped, num_labels=4)
    found = LoadAnnotations()(label_map(tmp_path / 'x.png', **settings))['gt_seg_map']
    other = MMSegLoadAnnotations()(label_map(tmp_path / 'x.png', **settings))['gt_seg_map']
    assert np.array_equal(found, other)
    Image.fromarray(np.full((HEIGHT, WIDTH), 4 + reduce_zero_label, np.uint8)).save(
        tmp_path / 'y.png'
    )
    with pytest.raises(BadData, match=f'has the label {4 + reduce_zero_label}, but'):
        LoadAnnotations()(label_map(tmp_path / 'y.png', **settings))
