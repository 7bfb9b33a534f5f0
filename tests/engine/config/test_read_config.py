"""What the tools tell a user who cannot be served."""

import json
import math
import socket
from copy import deepcopy
from datetime import timedelta

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import load
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import distributed, nn

from convnextv2_mm.apis.inference import build_model, check_weights
from convnextv2_mm.apis.train import BFLOAT16
from convnextv2_mm.engine.config.datasets import find_datasets
from convnextv2_mm.engine.config.reading import (
    _checked_and_found,
    check_data,
    check_learning_rates,
    check_model,
    read_config,
)
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.utils.distributed import init_cpu_process_group


def test_first_sentence_is_told(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise ValueError('size 3 is not allowed: choose 4. More that nobody reads.')
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: size 3 is not allowed: choose 4.\n'


def test_bare_assertion_tells_its_source(capsys):
    with pytest.raises(SystemExit), exit_on_user_error():
        raise AssertionError
    error = capsys.readouterr().err
    assert error.startswith('error: AssertionError in ')
    assert error.endswith('raise AssertionError\n')


RUN = "default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier')\n"
BASES = {
    'a list': ("_base_ = ['good.py', 'evil.yaml']\n", {}),
    'a base of a base': ("_base_ = 'inner.py'\n", {'inner.py': "_base_ = './evil.yaml'\n"}),
    'a JSON base': (
        "_base_ = 'inner.json'\n",
        {'inner.json': json.dumps(dict(_base_='evil.yaml'))},
    ),
    'a variable': ("_base_ = '{{ fileDirname }}/evil.yaml'\n", {}),
    'the environment': ("_base_ = '{{$SOME_BASE:evil.yaml}}'\n", {}),
    'the other ending': ("_base_ = 'evil.yml'\n", {}),
}


@pytest.mark.parametrize('place', BASES)
def test_yaml_is_refused_anywhere_in_the_bases(place, tmp_path):
    trace = tmp_path / 'trace'
    tag = f"!!python/object/apply:os.system ['touch {trace}']"
    for name in ('evil.yaml', 'evil.yml'):
        (tmp_path / name).write_text(f'a: {tag}\n')
    first, others = BASES[place]
    for name, text in {'config.py': first + RUN, 'good.py': 'a = 1\n', **others}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(
        ValueError, match=r'evil\.ya?ml is not allowed: the name must end in .py or'
    ):
        read_config(str(tmp_path / 'config.py'))
    assert not trace.exists()
    load(str(tmp_path / 'evil.yaml'))
    assert trace.exists(), 'the payload does nothing'


def test_bases_in_python_and_json_are_read_as_by_mmengine(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(dict(train=dict(a=1, b=2))))
    (tmp_path / 'b.py').write_text("_base_ = 'a.json'\ntrain = dict(b=3)\n")
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = ['b.py']\n{RUN}train = dict(c=_base_.train.a)\n")
    config = read_config(str(path))
    assert config.train == Config.fromfile(path).train == dict(a=1, b=3, c=1)


@pytest.mark.parametrize('base', ['config.py', 'other.py', 'link.py'])
def test_a_config_that_is_its_own_base_is_refused(base, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = '{base}'\n{RUN}")
    (tmp_path / 'other.py').write_text("_base_ = 'config.py'\n")
    (tmp_path / 'link.py').symlink_to(path)
    with pytest.raises(ValueError, match=r'config .*\.py is among its own bases'):
        read_config(str(path))


@pytest.mark.parametrize(
    'text',
    [
        'from mmengine.config import read_base\nwith read_base():\n    from .other import *\n',
        'from mmpretrain.models import ImageClassifier\n',
        "_base_ = 'inner.py'\n",
    ],
)
def test_configs_that_import_are_refused_in_one_sentence(text, tmp_path):
    (tmp_path / 'other.py').write_text('a = 1\n')
    (tmp_path / 'inner.py').write_text('from mmpretrain.models import ConvNeXt\n')
    (tmp_path / 'config.py').write_text(text + RUN)
    with pytest.raises(ValueError, match=r'\.py imports a package or uses read_base\(\), which'):
        read_config(str(tmp_path / 'config.py'))


def test_what_mmengine_cannot_parse_is_said(tmp_path):
    (tmp_path / 'config.py').write_text(f"with open('x'):\n    a = 1\n{RUN}")
    with pytest.raises(ValueError, match=r'config .*config.py cannot be read: Only `read_base`'):
        read_config(str(tmp_path / 'config.py'))


@pytest.mark.parametrize('kind', ['list', 'Evaluator', 'nested'])
def test_an_evaluator_reads_no_pickle_but_may_write_one(kind, tmp_path):
    metric = dict(type='LVISMetric', ann_file='evil.pkl')
    evaluators = {
        'list': [dict(type='DumpResults', out_file_path='out.pkl'), metric],
        'Evaluator': dict(type='Evaluator', metrics=[metric]),
        'nested': dict(type='Evaluator', metrics=[dict(type='Other', of=dict(a=(1, metric)))]),
    }
    (tmp_path / 'config.py').write_text(RUN)
    path, options = str(tmp_path / 'config.py'), dict(test_evaluator=evaluators[kind])
    with pytest.raises(ValueError, match='ann_file evil.pkl is not allowed: MMEngine would run'):
        read_config(path, options)
    metric['ann_file'] = 'good.json'
    assert read_config(path, options).test_evaluator == evaluators[kind]


def wrappers(inner):
    """A data set within others, in every way and a few levels deep."""
    good = dict(type='CocoDataset')
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    concatenated = dict(type='ConcatDataset', datasets=[good, repeated])
    mixed = dict(type='MultiImageMixDataset', pipeline=[], dataset=concatenated)
    return [inner, repeated, concatenated, mixed, dict(type='ConcatDataset', datasets=[mixed])]


@pytest.mark.parametrize('depth', range(5))
def test_data_sets_are_found_within_wrappers(depth):
    inner = dict(type='CocoDataset', ann_file='a.json')
    loader = ConfigDict(dataset=wrappers(inner)[depth])
    found = find_datasets(loader)
    assert inner in found
    assert all(part['type'] == 'CocoDataset' for part in found)
    assert len(found) == (1 if depth < 2 else 2)


@pytest.mark.parametrize('depth', range(5))
@pytest.mark.parametrize('key', ['ann_file', 'proposal_file', 'step', 'several'])
def test_pickles_are_refused_within_wrappers(key, depth, tmp_path):
    inner = dict(type='CocoDataset', data_root=str(tmp_path))
    if key == 'step':
        inner['pipeline'] = [dict(type='LoadSomething', file='evil.pickle')]
    else:
        inner[key] = ['good.json', 'evil.pickle'] if key == 'several' else 'evil.pickle'
    with pytest.raises(ValueError, match=r'evil\.pickle is not allowed: MMEngine would run'):
        check_data(ConfigDict(dataset=wrappers(inner)[depth]))


MODEL = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='convnextv2_mm.ConvNeXtV2', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 16, 32])
    ),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=32),
)


