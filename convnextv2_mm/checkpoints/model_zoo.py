"""The published weights of ConvNeXt V1 and V2, and fetching them.

Sources: the READMEs of github.com/facebookresearch/ConvNeXt and ConvNeXt-V2 (files, resolution,
top-1 on ImageNet-1K), and the metafiles of mmpretrain, which has the same weights under its own
names in files that carry their hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from filelock import FileLock

from ..models import ConvNeXtV2
from . import downloading
from .downloading import (
    cache_name,
    download,
    hash_in,
    sha256,
)

SCHEME = 'convnextv2://'
OFFICIAL_HOST = 'https://dl.fbaipublicfiles.com/convnext/'
MMPRETRAIN_HOSTS = (
    'https://mmassets.onedl.ai/mmclassification/v0/',
    'https://download.openmmlab.com/mmclassification/v0/',
)


@dataclass(frozen=True)
class ModelZooEntry:
    """One set of published weights.

    Args:
        version: 1 or 2.
        size: Name of the size.
        stage: ``fcmae`` is FCMAE pre-training, ``ft`` fine-tuning; ``in1k`` and ``in22k`` say on
            what, in order.
        resolution: Side of the training images in pixels.
        top1: Accuracy on ImageNet-1K in percent, or None without a classifier for it.
        official: Path of the official file on its host.
        mmpretrain: Path of mmpretrain's file on its hosts, or None.
    """

    version: int
    size: str
    stage: str
    resolution: int
    top1: float | None
    official: str
    mmpretrain: str | None

    @property
    def name(self) -> str:
        """What follows ``convnextv2://`` in a config."""
        name = f'{self.size}_{self.stage}'
        if self.version == 1:
            name = f'v1_{name}'
        return name if self.resolution == 224 else f'{name}_{self.resolution}'

    @property
    def urls(self) -> list[str]:
        """Where to get it: mmpretrain's first, whose name carries the hash."""
        hosts = MMPRETRAIN_HOSTS if self.mmpretrain else ()
        return [f'{host}{self.mmpretrain}' for host in hosts] + [f'{OFFICIAL_HOST}{self.official}']

    @property
    def least_bytes(self) -> int:
        """Size of the backbone in float32: a whole file is larger."""
        with torch.device('meta'):
            backbone = ConvNeXtV2(self.size, use_grn=self.version == 2)
        return 4 * sum(parameter.numel() for parameter in backbone.parameters())


