"""Downloads over https only, each URL with its own cache entry, never half-written."""

from __future__ import annotations

import hashlib
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from ..utils.atomic import atomic_write

WEB = 'https://'  # what comes over http:// may have been changed on its way
SECONDS_WITHOUT_DATA = 60


def hash_in(name: str) -> str | None:
    """The SHA-256 prefix that OpenMMLab puts into its file names, if there is one."""
    match = re.search(r'_\d{8}-([0-9a-f]{8})\.pth$', name)
    return match[1] if match else None


def cache_name(url: str) -> str:
    """The name under which a download is kept.

    It is the last part of the address if that has a hash of the content, which is checked. Others,
    such as ``model.pth``, may be different files at different addresses: these get a hash of the
    address.

    Raises:
        ValueError: If the address names no file.
    """
    name = Path(urlsplit(url).path).name
    if not name:
        raise ValueError(f'{url} names no file')
    if hash_in(name):
        return name
    stem, suffix = Path(name).stem[:100], Path(name).suffix
    return f'{stem}-{hashlib.sha256(url.encode()).hexdigest()[:16]}{suffix}'


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: Path) -> None:
    """Download a file; ``path`` appears only once the download is complete.

    Raises:
        OSError: If it cannot be had, or the server leads to another kind of address than https.
        ValueError: If less comes than was announced, or its hash is another than its name says.
    """
    opener = build_opener(_RedirectToWeb)
    request = Request(url, headers={'User-Agent': 'convnextv2_mm'})
    with (
        opener.open(request, timeout=SECONDS_WITHOUT_DATA) as response,
        atomic_write(path) as partial,
        partial.open('wb') as file,
    ):
        announced = int(response.headers['Content-Length'] or 0)
        with tqdm.wrapattr(file, 'write', total=announced or None, desc=path.name) as progress:
            try:
                shutil.copyfileobj(response, progress, 1 << 20)
            except (TimeoutError, ConnectionError, SSLError, HTTPException) as error:
                raise ValueError(f'the connection broke: {error}') from error
        # A connection that is closed early looks like the end of the file.
        if announced and file.tell() != announced:
            raise ValueError(f'{file.tell():,} of {announced:,} bytes came')
        file.flush()
        expected = hash_in(path.name)
        if expected and not (found := sha256(partial)).startswith(expected):
            raise ValueError(f'invalid hash value (expected "{expected}", got "{found}")')


class _RedirectToWeb(HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):
        if not url.startswith(WEB):
            raise URLError(f'it leads to {url}, and only {WEB} is allowed')
        return super().redirect_request(request, file, code, message, headers, url)