def test_weights_are_read_once_and_not_at_all_to_check_them(tmp_path, monkeypatch):
    path, load, reads = str(tmp_path / 'file.pth'), torch.load, []
    saved = MODELS.build(MODEL).state_dict()
    torch.save(dict(state_dict=saved), path)

    def counting(file, map_location, **kwargs):
        reads.append(map_location)
        return load(file, map_location=map_location, **kwargs)

    monkeypatch.setattr('torch.load', counting)
    assert all(value.is_meta for value in check_weights(check_model(MODEL), path).values())
    assert reads == ['meta']
    model = build_model(Config(dict(model=MODEL)), path)
    assert reads == ['meta', 'cpu']
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize('part', ['backbone', 'head'])
@pytest.mark.parametrize('kind', [dict, list])
def test_files_that_any_part_starts_from_are_looked_at(part, kind, tmp_path):
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'no.pth'))
    changed = dict(MODEL[part], init_cfg=init if kind is dict else [init])
    with pytest.raises(FileNotFoundError, match=r'no\.pth does not exist'):
        check_model(ConfigDict({**MODEL, part: changed}))


@pytest.fixture
def launched(monkeypatch):
    """The environment of a process that torchrun has started."""
    with socket.create_server(('127.0.0.1', 0)) as found:
        port = found.getsockname()[1]
    place = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    yield
    distributed.destroy_process_group()