# version, size, stage, resolution, top-1, official file; mmpretrain's file
_TABLE = """
2 atto   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt
     convnext-v2/convnext-v2-atto_3rdparty-fcmae_in1k_20230104-07514db4.pth
2 femto  fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_femto_1k_224_fcmae.pt
     convnext-v2/convnext-v2-femto_3rdparty-fcmae_in1k_20230104-adbe2082.pth
2 pico   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_pico_1k_224_fcmae.pt
     convnext-v2/convnext-v2-pico_3rdparty-fcmae_in1k_20230104-147b1b59.pth
2 nano   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_nano_1k_224_fcmae.pt
     convnext-v2/convnext-v2-nano_3rdparty-fcmae_in1k_20230104-3dd1f29e.pth
2 tiny   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt
     convnext-v2/convnext-v2-tiny_3rdparty-fcmae_in1k_20230104-80513adc.pth
2 base   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_base_1k_224_fcmae.pt
     convnext-v2/convnext-v2-base_3rdparty-fcmae_in1k_20230104-8a798eaf.pth
2 large  fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_large_1k_224_fcmae.pt
     convnext-v2/convnext-v2-large_3rdparty-fcmae_in1k_20230104-bf38df92.pth
2 huge   fcmae_in1k          224 -    convnextv2/pt_only/convnextv2_huge_1k_224_fcmae.pt
     convnext-v2/convnext-v2-huge_3rdparty-fcmae_in1k_20230104-fe43ae6c.pth
2 atto   fcmae_ft_in1k       224 76.7 convnextv2/im1k/convnextv2_atto_1k_224_ema.pt
     convnext-v2/convnext-v2-atto_fcmae-pre_3rdparty_in1k_20230104-23765f83.pth
2 femto  fcmae_ft_in1k       224 78.5 convnextv2/im1k/convnextv2_femto_1k_224_ema.pt
     convnext-v2/convnext-v2-femto_fcmae-pre_3rdparty_in1k_20230104-92a75d75.pth
2 pico   fcmae_ft_in1k       224 80.3 convnextv2/im1k/convnextv2_pico_1k_224_ema.pt
     convnext-v2/convnext-v2-pico_fcmae-pre_3rdparty_in1k_20230104-d20263ca.pth
2 nano   fcmae_ft_in1k       224 81.9 convnextv2/im1k/convnextv2_nano_1k_224_ema.pt
     convnext-v2/convnext-v2-nano_fcmae-pre_3rdparty_in1k_20230104-fe1aaaf2.pth
2 tiny   fcmae_ft_in1k       224 83.0 convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt
     convnext-v2/convnext-v2-tiny_fcmae-pre_3rdparty_in1k_20230104-471a86de.pth
2 base   fcmae_ft_in1k       224 84.9 convnextv2/im1k/convnextv2_base_1k_224_ema.pt
     convnext-v2/convnext-v2-base_fcmae-pre_3rdparty_in1k_20230104-00a70fa4.pth
2 large  fcmae_ft_in1k       224 85.8 convnextv2/im1k/convnextv2_large_1k_224_ema.pt
     convnext-v2/convnext-v2-large_fcmae-pre_3rdparty_in1k_20230104-ef393013.pth
2 huge   fcmae_ft_in1k       224 86.3 convnextv2/im1k/convnextv2_huge_1k_224_ema.pt
     convnext-v2/convnext-v2-huge_fcmae-pre_3rdparty_in1k_20230104-f795e5b8.pth
2 nano   fcmae_ft_in22k_in1k 224 82.1 convnextv2/im22k/convnextv2_nano_22k_224_ema.pt
     convnext-v2/convnext-v2-nano_fcmae-in21k-pre_3rdparty_in1k_20230104-91fa8ae2.pth
2 nano   fcmae_ft_in22k_in1k 384 83.4 convnextv2/im22k/convnextv2_nano_22k_384_ema.pt
     convnext-v2/convnext-v2-nano_fcmae-in21k-pre_3rdparty_in1k-384px_20230104-f951ae87.pth
2 tiny   fcmae_ft_in22k_in1k 224 83.9 convnextv2/im22k/convnextv2_tiny_22k_224_ema.pt
     convnext-v2/convnext-v2-tiny_fcmae-in21k-pre_3rdparty_in1k_20230104-8cc8b8f2.pth
2 tiny   fcmae_ft_in22k_in1k 384 85.1 convnextv2/im22k/convnextv2_tiny_22k_384_ema.pt
     convnext-v2/convnext-v2-tiny_fcmae-in21k-pre_3rdparty_in1k-384px_20230104-d8579f84.pth
2 base   fcmae_ft_in22k_in1k 224 86.8 convnextv2/im22k/convnextv2_base_22k_224_ema.pt
     convnext-v2/convnext-v2-base_fcmae-in21k-pre_3rdparty_in1k_20230104-c48d16a5.pth
2 base   fcmae_ft_in22k_in1k 384 87.7 convnextv2/im22k/convnextv2_base_22k_384_ema.pt
     convnext-v2/convnext-v2-base_fcmae-in21k-pre_3rdparty_in1k-384px_20230104-379425cc.pth
2 large  fcmae_ft_in22k_in1k 224 87.3 convnextv2/im22k/convnextv2_large_22k_224_ema.pt
     convnext-v2/convnext-v2-large_fcmae-in21k-pre_3rdparty_in1k_20230104-d9c4dc0c.pth
2 large  fcmae_ft_in22k_in1k 384 88.2 convnextv2/im22k/convnextv2_large_22k_384_ema.pt
     convnext-v2/convnext-v2-large_fcmae-in21k-pre_3rdparty_in1k-384px_20230104-9139a1f3.pth
2 huge   fcmae_ft_in22k_in1k 384 88.7 convnextv2/im22k/convnextv2_huge_22k_384_ema.pt
     convnext-v2/convnext-v2-huge_fcmae-in21k-pre_3rdparty_in1k-384px_20230104-02a4eb35.pth
2 huge   fcmae_ft_in22k_in1k 512 88.9 convnextv2/im22k/convnextv2_huge_22k_512_ema.pt
     convnext-v2/convnext-v2-huge_fcmae-in21k-pre_3rdparty_in1k-512px_20230104-ce32e63c.pth
1 tiny   in1k                224 82.1 convnext_tiny_1k_224_ema.pth
     convnext/convnext-tiny_3rdparty_32xb128_in1k_20220124-18abde00.pth
1 small  in1k                224 83.1 convnext_small_1k_224_ema.pth
     convnext/convnext-small_3rdparty_32xb128_in1k_20220124-d39b5192.pth
1 base   in1k                224 83.8 convnext_base_1k_224_ema.pth
     convnext/convnext-base_3rdparty_32xb128_in1k_20220124-d0915162.pth
1 base   in1k                384 85.1 convnext_base_1k_384.pth
     convnext/convnext-base_3rdparty_in1k-384px_20221219-c8f1dc2b.pth
1 large  in1k                224 84.3 convnext_large_1k_224_ema.pth
     convnext/convnext-large_3rdparty_64xb64_in1k_20220124-f8a0ded0.pth
1 large  in1k                384 85.5 convnext_large_1k_384.pth
     convnext/convnext-large_3rdparty_in1k-384px_20221219-6dd29d10.pth
1 tiny   in22k               224 -    convnext_tiny_22k_224.pth
     -
1 small  in22k               224 -    convnext_small_22k_224.pth
     -
1 base   in22k               224 -    convnext_base_22k_224.pth
     convnext/convnext-base_3rdparty_in21k_20220124-13b83eec.pth
1 large  in22k               224 -    convnext_large_22k_224.pth
     convnext/convnext-large_3rdparty_in21k_20220124-41b5a79f.pth
1 xlarge in22k               224 -    convnext_xlarge_22k_224.pth
     convnext/convnext-xlarge_3rdparty_in21k_20220124-f909bad7.pth
1 tiny   in22k_ft_in1k       224 82.9 convnext_tiny_22k_1k_224.pth
     convnext/convnext-tiny_in21k-pre_3rdparty_in1k_20221219-7501e534.pth
1 tiny   in22k_ft_in1k       384 84.1 convnext_tiny_22k_1k_384.pth
     convnext/convnext-tiny_in21k-pre_3rdparty_in1k-384px_20221219-c1182362.pth
1 small  in22k_ft_in1k       224 84.6 convnext_small_22k_1k_224.pth
     convnext/convnext-small_in21k-pre_3rdparty_in1k_20221219-aeca4c93.pth
1 small  in22k_ft_in1k       384 85.8 convnext_small_22k_1k_384.pth
     convnext/convnext-small_in21k-pre_3rdparty_in1k-384px_20221219-96f0bb87.pth
1 base   in22k_ft_in1k       224 85.8 convnext_base_22k_1k_224.pth
     convnext/convnext-base_in21k-pre-3rdparty_32xb128_in1k_20220124-eb2d6ada.pth
1 base   in22k_ft_in1k       384 86.8 convnext_base_22k_1k_384.pth
     convnext/convnext-base_in21k-pre-3rdparty_in1k-384px_20221219-4570f792.pth
1 large  in22k_ft_in1k       224 86.6 convnext_large_22k_1k_224.pth
     convnext/convnext-large_in21k-pre-3rdparty_64xb64_in1k_20220124-2412403d.pth
1 large  in22k_ft_in1k       384 87.5 convnext_large_22k_1k_384.pth
     convnext/convnext-large_in21k-pre-3rdparty_in1k-384px_20221219-6d38dd66.pth
1 xlarge in22k_ft_in1k       224 87.0 convnext_xlarge_22k_1k_224_ema.pth
     convnext/convnext-xlarge_in21k-pre-3rdparty_64xb64_in1k_20220124-76b6863d.pth
1 xlarge in22k_ft_in1k       384 87.8 convnext_xlarge_22k_1k_384_ema.pth
     convnext/convnext-xlarge_in21k-pre-3rdparty_in1k-384px_20221219-b161bc14.pth
"""


