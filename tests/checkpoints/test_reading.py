"""Every kind of file is read, and none is run."""

import argparse
import datetime
import json
import os
import pickle
import re
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals
from other_libraries import SMALL, build
from safetensors.torch import save_file

from convnextv2_mm.checkpoints import read_state_dict, reading
from convnextv2_mm.checkpoints.reading import inspect_file, read_file
from convnextv2_mm.patches import safe_loading

safe_loading()


class Payload:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


SAVERS = {
    'zip': torch.save,
    'legacy': lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    'pickle 2': lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    'pickle': lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize('save', SAVERS.values(), ids=SAVERS)
@pytest.mark.parametrize('function', [exec, os.system])
def test_a_malicious_pickle_is_refused_by_name(save, function, tmp_path):
    trace = tmp_path / 'trace'
    argument = f'open({str(trace)!r}, "w")' if function is exec else f'touch {trace}'
    path = tmp_path / 'evil.pth'
    save(dict(state_dict=dict(weight=Payload(function, argument))), path)
    name = rf'\S*{function.__name__}'
    with pytest.raises(ValueError, match=f'evil.pth is refused: it wants to run {name} while'):
        read_file(path)
    assert not trace.exists()
    with suppress(RuntimeError):  # a plain pickle is run, and then found to be no checkpoint
        torch.load(path, weights_only=False)
    assert trace.exists(), 'the payload does nothing'


def test_getattr_is_not_allowed_as_mmengine_does(tmp_path):
    """With it a pickle reaches the globals of modules, and from there any function."""
    path = tmp_path / 'evil.pth'
    torch.save(Payload(getattr, torch._utils._rebuild_parameter, '__globals__'), path)
    with torch.serialization.safe_globals(get_torch_safe_globals()):
        assert 'sys' in torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match='it wants to run builtins.getattr while'):
        read_file(path)


@pytest.mark.parametrize('way', ['resume', 'load_from', 'Pretrained of a neck'])
def test_mmengine_runs_no_pickle_either(way, tmp_path):
    trace, path = tmp_path / 'trace', tmp_path / 'evil.pth'
    torch.save(dict(state_dict=dict(w=Payload(exec, f'open({str(trace)!r}, "w")'))), path)
    with pytest.raises(ValueError, match='evil.pth is refused: it wants to run '):
        if way == 'Pretrained of a neck':
            init = dict(type='Pretrained', checkpoint=str(path))
            MODELS.build(dict(type='mmdet.ChannelMapper', **CHANNELS, init_cfg=init)).init_weights()
        else:
            runner = Runner(Weight(), str(tmp_path / 'work'), resume=way == 'resume')
            runner._load_from = str(path)
            runner.load_or_resume()
    assert not trace.exists()


CHANNELS = dict(in_channels=[8], out_channels=8)


class Weight(BaseModel):
    """A model with one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=(self.weight * inputs[0]).sum())


def runner(folder, epochs, **kwargs):
    return Runner(
        Weight(),
        str(folder),
        train_dataloader=dict(
            dataset=[torch.ones(1), torch.ones(1)],
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=dict(type='ExponentialLR', gamma=0.5, end=2),
        default_scope='mmengine',
        **kwargs,
    )


def test_resume_runs_no_config_of_the_checkpoint_but_restores_the_rest(tmp_path):
    """MMEngine's resume runs what it finds under ``config`` in the meta information."""
    straight = runner(tmp_path / 'straight', 2)
    straight.train()
    runner(tmp_path / 'run', 1).train()
    trace, path = tmp_path / 'trace', tmp_path / 'run/epoch_1.pth'
    content = torch.load(path, weights_only=False)
    content['meta']['config'] = f'a = 1\nopen({str(trace)!r}, "w")\n'
    torch.save(content, path)
    resumed = runner(tmp_path / 'run', 2, resume=True)
    resumed.train()
    assert not trace.exists()
    assert torch.equal(resumed.model.weight, straight.model.weight)
    assert resumed.iter == straight.iter == 4
    assert resumed.optim_wrapper.state_dict()['state'][0]['step'] == 4
    assert resumed.optim_wrapper.get_lr() == straight.optim_wrapper.get_lr()

    del resumed._has_loaded, resumed._load_from
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CheckpointLoader._schemes, '', lambda path, _: content)
        resumed.resume(str(path))
    assert trace.exists(), 'the payload does nothing'


@pytest.mark.parametrize('scheme', ['http', 's3', 'a:s3', 'petrel', 'pavi', 'mmcls'])
def test_mmengine_reads_nothing_but_https(scheme):
    with pytest.raises(ValueError, match=f'{scheme}://x/y.pth cannot be read: use https://'):
        CheckpointLoader.load_checkpoint(f'{scheme}://x/y.pth')