class PartlyUsed(BaseModel):
    """A model of which a step uses one half."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.used(inputs).mean())


def two_steps(work_dir, **options):
    """Train on a CPU as one of several processes, and return the wrapped model."""
    config = Config(dict(options, model=PartlyUsed(), launcher='pytorch', work_dir=str(work_dir)))
    init_cpu_process_group(config)
    wrapper = config.model_wrapper_cfg
    runner = Runner(
        config.model, config.work_dir, launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper)
    )
    optimizer = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    for _ in range(2):
        runner.model.train_step(dict(inputs=torch.ones(1, 2)), optimizer)
    return runner.model


def test_unused_parameters_end_a_run_of_several_processes(launched, tmp_path):
    with pytest.raises(RuntimeError, match='find_unused_parameters=True'):
        two_steps(tmp_path)


@pytest.mark.parametrize(
    'options',
    [
        dict(find_unused_parameters=True),
        dict(model_wrapper_cfg=dict(find_unused_parameters=True, broadcast_buffers=True)),
    ],
)
def test_unused_parameters_that_are_looked_for(options, launched, tmp_path):
    model = two_steps(tmp_path, env_cfg=dict(dist_cfg=dict(timeout=77)), **options)
    assert model.find_unused_parameters
    assert model.broadcast_buffers == ('model_wrapper_cfg' in options)
    group = distributed.group.WORLD._get_backend(torch.device('cpu'))
    assert group.options._timeout == timedelta(seconds=77)


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('optimizer.lr', -0.1),
        ('optimizer.lr', math.nan),
        ('optimizer.lr', '1e-3'),
        ('paramwise_cfg.bias_lr_mult', -1),
        ('paramwise_cfg.custom_keys.head.lr_mult', math.inf),
    ],
)
def test_learning_rates_are_looked_at_before_the_run(place, value):
    config = Config(dict(optimizer=dict(type='SGD', lr=0.0), clip_grad=dict(max_norm=-1)))
    check_learning_rates(config)
    config.merge_from_dict({place: value})
    with pytest.raises(ValueError, match=f'^optim_wrapper.{place} {value!r} is not allowed'):
        check_learning_rates(config)


@pytest.mark.parametrize(
    'name', ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmseg::_base_/default_runtime.py']
)
def test_bases_are_found_where_mmengine_finds_them(name):
    with _checked_and_found():
        found = Config._get_cfg_path(name, '')
    assert found == Config._get_cfg_path(name, '')


def test_the_text_of_a_config_is_mmengines_and_follows_changes():
    config = read_config('convnextv2_mm::demo/fcmae_convnextv2-a_shapes.py')
    assert config.pretty_text == Config(config.to_dict()).pretty_text
    copied = deepcopy(config)
    copied.model.mask_ratio = 0.5
    assert 'mask_ratio=0.5' in copied.pretty_text
    assert 'mask_ratio=0.6' in config.pretty_text


@pytest.mark.parametrize(
    ('has_gpu', 'has_bfloat16', 'expected'),
    [
        (False, False, dict(type='OptimWrapper')),
        (True, False, dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')),
        (True, True, dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)),
    ],
)
def test_the_precision_is_one_that_the_device_has(
    has_gpu, has_bfloat16, expected, monkeypatch, capsys
):
    def is_supported(including_emulation=True):
        return has_bfloat16 or including_emulation

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', is_supported)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla V100')
    config = read_config(
        'convnextv2_mm::pretrain/fcmae_convnextv2-a_8xb512-800e_in1k-224px.py',
        dict(BFLOAT16),
    )
    keys = ('type', 'dtype', 'loss_scale')
    assert {k: config.optim_wrapper[k] for k in keys if k in config.optim_wrapper} == expected
    said = capsys.readouterr().err
    assert ('Tesla V100 has no bfloat16: training in float16' in said) is (
        has_gpu and not has_bfloat16
    )
