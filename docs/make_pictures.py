"""Make the pictures of these pages anew: ``make docs-pictures``.

The tools draw them on the built-in data, with the checkpoints that ``make demo`` leaves in
``work_dirs/demo``. The drawing of the sparse encoder is made by ``draw_sparse_encoder.py``.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = Path(__file__).resolve().parent / 'pictures'
DEMO = {
    'pretrain': ('fcmae_convnextv2-a_shapes.py', 'fcmae', 'reconstructions'),
    'detect': ('mask-rcnn_convnextv2-a_fpn_shapes.py', 'detection-fcmae', 'detections'),
    'segment': ('upernet_convnextv2-a_shapes.py', 'segmentation-fcmae', 'segmentations'),
}
WIDTH, NUMBER = 840, 6  # pixels of a sheet, and pictures on it


def run(*command: object) -> None:
    print(f'\n$ python {" ".join(map(str, command))}', flush=True)
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)


def save(picture: Image.Image, name: str) -> None:
    """Save a picture, small enough for the repository."""
    height = round(picture.height * WIDTH / picture.width)
    path = PICTURES / f'{name}.jpg'
    picture = picture.convert('RGB').resize((WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(path, quality=80, optimize=True)
    print(f'{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB')


def sheet(paths: list[Path], columns: int) -> Image.Image:
    """Pictures of one size in rows."""
    pictures = [Image.open(path) for path in paths]
    width, height = pictures[0].width + 8, pictures[0].height + 8
    rows = -(-len(pictures) // columns)
    page = Image.new('RGB', (columns * width - 8, rows * height - 8), 'white')
    for i, picture in enumerate(pictures):
        page.paste(picture, (i % columns * width, i // columns * height))
    return page


def main() -> None:
    run('docs/draw_sparse_encoder.py')
    with tempfile.TemporaryDirectory() as scratch:
        for task, (config, work_dir, name) in DEMO.items():
            config = f'configs/demo/{config}'
            last = ROOT / 'work_dirs/demo' / work_dir / 'last_checkpoint'
            if not last.is_file():
                sys.exit(f'error: {last.relative_to(ROOT)} does not exist: run `make demo` first')
            training = Path(scratch, f'{task}.png')
            run('tools/browse_dataset.py', config, '--number', NUMBER, '--sheet', training)
            save(Image.open(training), f'browse_{task}')

            images = sorted((ROOT / 'data/shapes/images/val').rglob('*.jpg'))
            images = images[:: len(images) // NUMBER][:NUMBER]
            out = Path(scratch, task)
            options = ['--out', out, '--score-thr', 0.5]
            run('tools/infer.py', config, last.parent / last.read_text(), *images, *options)
            save(
                sheet([out / f'{i.stem}.png' for i in images], 2 if task == 'pretrain' else 3), name
            )


if __name__ == '__main__':
    main()
