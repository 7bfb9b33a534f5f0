"""sweep: what it plans, what it runs, and what it gathers."""

import csv
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction
from run_tool import run_tool

from convnextv2_mm.apis import sweep as runs
from convnextv2_mm.datasets.shapes.drawing import write_shapes

ROOT = Path(__file__).parents[2]

DETECTION = 'configs/detection/mask-rcnn_convnextv2-b_fpn_lsj-3x-fcmae_coco.py'
SEGMENTATION = 'configs/segmentation/upernet_convnextv2-b_4xb4-160k-fcmae_ade20k-512px.py'
LR, DECAY = 'optim_wrapper.optimizer.lr', 'optim_wrapper.paramwise_cfg.decay_rate'
DROP = 'model.backbone.drop_path_rate'


run = partial(run_tool, 'sweep')


def results(work_dir: Path) -> list[dict]:
    """The rows of results.json, which must be those of results.csv."""
    rows = json.loads((work_dir / 'results.json').read_text())
    with (work_dir / 'results.csv').open(newline='') as file:
        for row, line in zip(rows, csv.DictReader(file), strict=True):
            assert line == {k: '' if v is None else str(v) for k, v in row.items()}
    return rows


# ------------------------------------------------------------------------------------ planning


def test_the_sweep_of_the_paper_on_coco(tmp_path, capsys):
    values = [f'{DECAY}=0.9,0.95', f'{DROP}=0.2,0.3,0.4,0.5']
    run(ROOT / DETECTION, '--set', *values, '--work-dir', tmp_path, '--write', '--gpus', 8)
    assert '8 of 8 runs to train' in capsys.readouterr().out
    commands = (tmp_path / 'commands.txt').read_text().splitlines()
    assert len(commands) == 8
    folder = tmp_path / 'decay_rate=0.95_drop_path_rate=0.3'
    script = f'bash {ROOT}/tools/dist_train.sh {ROOT}/{DETECTION} 8'
    options = f'--cfg-options {DECAY}=0.95 {DROP}=0.3'
    assert f'{script} --work-dir {folder} {options}' in commands
    run(ROOT / DETECTION, '--work-dir', tmp_path, '--gather')
    assert [row['state'] for row in results(tmp_path)] == ['waiting'] * 8


def test_three_keys_and_slurm(tmp_path):
    values = [f'{LR}=1e-4,2e-4,3e-4', f'{DECAY}=0.8,0.9', f'{DROP}=0.1,0.2,0.3,0.4']
    more = ['--partition', 'gpu', '--gpus', 4, '--cfg-options', 'randomness.seed=3']
    run(ROOT / SEGMENTATION, '--set', *values, '--work-dir', tmp_path, '--write', *more)
    commands = (tmp_path / 'commands.txt').read_text().splitlines()
    assert len(set(commands)) == 24
    assert all(c.startswith(f'env GPUS=4 bash {ROOT}/tools/slurm_train.sh gpu ') for c in commands)
    assert all(f'--cfg-options randomness.seed=3 {LR}=' in command for command in commands)


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        (f'{DROP}=0.1,0.2', [0.1, 0.2]),
        (f'{DROP}=0.1', [0.1]),
        (f'{DROP}=[0.1,0.2]', [0.1, 0.2]),
        (f'{LR}=1e-4,0.00002', [1e-4, 2e-5]),
        ('model.backbone.init_cfg=None', [None]),
        ('model.backbone.init_cfg.checkpoint=a/b.pth,None', ['a/b.pth', None]),
        ('model.backbone.with_cp=True,False', [True, False]),  # an argument that is not there yet
        ('optim_wrapper.optimizer.amsgrad=True,False', [True, False]),
        ('randomness.seed=0,1,2', [0, 1, 2]),
        ('optim_wrapper.optimizer.betas=[(0.9,0.99),(0.9,0.999)]', [(0.9, 0.99), (0.9, 0.999)]),
        (
            'train_dataloader.dataset.pipeline.2.scale=[[512,512],[800,800]]',
            [[512, 512], [800, 800]],
        ),
    ],
)
def test_values_reach_the_config_as_they_are_written(text, values, tmp_path):
    run(ROOT / DETECTION, '--set', text, '--work-dir', tmp_path, '--write')
    commands = (tmp_path / 'commands.txt').read_text().splitlines()
    key = text.partition('=')[0]
    for command, value in zip(commands, values, strict=True):
        (option,) = re.findall(r"--cfg-options '?([^']+)'?$", command)
        parsed = DictAction._parse_iterable(option.partition('=')[2])  # as tools/train.py does
        assert parsed == value
        assert type(parsed) is type(value)
        config = Config.fromfile(ROOT / DETECTION)
        config.merge_from_dict({key: parsed})
        node = config
        for part in key.split('.'):
            node = node[int(part)] if isinstance(node, list) else node[part]
        assert node == value


