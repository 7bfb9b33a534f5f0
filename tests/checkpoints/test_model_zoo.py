"""The table of published weights against mmpretrain's metafiles, and fetching without the net."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml

from convnextv2_mm.checkpoints import (
    MODEL_ZOO,
    downloading,
    fetch,
)
from convnextv2_mm.checkpoints import (
    model_zoo as published,
)

ATTO = MODEL_ZOO['atto_fcmae_in1k']
WHOLE = b'\0' * ATTO.least_bytes


@pytest.fixture(autouse=True)
def no_net(monkeypatch):
    nowhere = 'http://127.0.0.1:9/'
    monkeypatch.setattr(published, 'OFFICIAL_HOST', nowhere)
    monkeypatch.setattr(published, 'MMPRETRAIN_HOSTS', (nowhere,))


def metafile(name):
    folder = Path(mmpretrain.__file__).parent / '.mim/configs' / name
    models = yaml.safe_load((folder / 'metafile.yml').read_text())['Models']
    return [model for model in models if 'Converted From' in model]


@pytest.mark.parametrize(
    'model', metafile('convnext') + metafile('convnext_v2'), ids=lambda model: model['Name']
)
def test_table_agrees_with_mmpretrain(model):
    official = model['Converted From']['Weights'].split('/convnext/', 1)[1]
    if official == 'convnext_base_1k_224.pth':
        pytest.skip('not averaged: the official table has its average')
    weights = next(weights for weights in MODEL_ZOO.values() if weights.official == official)
    assert model['Weights'].endswith(f'/v0/{weights.mmpretrain}')
    assert f'-{weights.size}_' in model['Name']
    assert (weights.version == 2) == ('-v2-' in model['Name'])
    pixels = f'_{weights.resolution}' if weights.version == 1 else f'_{weights.resolution}_'
    assert pixels in weights.official
    assert model['Name'].endswith(f'-{weights.resolution}px') == (weights.resolution != 224)
    if weights.top1 is None:
        assert not model.get('Results')
    else:
        measured = model['Results'][0]['Metrics']['Top 1 Accuracy']
        assert weights.top1 == pytest.approx(measured, abs=0.1)


def test_names_say_what_they_are():
    assert len(MODEL_ZOO) == 47
    assert MODEL_ZOO['base_fcmae_in1k'].official.endswith('pt_only/convnextv2_base_1k_224_fcmae.pt')
    assert MODEL_ZOO['huge_fcmae_ft_in22k_in1k_512'].top1 == 88.9
    assert MODEL_ZOO['v1_xlarge_in22k'].version == 1
    with pytest.raises(ValueError, match="'bas_fcmae_in1k': near it are base_fcmae_in1k"):
        fetch('convnextv2://bas_fcmae_in1k')


@pytest.mark.parametrize('file', [ATTO.official, ATTO.mmpretrain])
def test_a_cached_file_is_used_without_the_net(file, cache, monkeypatch):
    path = cache / Path(file).name
    path.write_bytes(WHOLE)
    if file == ATTO.mmpretrain:
        with pytest.raises(ValueError, match='SHA-256 begins with 07514db4, and it begins'):
            fetch('convnextv2://atto_fcmae_in1k')
        monkeypatch.setattr(published, 'sha256', lambda _: '07514db4' + 56 * '0')
    assert fetch('convnextv2://atto_fcmae_in1k') == path
    path.write_bytes(WHOLE[:-1])
    with pytest.raises(ValueError, match=r'is not whole: it has 13,\d+,\d+ bytes, and the weights'):
        fetch('convnextv2://atto_fcmae_in1k')


def test_without_net_and_file_it_says_what_to_fetch(cache):
    with pytest.raises(FileNotFoundError) as error:
        fetch('convnextv2://atto_fcmae_in1k')
    for part in (Path(ATTO.official).name, Path(ATTO.mmpretrain).name, str(cache)):
        assert part in str(error.value)
    assert {path.suffix for path in cache.iterdir()} <= {'.lock'}


def test_a_file_is_downloaded_once_and_checked(website, cache):
    folder, address = website
    digest = hashlib.sha256(b'weights').hexdigest()[:8]
    name = f'some_20250101-{digest}.pth'
    (folder / name).write_bytes(b'weights')
    with ThreadPoolExecutor() as pool:
        paths = set(pool.map(fetch, [address + name] * 4))
    assert paths == {cache / name}
    (folder / name).unlink()
    assert fetch(address + name).read_bytes() == b'weights'

    wrong = 'some_20250101-00000000.pth'
    (folder / wrong).write_bytes(b'weights')
    with pytest.raises(
        FileNotFoundError, match=rf'invalid hash value \(expected "0+", got "{digest}'
    ):
        fetch(address + wrong)
    assert not (cache / wrong).exists()
    with pytest.raises(FileNotFoundError, match=r'.*404.*\): download .* as no-\w{16}.pth into'):
        fetch(address + 'no.pth')
    with pytest.raises(ValueError, match='names no file'):
        fetch(address)


@pytest.mark.parametrize('name', ['model.pth', 'model-1a2b3c4d.pth', 'model.pth?version=1'])
def test_files_of_one_name_at_two_addresses_stay_apart(name, website, cache):
    folder, address = website
    file = name.partition('?')[0]
    for part in ('a', 'b'):
        (folder / part).mkdir()
        (folder / part / file).write_text(part)
    (cache / file).write_text('of another program')
    for _ in range(2):
        paths = [fetch(f'{address}{part}/{name}') for part in ('a', 'b')]
        assert [path.read_text() for path in paths] == ['a', 'b']
        assert {path.suffix for path in paths} == {'.pth'}


def test_published_files_keep_their_names(cache, monkeypatch):
    """So that what MMEngine or the user put there is used."""
    for name in ('a_20230104-07514db4.pth', 'a_20230104-12345678.pth'):
        assert downloading.cache_name(f'https://host/{name}') == name
    (cache / Path(ATTO.official).name).write_bytes(b'x')
    monkeypatch.setattr(downloading, 'WEB', 'http://')
    assert fetch(published.OFFICIAL_HOST + ATTO.official) == cache / Path(ATTO.official).name


@pytest.fixture
def odd_server(cache):
    """A server that announces more than it sends, or leads elsewhere; its address."""

    class Odd(BaseHTTPRequestHandler):
        def do_GET(self):
            cut = self.path == '/cut.pth'
            self.send_response(200 if cut else 302)
            self.send_header('Content-Length', '1000' if cut else '0')
            if not cut:
                self.send_header('Location', f'http://{self.headers["Host"]}/cut.pth')
            self.end_headers()
            self.wfile.write(b'0' * 600 * cut)

    with ThreadingHTTPServer(('127.0.0.1', 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_part_of_a_file_is_not_taken_for_the_whole(odd_server, cache, monkeypatch):
    """torch.hub keeps it: a connection that breaks looks like the end of the file."""
    torch.hub.download_url_to_file(f'{odd_server}/cut.pth', str(cache / 'cut'), progress=False)
    assert (cache / 'cut').stat().st_size == 600
    monkeypatch.setattr(downloading, 'WEB', 'http://')
    with pytest.raises(FileNotFoundError, match='600 of 1,000 bytes came'):
        fetch(f'{odd_server}/cut.pth')
    assert {path.suffix for path in cache.iterdir()} == {'', '.lock'}


def test_a_server_leads_nowhere_but_to_https(odd_server, cache):
    with pytest.raises(OSError, match=r'it leads to http://.*/cut.pth, and only https:// is'):
        downloading.download(f'{odd_server}/moved.pth', cache / 'file.pth')
    assert not list(cache.iterdir())


def test_the_next_source_is_tried(website, cache, monkeypatch):
    folder, address = website
    monkeypatch.setattr(published, 'OFFICIAL_HOST', address)
    (folder / ATTO.official).parent.mkdir(parents=True)
    (folder / ATTO.official).write_bytes(WHOLE)
    assert fetch('convnextv2://atto_fcmae_in1k') == cache / Path(ATTO.official).name


@pytest.mark.parametrize('scheme', ['http', 's3', 'ftp', 'file'])
def test_other_schemes_are_refused(scheme, cache):
    with pytest.raises(ValueError, match=f'{scheme}://host/file.pth cannot be read: use https://'):
        fetch(f'{scheme}://host/file.pth')
    assert not list(cache.iterdir())


def test_docs_list_them():
    docs = Path(__file__).parents[2] / 'docs/checkpoints.md'
    rows = [line for line in docs.read_text().splitlines() if line.startswith('| `')]
    table = [row for row in rows if '.pt' in row]
    assert len(table) == len(MODEL_ZOO)
    for row, weights in zip(table, MODEL_ZOO.values(), strict=True):
        top1 = '–' if weights.top1 is None else str(weights.top1)
        assert row.startswith(f'| `{weights.name}` | {weights.resolution} | {top1} | ')
        assert Path(weights.official).name in row
        assert weights.mmpretrain is None or Path(weights.mmpretrain).name in row
