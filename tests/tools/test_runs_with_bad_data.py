"""Whole runs of the real configs on bad data, and on files that want to run something."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from bad_files import annotation, encode, picture
from mmengine.registry import MODELS
from real_formats import write_real_formats
from test_tools import ROOT, logged, run

from convnextv2_mm.engine.config.reading import read_config

PRETRAIN = ROOT / 'configs/pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py'
DETECTION = ROOT / 'configs/detection/mask-rcnn_convnextv2-a_fpn_lsj-3x-fcmae_coco.py'


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_real_formats(tmp_path)
    return tmp_path / 'data'


def error_of(capsys, tool: str, *arguments: object) -> str:
    """Run a tool that must end in one sentence."""
    with pytest.raises(SystemExit) as stop:
        run(tool, *arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    return line


def test_pretraining_goes_on_without_a_bad_image(data, tmp_path):
    (bad,) = data.glob('imagenet/train/*/0.JPEG')
    bad.write_bytes(bad.read_bytes()[:2000])
    options = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=1']
    options += ['default_hooks.logger.interval=1', 'train_cfg.max_epochs=2']
    run('train', PRETRAIN, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    assert len(logged(tmp_path / 'run', 'loss')) == 2
    lines = next((tmp_path / 'run').glob('*/*.log')).read_text().splitlines()
    (line,) = [line for line in lines if 'another sample takes its place' in line]
    assert '/0.JPEG is not an image that can be decoded, or not a whole one' in line
    assert line.endswith('(1 of 2 so far)')


def test_evaluation_ends_in_a_sentence_with_the_name(data, tmp_path, capsys):
    (path,) = data.glob('imagenet/val/*/1.JPEG')
    path.write_bytes(b'')
    bad = path.relative_to(data.parent)
    model = MODELS.build(read_config(str(PRETRAIN)).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'x.pth')
    options = ['test_dataloader.num_workers=1', 'test_dataloader.batch_size=1']
    arguments = [PRETRAIN, tmp_path / 'x.pth', '--cfg-options', *options]
    expected = f'{bad} is empty'
    assert error_of(capsys, 'test', *arguments).endswith(expected)
    # And inference, in this process.
    arguments = [PRETRAIN, tmp_path / 'x.pth', bad]
    line = error_of(capsys, 'infer', *arguments, '--out', tmp_path / 'out')
    assert line == f'error: {expected}'


def test_a_coco_file_cannot_name_files_elsewhere(data, tmp_path, capsys):
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'].append(dict(id=9, file_name='../../../x.jpg', height=96, width=128))
    content['annotations'].append(annotation(999, 9))
    path.write_text(json.dumps(content))
    options = ['model.backbone.init_cfg=None', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    line = error_of(capsys, 'train', DETECTION, '--cfg-options', *options)
    assert 'instances_train2017.json names data/coco/train2017/../../../x.jpg, which is not' in line


def test_what_the_evaluator_cannot_score_ends_the_run_before_it_starts(data, tmp_path, capsys):
    path = data / 'coco/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['segmentation'][0][0] = 1e9
    path.write_text(json.dumps(content))
    (tmp_path / 'config.py').write_text(  # its test pipeline loads no annotations
        f"_base_ = '{DETECTION}'\n"
        'test_pipeline = [s for s in _base_.test_pipeline if s["type"] != "LoadAnnotations"]\n'
        'val_dataloader = dict(num_workers=0, persistent_workers=False,'
        ' dataset=dict(pipeline=test_pipeline))\n'
    )
    options = ['model.backbone.init_cfg=None', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    arguments = [tmp_path / 'config.py', '--work-dir', tmp_path / 'run', '--cfg-options', *options]
    line = error_of(capsys, 'train', *arguments)
    assert 'instances_val2017.json: annotation ' in line
    assert 'is not three or more points in pixels' in line
    assert not list((tmp_path / 'run').glob('*.pth'))


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    ('tool', 'option'),
    [
        ('train', '--resume'),
        ('train', 'load_from'),
        ('test', ''),
        ('infer', ''),
    ],
)
def test_no_tool_runs_a_checkpoint(tool, option, data, tmp_path, capsys):
    trace, evil = tmp_path / 'trace', tmp_path / 'evil.pth'
    torch.save(dict(state_dict=dict(weight=Payload(trace)), meta={}), evil)
    arguments = [PRETRAIN]
    if option == '--resume':
        arguments += ['--resume', evil]
    elif option:
        arguments += ['--cfg-options', f'{option}={evil}']
    else:
        arguments += [evil]
        if tool == 'infer':
            (tmp_path / 'x.jpg').write_bytes(encode(picture()))
            arguments += [tmp_path / 'x.jpg', '--out', tmp_path / 'out']
    assert 'evil.pth is refused: it wants to run' in error_of(capsys, tool, *arguments)
    assert not trace.exists()
    torch.load(evil, weights_only=False)
    assert trace.exists(), 'the payload does nothing'


def test_no_tool_runs_annotations_or_a_yaml_config(data, tmp_path, capsys):
    trace = tmp_path / 'trace'
    (data / 'coco/evil.pkl').write_bytes(pickle.dumps(Payload(trace)))
    tag = f"!!python/object/apply:os.system ['touch {trace}']"
    (tmp_path / 'evil.yaml').write_text(f'default_scope: mmpretrain\nmodel: {tag}\n')
    option = 'train_dataloader.dataset.ann_file=evil.pkl'
    for tool in ('train', 'check_dataset'):
        line = error_of(capsys, tool, DETECTION, '--cfg-options', option)
        assert 'ann_file evil.pkl is not allowed' in line
        line = error_of(capsys, tool, tmp_path / 'evil.yaml')
        assert 'evil.yaml is not allowed: the name must end in .py or .json' in line
    assert not trace.exists()


@pytest.mark.parametrize('source', ['http://host/x.pth', 'ftp://host/x.pth', 's3://bucket/x.pth'])
def test_weights_come_over_https_alone(source, data, capsys):
    line = error_of(capsys, 'train', PRETRAIN, '--cfg-options', f'load_from={source}')
    assert line == f'error: load_from: {source} cannot be read: use https:// or convnextv2://NAME'
    line = error_of(capsys, 'test', PRETRAIN, source)
    assert line == f'error: {source} cannot be read: use https:// or convnextv2://NAME'
