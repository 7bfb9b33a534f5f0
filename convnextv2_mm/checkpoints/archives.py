"""Check that a zip archive written by ``torch.save`` is undamaged.

The archive has a checksum (CRC-32) of each member. PyTorch writes them and does not look at them: a
flipped bit is loaded as another weight.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

_MAGIC = b'PK\x03\x04'
_FOLDER = 0x10  # among the attributes of a member
# Files that were whole: device, number, size and time of each.
_whole: set[tuple[int, int, int, int]] = set()


def is_archive(path: Path) -> bool:
    """Whether PyTorch will read a file as a zip archive, and not in its format before 1.6."""
    with path.open('rb') as file:
        return file.read(len(_MAGIC)) == _MAGIC


def check_archive(path: Path) -> None:
    """Compare the members of an archive with their checksums, once for each state of the file.

    An archive that was saved without checksums (``torch.serialization.set_crc32_options``) passes.

    Raises:
        ValueError: If it is not a whole archive, or one differs; if members overlap or are
            compressed: ``torch.save`` compresses none, and a few bytes could fill the memory.
    """
    status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if state in _whole:
        return
    # Two changes within a tick of the file system's clock would look the same.
    is_settled = time.time() - status.st_mtime > 2
    try:
        with zipfile.ZipFile(path) as archive:
            problem = _find_problem(archive)
    except Exception as error:  # damaged headers raise whatever they lead to
        raise ValueError(f'{path} is not a checkpoint, or not a whole one') from error
    if problem:
        raise ValueError(f'{path} {problem}')
    if is_settled:
        _whole.add(state)


def _find_problem(archive: zipfile.ZipFile) -> str | None:
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        if member.compress_type != zipfile.ZIP_STORED:
            return f'is refused: {member.filename} in it is compressed, which torch.save never does'
        if member.external_attr & _FOLDER or member.is_dir():  # PyTorch would not read its content
            return f'is damaged: {member.filename} in it is marked as a folder'
        least = zipfile.sizeFileHeader + member.file_size  # type: ignore[attr-defined]
        if member.file_size != member.compress_size or member.header_offset + least > end:
            return f'is damaged: {member.filename} in it cannot have the size it says'
    has_checksums = any(member.CRC for member in members)
    if has_checksums and (damaged := archive.testzip()):
        return f'is damaged: {damaged} in it does not fit its checksum'
    return None