def test_model_zoos_are_known_by_name(cache):
    save = dict(state_dict=dict(weight=torch.ones(1)))
    torch.save(save, cache / 'resnet50-0676ba61.pth')
    torch.save(save, cache / 'resnet50_msra-5891d200.pth')
    for name in ('torchvision://resnet50', 'open-mmlab://detectron2/resnet50_caffe'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('urllib.request.OpenerDirector.open', None)  # found in the cache
            assert CheckpointLoader.load_checkpoint(name)['state_dict']['weight'] == 1
            assert read_state_dict(name)['weight'] == 1
    with pytest.raises(ValueError, match="no weights of torchvision:// are named 'resnet5'"):
        CheckpointLoader.load_checkpoint('torchvision://resnet5')


@pytest.mark.parametrize('name', ['../file.bin', '/etc/passwd', 'folder/file.bin', 7])
def test_an_index_lists_only_files_beside_it(name, tmp_path):
    (tmp_path / 'x.json').write_text(json.dumps(dict(weight_map=dict(weight=name))))
    with pytest.raises(ValueError, match=f'x.json lists {name}, but its files must be beside it'):
        read_file(tmp_path / 'x.json')


INDEXES = {
    'model.safetensors.index.json': 'model.safetensors.index.json',
    'other.json': 'second.json',
    'pytorch_model.bin.index.json': 'folder',
}


@pytest.mark.parametrize('name', INDEXES)
@pytest.mark.parametrize('read', [read_file, inspect_file])
def test_an_index_lists_no_index(read, name, tmp_path):
    """Not itself, nor one that leads back to it."""
    listed = INDEXES[name]
    for own, other in ((name, listed), (listed, name)):
        (tmp_path / own).write_text(json.dumps(dict(weight_map=dict(weight=other))))
    with pytest.raises(ValueError, match=f'{name} lists {listed}, but its files must end in'):
        read(tmp_path / name)


def test_an_index_of_safetensors_lists_no_pickle(tmp_path):
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'weights.bin')
    for name in ('model.safetensors.index.json', 'pytorch_model.bin.index.json'):
        index = json.dumps(dict(weight_map=dict(weight='weights.bin')))
        (tmp_path / name).write_text(index)
    assert read_file(tmp_path / 'pytorch_model.bin.index.json')['weight'] == 1
    with pytest.raises(ValueError, match=r'weights.bin, but its files must end in \.safetensors'):
        read_file(tmp_path)


