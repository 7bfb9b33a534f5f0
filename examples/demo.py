"""Pre-train, detect and segment on the built-in shapes, with a table and a report at the end.

Each step is the command that a real run uses; only the configs are small.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from html import escape
from pathlib import Path

from convnextv2_mm.apis.inference import load_model
from convnextv2_mm.apis.predictions import save_predictions
from convnextv2_mm.engine.runner.resume import find_checkpoint

ROOT = Path(__file__).resolve().parent.parent
WORK_DIR = Path('work_dirs/demo')
CONFIGS = {
    'pretrain': 'configs/demo/fcmae_convnextv2-a_shapes.py',
    'detection': 'configs/demo/mask-rcnn_convnextv2-a_fpn_shapes.py',
    'segmentation': 'configs/demo/upernet_convnextv2-a_shapes.py',
}
# What is reported: name, key in the log, factor that makes it a figure between 0 and 1
METRICS = {
    'detection': [
        ('box mAP', 'coco/bbox_mAP', 1),
        ('box mAP50', 'coco/bbox_mAP_50', 1),
        ('mask mAP', 'coco/segm_mAP', 1),
        ('mask mAP50', 'coco/segm_mAP_50', 1),
    ],
    'segmentation': [('mIoU', 'mIoU', 0.01)],
}
NUM_PICTURES = 6


def train(task: str, name: str, *options: str) -> list[dict]:
    """Run tools/train.py, show its progress, and return what it logged."""
    work_dir = WORK_DIR / name
    command = [sys.executable, 'tools/train.py', CONFIGS[task], '--work-dir', str(work_dir)]
    if options:
        command += ['--cfg-options', *options]
    print(f'\n$ python {" ".join(command[1:])}', flush=True)
    started = time.time()
    work_dir.mkdir(parents=True, exist_ok=True)
    with (WORK_DIR / f'{name}.log').open('w') as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            log.write(line)
            _, mark, progress = line.partition(' - mmengine - INFO - ')
            if mark and progress.startswith(('Epoch(', 'Iter(')):
                print('  ' + progress.split('  data_time')[0].strip()[:120], flush=True)
    if process.wait():
        sys.exit(f'error: {name} failed, see {WORK_DIR / name}.log')
    print(f'  {time.time() - started:.0f} s', flush=True)
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def checkpoint(name: str) -> str:
    return find_checkpoint(WORK_DIR / name)


def draw(task: str, name: str) -> list[Path]:
    """Pictures of what a trained model predicts for some of the held-out drawings."""
    images = sorted(str(path) for path in Path('data/shapes/images/val').rglob('*.jpg'))
    images = images[:: len(images) // NUM_PICTURES][:NUM_PICTURES]
    out = WORK_DIR / 'pictures' / name
    warnings.simplefilter('ignore')  # of the visualizers, about masks at the border
    save_predictions(load_model(CONFIGS[task], checkpoint(name)), images, out, score_thr=0.5)
    return [out / f'{Path(image).stem}.png' for image in images]


def write_report(
    rows: list[tuple[str, str, str]], pictures: dict[str, list[Path]], seconds: float
) -> Path:
    """One HTML page beside its pictures."""
    table = ''.join(
        '<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>' for row in rows
    )
    galleries = ''.join(
        f'<h2>{escape(title)}</h2><div>'
        + ''.join(f'<img src="{path.relative_to(WORK_DIR)}" alt="{path.stem}">' for path in paths)
        + '</div>'
        for title, paths in pictures.items()
    )
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>convnextv2_mm demo</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }}
td, th {{ padding: .3em 1.5em .3em 0; border-bottom: 1px solid #ccc; text-align: left }}
img {{ height: 190px; margin: 0 .6em .6em 0; image-rendering: pixelated }}
</style>
<h1>ConvNeXt V2-Atto on the drawn shapes</h1>
<p>FCMAE pre-training, then Mask R-CNN and UPerNet fine-tuned from it and, for the same steps, from
random weights. Held-out drawings. {seconds / 60:.1f} minutes in all.</p>
<table><tr><th></th><th>after FCMAE</th><th>from random weights</th></tr>{table}</table>
{galleries}</html>
"""
    path = WORK_DIR / 'report.html'
    path.write_text(page, encoding='utf-8')
    return path


def main() -> None:
    started = time.time()
    log = train('pretrain', 'fcmae')
    losses = [entry['loss'] for entry in log if 'loss' in entry]
    rows = [('pre-training loss, first and last', f'{losses[0]:.3f} → {losses[-1]:.3f}', '')]
    for task, metrics in METRICS.items():
        init = 'model.backbone.init_cfg'
        pretrained = train(task, f'{task}-fcmae', f'{init}.checkpoint={checkpoint("fcmae")}')[-1]
        random = train(task, f'{task}-random', f'{init}=None')[-1]
        for name, key, factor in metrics:
            figures = (f'{factor * result[key]:.3f}' for result in (pretrained, random))
            rows.append((name, *figures))

    print('\npictures', flush=True)
    pictures = {
        'Masked, reconstructed, original': draw('pretrain', 'fcmae'),
        'Detections': draw('detection', 'detection-fcmae'),
        'Segmentations': draw('segmentation', 'segmentation-fcmae'),
    }
    report = write_report(rows, pictures, time.time() - started)
    print(f'\n\n{"":36}{"after FCMAE":18}from random weights')
    for row in rows:
        print(f'{row[0]:36}{row[1]:18}{row[2]}')
    print(f'\n{time.time() - started:.0f} s; report with pictures: {report}')


if __name__ == '__main__':
    os.chdir(ROOT)
    main()