MISTAKES = [
    (['model.backbone.drop_path=0.1'], 'model.backbone has no drop_path (it has type, out_indices'),
    (['optim_wrapper.paramwise_cfg.decay=0.9'], 'has no decay (it has decay_rate, decay_type)'),
    (['optim_wrapper.optimiser.lr=1'], 'optim_wrapper has no optimiser'),
    (['model.roi_head.bbox_head.num_class=3'], 'nor has Shared2FCBBoxHead such an argument'),
    (['lr=1e-4'], 'lr would change nothing; no run reads lr'),
    (['image_size=512,640'], 'image_size is only a name in the config file'),
    (['train_pipeline.2.scale=1'], 'train_pipeline is only a name in the config file'),
    (['train_dataloader.dataset.pipeline.9.scale=1'], 'is a list of 7, without 9'),
    (['load_from.x=1'], 'load_from is None in the config, without x'),
    (['work_dir=a,b'], 'the sweep sets it for each run'),
    (['model.backbone=tiny'], 'model.backbone=tiny is not allowed: it has type, out_indices'),
    ([f'{LR}=[[1e-4,2e-4]]'], 'is not allowed: it is 0.0001 in the config'),
    ([f'{LR}=high'], 'is not allowed: it is 0.0001 in the config'),
    (['optim_wrapper.optimizer.betas=0.9,0.99'], 'lists go into one more pair of brackets'),
    (['optim_wrapper.optimizer.betas=[1,2],[3,4]'], 'must be KEY=V1,V2, or KEY=[[1,2],[3,4]]'),
    ([DROP], 'must be KEY=V1,V2'),
    ([f'{DROP}=0.1,0.1'], 'two runs are drop_path_rate=0.1'),
    ([f'{DROP}=0.1', '--gpus', '0'], '--gpus 0 is not allowed'),
    ([f'{DROP}=0.1', '--cfg-options', f'{DROP}=0.2'], 'is in --set and in --cfg-options'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_mistakes_end_in_one_sentence_before_anything_runs(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(ROOT / DETECTION, '--work-dir', tmp_path / 'sweep', '--set', *arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'error: ' in line
    assert message in line
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(tmp_path, capsys):
    for arguments, message in (
        (['no.py', '--set', f'{DROP}=0.1'], 'config no.py does not exist'),
        ([ROOT / DETECTION], 'nothing to sweep'),
        ([ROOT / DETECTION, '--gather'], 'has no runs of a sweep'),
    ):
        with pytest.raises(SystemExit):
            run(*arguments, '--work-dir', tmp_path)
        assert message in capsys.readouterr().err


def test_a_folder_with_other_runs_is_left_alone(tmp_path, capsys):
    arguments = [ROOT / DETECTION, '--set', f'{DROP}=0.1', '--work-dir', tmp_path, '--write']
    run(*arguments)
    with pytest.raises(SystemExit):
        run(*arguments, '--cfg-options', f'{LR}=1e-3')
    assert 'give another --work-dir' in capsys.readouterr().err
    run(*arguments)


# ----------------------------------------------------------------------------------- gathering


def finish(folder: Path, epoch: int, **metrics: float) -> None:
    """What MMEngine leaves behind, of a run of 36 epochs that was resumed once."""
    (folder / f'epoch_{epoch}.pth').write_bytes(b'')
    (folder / 'last_checkpoint').write_text(f'/elsewhere/{folder.name}/epoch_{epoch}.pth')
    for number, epochs in enumerate((range(1, 12), range(12, epoch + 1))):
        log = folder / f'2026010{number}_000000' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        lines = []
        for step in epochs:
            lines.append(dict(lr=1e-4, loss=0.5, epoch=step, iter=step * 10, step=step * 10))
            found = {name.replace('__', '/'): v - (epoch - step) for name, v in metrics.items()}
            lines.append(dict(found, data_time=0.1, time=0.2, step=step))
        log.write_text('\n'.join([*map(json.dumps, lines), '{"lr": 1e-']))  # killed while it wrote


def test_the_table(tmp_path, capsys):
    command = [ROOT / DETECTION, '--set', f'{DROP}=0.1,0.2,0.3,0.4', '--work-dir', tmp_path]
    run(*command, '--write')
    folders = [tmp_path / f'drop_path_rate=0.{i}' for i in (1, 2, 3, 4)]
    finish(folders[0], 36, coco__bbox_mAP=52.5, coco__segm_mAP=46.4)
    finish(folders[1], 36, coco__bbox_mAP=52.25, coco__segm_mAP=46.5)
    finish(folders[2], 24, coco__bbox_mAP=99.0, coco__segm_mAP=99.0)  # cut
    run(*command, '--gather')
    table = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in table[-7].split('|')[1:-1]] == [
        'drop_path_rate',
        'coco/bbox_mAP',  # save_best of the config
        'state',
        '',
    ]
    assert [line.split()[1:-1:2] for line in table[-5:-1]][:2] == [
        ['0.1', '52.5', 'done', 'best'],
        ['0.2', '52.25', 'done'],
    ]
    rows = results(tmp_path)
    assert [row['state'] for row in rows] == ['done', 'done', 'cut after epoch_24', 'waiting']
    assert [row['best'] for row in rows] == [True, False, False, False]
    assert [row['coco/segm_mAP'] for row in rows] == [46.4, 46.5, None, None]
    assert list(rows[0]) == ['run', DROP, 'coco/bbox_mAP', 'coco/segm_mAP', 'best', 'state']

    run(*command, '--gather', '--metric', 'coco/segm_mAP', 'coco/bbox_mAP')
    assert [row['best'] for row in results(tmp_path)] == [False, True, False, False]
    with pytest.raises(SystemExit):
        run(*command, '--gather', '--metric', 'mIoU')
    assert 'mIoU is unknown: the runs have coco/bbox_mAP' in capsys.readouterr().err

    run(*command, '--write')  # what is left: the cut one goes on, the finished ones are not there
    commands = (tmp_path / 'commands.txt').read_text().splitlines()
    assert [f'{folder}' in ' '.join(commands) for folder in folders] == [False, False, True, True]
    assert ['--resume' in command.split() for command in commands] == [True, False]


def test_the_lowest_loss_is_best(tmp_path):
    config = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'
    command = [config, '--set', 'model.mask_ratio=0.5,0.6', '--work-dir', tmp_path]
    run(*command, '--write', '--cfg-options', 'train_cfg.max_epochs=36')
    for ratio, loss in ((0.5, 0.75), (0.6, 0.625)):
        finish(tmp_path / f'mask_ratio={ratio}', 36, fcmae__loss=loss)
    run(*command, '--gather')
    assert [row['best'] for row in results(tmp_path)] == [False, True]


# ------------------------------------------------------------------------------------- running


@pytest.mark.parametrize(
    ('output', 'reason'),
    [
        ("print('error: arch is wrong.', file=sys.stderr); sys.exit(2)", 'arch is wrong.'),
        ("print('1%'); raise MemoryError('too large')", 'MemoryError: too large'),
        (
            "print('[rank1]: ValueError: why\\nsome.ChildFailedError: \\n=====')\nsys.exit(1)",
            '[rank1]: ValueError: why',
        ),
        ("print('Killed'); sys.exit(137)", 'Killed'),
        ('sys.exit(3)', 'exit code 3'),
    ],
)
def test_the_reason_of_a_failure(output, reason, tmp_path):
    with pytest.raises(RuntimeError, match=f'^{re.escape(reason)}$'):
        command = [sys.executable, '-c', f'import sys\n{output}']
        runs.execute(command, runs.Run(tmp_path, 'config.py', {}, {}))


@pytest.fixture
def command(tmp_path):
    """Two epochs of FCMAE on eight drawings, for each size."""
    write_shapes(tmp_path / 'shapes', num_train=8, num_val=4, size=64, seed=0)
    options = [
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=4',
    ]
    options += ['default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=2']
    options += ['default_hooks.logger.interval=1']
    options += ['train_dataloader.dataset.pipeline.1.scale=64']
    for split in ('train', 'val', 'test'):
        options += [f'{split}_dataloader.dataset.make=None']
        options += [f'{split}_dataloader.dataset.data_root={tmp_path}/shapes']
    config = ROOT / 'configs/demo/fcmae_convnextv2-a_shapes.py'
    return [config, '--work-dir', tmp_path / 'sweep', '--cfg-options', *options]


def test_runs_follow_each_other_and_go_on_where_they_were_cut(
    command, tmp_path, capsys, monkeypatch
):
    """For real, in processes of their own: one run finishes, the other cannot work."""
    work_dir = tmp_path / 'sweep'
    command += ['--set', 'model.backbone.arch=atto,bas']
    with pytest.raises(SystemExit) as stop:
        run(*command)
    assert stop.value.code == 1
    good, bad = results(work_dir)
    assert good['state'] == 'done'
    assert 0 < good['fcmae/loss'] < 5
    assert good['best'] is True
    assert bad['state'].startswith("failed: arch 'bas' is unknown: choose one of atto, femto")
    assert f'2/2 {work_dir}/arch=bas: {bad["state"]} (' in capsys.readouterr().out

    # As if it had been killed after the first epoch. The other is mended: it needs no arch.
    folder = work_dir / 'arch=atto'
    (folder / 'epoch_2.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    (first,) = folder.glob('*/vis_data/scalars.json')
    first.write_text(''.join(first.read_text().splitlines(keepends=True)[:2]))
    calls, execute = [], runs.execute

    def execute_atto(call: list[str], of: runs.Run) -> None:
        calls.append(call)
        if of.folder == folder:
            execute(call, of)

    monkeypatch.setattr(runs, 'execute', execute_atto)
    run(*command)
    assert [('--resume' in call, Path(call[1]).name) for call in calls] == [
        (True, 'train.py'),
        (False, 'train.py'),
    ]
    (second,) = set(folder.glob('*/vis_data/scalars.json')) - {first}
    lines = [json.loads(line) for line in second.read_text().splitlines()]
    epochs = [line.get('epoch') for line in lines if 'monitor/loss' not in line]
    assert epochs == [2, 2, None]  # two steps, and the loss on held-out drawings
    again = results(work_dir)[0]['fcmae/loss']
    assert again == pytest.approx(good['fcmae/loss'], rel=0.01)  # the order of the images differs

    # As if it had been killed in the evaluation: tools/test.py does that again.
    second.write_text(''.join(second.read_text().splitlines(keepends=True)[:2]))
    calls.clear()
    run(*command)
    assert [Path(call[1]).name for call in calls] == ['test.py', 'train.py']
    assert results(work_dir)[0]['fcmae/loss'] == pytest.approx(again, rel=1e-4)
    calls.clear()
    run(*command)
    assert [Path(call[1]).name for call in calls] == ['train.py']  # of the other run