def test_an_index_is_small_flat_and_true(tmp_path, monkeypatch):
    path = tmp_path / 'x.json'
    path.write_text('[' * 100_000)
    with pytest.raises(ValueError, match='x.json is not the index of a sharded checkpoint'):
        read_file(path)
    save_file(dict(a=torch.ones(1)), tmp_path / 'x.safetensors')
    path.write_text(json.dumps(dict(weight_map=dict(a='x.safetensors', b='x.safetensors'))))
    with pytest.raises(ValueError, match='2 weights, of which 1 are not in its files, such as b'):
        read_file(path)
    monkeypatch.setattr(reading, 'MOST_INDEX_BYTES', 10)
    with pytest.raises(ValueError, match=r'x.json .* it has \d\d bytes, and 10 is most'):
        read_file(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    (tmp_path / 'endless.pth').symlink_to('/dev/zero')
    (tmp_path / 'endless.json').symlink_to('/dev/zero')
    for name in ('pipe.pth', 'endless.pth', 'endless.json'):
        with pytest.raises(ValueError, match=f'{name} is not a regular file'):
            read_file(tmp_path / name)
    (tmp_path / 'loop.pth').symlink_to('loop.pth')
    (tmp_path / 'folder.pth').mkdir()
    for name, said in dict(loop='does not exist', folder='holds no checkpoint').items():
        with pytest.raises(FileNotFoundError, match=f'{name}.pth {said}'):
            read_file(tmp_path / f'{name}.pth')


def test_logs_of_mmengine_are_read(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(message_hub=dict(loss=log)), tmp_path / 'file.pth')
    assert read_file(tmp_path / 'file.pth')['message_hub']['loss'].mean() == 1.5


NUMPY_VALUES = [np.ones(1, code)[0] for code in '?bhilqBHILQefdgFDG']
NUMPY_VALUES += [np.str_('mIoU'), np.bytes_(b'mIoU'), np.datetime64('2020-01-01T10:00')]
NUMPY_VALUES += [np.arange(6, dtype=code).reshape(2, 3) for code in ('u1', 'f2', '>f4', 'i8')]
NUMPY_VALUES += [np.asfortranarray(np.ones((2, 3), np.float32)), np.array(['cat', 'dog'])]


@pytest.mark.parametrize('value', NUMPY_VALUES, ids=lambda v: f'{type(v).__name__} {v.dtype}')
@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'], ids=['NumPy 1', 'NumPy 2'])
def test_numbers_of_numpy_are_read(core, value, tmp_path):
    """``save_best`` keeps the best score as the metric gave it: mIoU is a numpy.float32."""
    torch.save(dict(message_hub=dict(best_score=value)), tmp_path / 'file.pth')
    rename_in_pickle(tmp_path / 'file.pth', core.encode())
    found = read_file(tmp_path / 'file.pth')['message_hub']['best_score']
    assert isinstance(found, np.generic) == isinstance(value, np.generic)
    assert found.dtype.newbyteorder('=') == value.dtype.newbyteorder('=')
    np.testing.assert_array_equal(found, value)


def rename_in_pickle(path, core):
    """Write a checkpoint of either NumPy as the other would."""
    with zipfile.ZipFile(path) as file:
        content = {info: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, 'w') as file:
        for info, value in content.items():
            file.writestr(info, re.sub(rb'numpy\._?core', core, value))


PLAIN = [
    OrderedDict(a=1),
    Counter('aab'),
    ConfigDict(classes=('cat', 'dog'), palette=[dict(a=1)]),
    {1, 2},
    frozenset([1, 2]),
    slice(1, 2),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.date(2020, 1, 1),
    datetime.timedelta(seconds=1),
    Path('work_dirs/run'),
    torch.Size([1, 2]),
    torch.bfloat16,
    torch.device('cuda', 1),
    np.float32,
    np.dtype('float32'),
    argparse.Namespace(lr=1.0),
]


@pytest.mark.parametrize('value', PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_is_read(value, tmp_path):
    torch.save(dict(meta=value), tmp_path / 'file.pth')
    found = read_file(tmp_path / 'file.pth')['meta']
    assert type(found) is type(value)
    assert found == value


def test_containers_with_a_rule_are_read_as_plain_ones(tmp_path):
    content = [defaultdict(list, a=[1]), deque([1, 2, 3], maxlen=2)]
    torch.save(content, tmp_path / 'file.pth')
    assert read_file(tmp_path / 'file.pth') == [dict(a=[1]), [2, 3]]


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        (re.I, 'it wants to run re.RegexFlag while'),
        (np.array([1, 'a'], object), 'it holds a numpy.dtypes.ObjectDType, and only'),
        (np.zeros(2, [('a', 'i4')]), 'it holds a numpy.dtypes.VoidDType, and only'),
    ],
)
def test_a_refused_type_is_named(value, said, tmp_path):
    torch.save(dict(message_hub=value), tmp_path / 'file.pth')
    with pytest.raises(ValueError, match=f'file.pth is refused: {said}'):
        read_file(tmp_path / 'file.pth')


@pytest.fixture(scope='module')
def classifier():
    return build('transformers', SMALL)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize('safe', [True, False])
@pytest.mark.parametrize('shards', ['one', 'many'])
def test_folders_of_transformers_are_read(safe, shards, classifier, tmp_path):
    size = '1GB' if shards == 'one' else '20KB'
    classifier.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size=size)
    weights = [path for path in tmp_path.iterdir() if path.suffix in ('.safetensors', '.bin')]
    assert (len(weights) > 1) == (shards == 'many')
    assert_same(read_file(tmp_path), classifier.state_dict())
    if shards == 'many':
        index = next(tmp_path.glob('*.index.json'))
        assert_same(read_file(index), classifier.state_dict())
        weights[0].unlink()
        with pytest.raises(FileNotFoundError, match=f'1 are not .* {weights[0].name}'):
            read_file(tmp_path)


@pytest.mark.parametrize('read', [read_file, inspect_file])
@pytest.mark.parametrize('name', ['file.pth', 'legacy.pth', 'file.safetensors'])
@pytest.mark.parametrize('part', [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(read, name, part, classifier, tmp_path):
    path = tmp_path / name
    save = SAVERS['legacy'] if name == 'legacy.pth' else torch.save
    save = save_file if path.suffix == '.safetensors' else save
    save(classifier.state_dict(), path)
    assert read(path).keys() == classifier.state_dict().keys()
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf'{name} is not a( checkpoint, or not a)? whole'):
        read(path)


@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors', 'file.json'])
@pytest.mark.parametrize('content', [b'# Title\n', b'{}', bytes(range(256))])
def test_other_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name} is not (a|the index of a sharded) '):
        read_file(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='no.pth does not exist'):
        read_file(tmp_path / 'no.pth')
    with pytest.raises(FileNotFoundError, match='holds no checkpoint: expected one of model.safe'):
        read_file(tmp_path)
