import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from convnextv2_mm.checkpoints import downloading


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch.hub."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    folder = tmp_path / 'torch/hub/checkpoints'
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def website(tmp_path, monkeypatch):
    """A folder that a server on this machine serves, and its address."""
    monkeypatch.setattr(downloading, 'WEB', 'http://')  # it has no certificate
    folder = tmp_path / 'website'
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()
