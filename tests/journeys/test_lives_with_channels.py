"""Images with 1, 4 and 13 channels go through all four tasks, from one command to predictions."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from command_line import Command

NUMBER = 6
SMALL = ['--size', 64, '--epochs', 1, '--batch', 2, '--init', 'none']
CASES = {'pretrain': 4, 'classify': 1, 'detect': 13, 'segment': 4}


def write(path: Path, image: np.ndarray) -> None:
    """13 channels as .npy, 4 as TIFF with 16 bits, 1 as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.shape[2] == 13:
        np.save(path.with_suffix('.npy'), image.astype(np.float32) / 255)
    elif image.shape[2] == 4:
        tifffile.imwrite(path.with_suffix('.tif'), image.astype(np.uint16) * 40)
    else:
        assert cv2.imwrite(str(path.with_suffix('.png')), image)


def write_data(folder: Path, channels: int) -> dict[str, list]:
    """Squares on noise, and the arguments of each task."""
    random = np.random.default_rng(0)
    content = dict(images=[], annotations=[], categories=[dict(id=1, name='square')])
    suffix = {1: '.png', 4: '.tif', 13: '.npy'}[channels]
    for i in range(NUMBER):
        image = random.integers(0, 100, (64, 72, channels), np.uint8)
        image[10:40, 20:50] += 150
        labels = np.zeros((64, 72), np.uint8)
        labels[10:40, 20:50] = 1
        write(folder / f'photos/{i}', image)
        write(folder / f'sorted/{("a", "b")[i % 2]}/{i}', image)
        write(folder / f'masks/{i}', labels[..., None])
        content['images'].append(dict(id=i, file_name=f'{i}{suffix}', height=64, width=72))
        outline = [20, 10, 49, 10, 49, 39, 20, 39]
        entry = dict(id=i + 1, image_id=i, category_id=1, segmentation=[outline], iscrowd=0)
        content['annotations'].append(entry | dict(bbox=[20, 10, 29, 29], area=841))
    (folder / 'train.json').write_text(json.dumps(content))
    return dict(
        pretrain=[folder / 'photos'],
        classify=[folder / 'sorted'],
        detect=['--train', folder / 'train.json', '--images', folder / 'photos'],
        segment=[folder / 'photos', folder / 'masks'],
    )


@pytest.mark.parametrize('task', CASES)
def test_any_number_of_channels(task, tmp_path):
    channels = CASES[task]
    arguments = write_data(tmp_path, channels)[task]
    told = ['--channels', 1] if channels == 1 else []  # a PNG may be meant in colours
    work_dir, out = tmp_path / 'run', tmp_path / 'out'
    options = [*SMALL, *told, '--work-dir', work_dir]
    printed = Command(f'own/{task}', *arguments, *options, folder=tmp_path).end()
    assert 'normalised by the mean and deviation of' in printed
    (config,) = work_dir.glob('*.py')
    checkpoint = work_dir / 'epoch_1.pth'
    Command('test', config, checkpoint, '--work-dir', tmp_path / 'test', folder=tmp_path).end()
    Command('infer', config, checkpoint, tmp_path / 'photos', '--out', out, folder=tmp_path).end()
    arguments = [checkpoint, out / 'backbone.pth', '--task', 'backbone', '--to', 'timm']
    Command('convert_checkpoint', *arguments, folder=tmp_path).end()
    pictures = [cv2.imread(str(out / f'{i}.png')) for i in range(NUMBER)]
    assert all(picture.std() > 10 for picture in pictures)  # something is to be seen
    sheet = ['--mode', 'concat', '--number', 2, '--sheet', tmp_path / 'sheet.png']
    Command('browse_dataset', config, *sheet, folder=tmp_path).end()
    assert cv2.imread(str(tmp_path / 'sheet.png')).std() > 10


def test_files_with_other_channels_are_named(tmp_path):
    arguments = write_data(tmp_path, 4)['pretrain']
    odd = tmp_path / 'photos/3.tif'
    tifffile.imwrite(odd, np.zeros((5, 64, 72), np.uint16), planarconfig='separate')
    options = [*SMALL, '--work-dir', tmp_path / 'run']
    skip = ['--cfg-options', 'train_dataloader.dataset.skip_bad_data=False']
    ended = Command('own/pretrain', *arguments, *options, *skip, folder=tmp_path).end(2)
    (line,) = [line for line in ended.splitlines() if line.startswith('error: ')]
    assert '3.tif has shape (64, 72, 5), but channels=4' in line
