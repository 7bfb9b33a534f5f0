"""Damage is found wherever it is; what PyTorch writes passes."""

import os
import random
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer

from convnextv2_mm.checkpoints.reading import inspect_file, read_file
from convnextv2_mm.engine.runner.resume import same

WEIGHTS = {f'w{i}': torch.arange(7.0 * (i + 1)).view(7, i + 1) for i in range(6)}
CONTENT = dict(state_dict=WEIGHTS, optimizer=dict(state={}), meta=dict(iter=3, seed=1))


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / 'file.pth')
    return tmp_path / 'file.pth'


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def write(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def flip(raw, bit):
    raw = bytearray(raw)
    raw[bit // 8] ^= 1 << bit % 8
    return raw


def test_no_flipped_bit_changes_what_is_read(path):
    """Anywhere: in weights, pickle, headers, directory or filling, which holds nothing."""
    raw = path.read_bytes()
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(raw)), 600):
        path.write_bytes(flip(raw, bit))
        try:
            found = read_file(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert same(found, CONTENT), f'bit {bit}'
    assert refused > 300


@pytest.mark.parametrize('read', [read_file, inspect_file])
def test_every_flipped_bit_of_the_weights_is_found(read, path):
    raw = path.read_bytes()
    for name, tensor in WEIGHTS.items():
        values = tensor.numpy().tobytes()
        start = raw.index(values)
        for bit in random.Random(name).sample(range(8 * len(values)), 20):
            path.write_bytes(flip(raw, 8 * start + bit))
            with pytest.raises(ValueError, match=r'damaged: file/data/\d in it does not fit its'):
                read(path)


def test_a_member_marked_as_a_folder_is_found(path):
    """PyTorch does not read its content, and takes what the memory held for weights."""
    raw = path.read_bytes()
    directory = raw.rindex(b'PK\x01\x02', 0, raw.rindex(b'file/data/5'))
    path.write_bytes(flip(raw, 8 * (directory + 38) + 4))
    with pytest.raises(ValueError, match='file/data/5 in it is marked as a folder'):
        read_file(path)


def test_a_file_that_was_whole_is_looked_at_again_when_it_has_changed(path):
    raw = path.read_bytes()
    os.utime(path, (1e9, 1e9))
    assert same(read_file(path), CONTENT)
    path.write_bytes(flip(raw, 8 * raw.index(WEIGHTS['w5'].numpy().tobytes()) + 77))
    with pytest.raises(ValueError, match='does not fit its checksum'):
        read_file(path)


def test_compressed_members_are_refused_before_they_inflate(path, monkeypatch):
    content = members(path)
    write(path, content)
    assert same(read_file(path), CONTENT), 'written without compression it is read'
    write(path, content, zipfile.ZIP_DEFLATED)
    assert same(torch.load(path, weights_only=True), CONTENT), 'PyTorch inflates them'
    monkeypatch.setattr('zlib.decompressobj', None)
    monkeypatch.setattr('torch.load', None)
    with pytest.raises(ValueError, match='file/.+ in it is compressed, which torch.save never'):
        read_file(path)


def test_members_do_not_share_bytes(path):
    """Two entries of the directory for one place: many of them make much of a small file."""
    raw = path.read_bytes()
    names = [b'file/data/4', b'file/data/5']
    entries = [raw.rindex(name) - 46 for name in names]
    offset = raw[entries[0] + 42 : entries[0] + 46]
    path.write_bytes(raw[: entries[1] + 42] + offset + raw[entries[1] + 46 :])
    with pytest.raises(ValueError, match='file/data/[45] in it cannot have the size it says'):
        read_file(path)


def test_a_file_saved_without_checksums_is_read(path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip()
    assert same(read_file(path), CONTENT)


def test_inspecting_gives_all_but_the_values(path):
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(dict(CONTENT, message_hub=dict(log=log)), path)
    found = inspect_file(path)
    assert found['message_hub']['log'].mean() == 1.5
    assert found['meta'] == CONTENT['meta']
    for name, tensor in WEIGHTS.items():
        assert found['state_dict'][name].is_meta
        assert found['state_dict'][name].shape == tensor.shape
        assert found['state_dict'][name].dtype == tensor.dtype
