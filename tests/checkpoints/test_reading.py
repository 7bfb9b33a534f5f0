"""Every kind of file is read, and none is run."""

import os
import pickle
from contextlib import suppress

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import get_torch_safe_globals
from other_libraries import SMALL, build
from safetensors.torch import save_file

from convnextv2_mm.checkpoints.reading import read_file


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


def test_logs_of_mmengine_are_read(tmp_path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(message_hub=dict(loss=log)), tmp_path / 'file.pth')
    assert read_file(tmp_path / 'file.pth')['message_hub']['loss'].mean() == 1.5


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


@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
@pytest.mark.parametrize('part', [0.0, 0.5, 0.99])
def test_truncated_files_are_refused(name, part, classifier, tmp_path):
    path = tmp_path / name
    save = save_file if path.suffix == '.safetensors' else torch.save
    save(classifier.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf'{name} is not a( checkpoint, or not a)? whole'):
        read_file(path)


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