def _parse_table() -> dict[str, ModelZooEntry]:
    published = {}
    fields = iter(_TABLE.split())
    for version, size, stage, resolution, top1, official, mmpretrain in zip(
        *[fields] * 7, strict=True
    ):
        weights = ModelZooEntry(
            int(version),
            size,
            stage,
            int(resolution),
            None if top1 == '-' else float(top1),
            official,
            None if mmpretrain == '-' else mmpretrain,
        )
        published[weights.name] = weights
    return published


MODEL_ZOO = _parse_table()
"""The published weights by name, as in ``convnextv2://NAME``; docs/checkpoints.md lists them."""


def fetch(source: str, name: str | None = None) -> Path:
    """Get a file from torch.hub's cache, downloading it first if needed; check its hash or size.

    Processes that ask at once download it once.

    Args:
        source: URL, or ``convnextv2://NAME``.
        name: The name that it has in the cache. If not given, published weights are kept under
            their own names, others as
            :func:`~convnextv2_mm.checkpoints.downloading.cache_name` says.

    Raises:
        FileNotFoundError: If it is not in the cache and cannot be downloaded.
        ValueError: If there is no such name, the URL is another than https, or the file is not
            whole.
    """
    urls, least_bytes = [source], 1
    if source.startswith(SCHEME):
        weights = find_weights(source.removeprefix(SCHEME))
        urls, least_bytes = weights.urls, weights.least_bytes
    elif not source.startswith(downloading.WEB):
        raise ValueError(f'{source} cannot be read: use {downloading.WEB} or {SCHEME}NAME')

    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    own_names = {f'{OFFICIAL_HOST}{w.official}': Path(w.official).name for w in MODEL_ZOO.values()}
    paths = [cache / (name or own_names.get(url) or cache_name(url)) for url in urls]
    cached = next((path for path in paths if path.is_file()), None)
    path = cached or _download(source, urls, paths)
    if (size := path.stat().st_size) < least_bytes:
        raise ValueError(
            f'{path} is not whole: it has {size:,} bytes, and the weights alone {least_bytes:,}; '
            f'delete it to fetch it again'
        )
    expected = hash_in(path.name)
    if expected and not (found := sha256(path)).startswith(expected):
        raise ValueError(
            f'{path} is not whole: its name says that its SHA-256 begins with {expected}, and it '
            f'begins with {found[: len(expected)]}; delete it to fetch it again'
        )
    return path


def find_weights(name: str) -> ModelZooEntry:
    """Look up published weights.

    Raises:
        ValueError: If there are none of that name.
    """
    if name not in MODEL_ZOO:
        near = get_close_matches(name, MODEL_ZOO) or list(MODEL_ZOO)[:3]
        raise ValueError(
            f'no published weights are named {name!r}: near it are {", ".join(near)}; all '
            f'{len(MODEL_ZOO)} are in docs/checkpoints.md'
        )
    return MODEL_ZOO[name]


def _download(source: str, urls: list[str], paths: list[Path]) -> Path:
    cache = paths[0].parent
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{paths[0]}.lock'):
        for url, path in zip(urls, paths, strict=True):
            if path.is_file():  # by another process in the meantime
                return path
            try:
                download(url, path)
                return path
            except (OSError, ValueError) as error:
                reason = error
    ways = [f'{url} as {path.name}' for url, path in zip(urls, paths, strict=True)]
    raise FileNotFoundError(
        f'{source} cannot be fetched ({reason}): download {" or ".join(ways)} into {cache}'
    )
