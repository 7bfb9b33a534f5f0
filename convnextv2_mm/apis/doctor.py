"""What is installed, what the machine has, and what of the two does not fit."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from PIL import features

from ..ops.choices import backend_choices
from ..utils.opencv import check_opencv

# Distributions that bring each, ours first.
NEEDED = dict(
    torch='torch',
    torchvision='torchvision',
    mmengine='onedl-mmengine mmengine',
    mmcv='onedl-mmcv mmcv mmcv-lite',
    mmdet='onedl-mmdetection mmdet',
    mmseg='onedl-mmsegmentation mmsegmentation',
    mmpretrain='onedl-mmpretrain mmpretrain',
    OpenCV='opencv-python-headless opencv-python opencv-contrib-python',
    Pillow='pillow',
    pycocotools='pycocotools',
    NumPy='numpy',
)
OPTIONAL = dict(
    Triton='triton',
    spconv='spconv spconv-cu120 spconv-cu126',
    transformers='transformers',
    timm='timm',
    onnxruntime='onnxruntime onnxruntime-gpu',
)
LEAST_SHARED_MEMORY = 2**30  # bytes, for the batches that loader processes hand over


def examine() -> tuple[dict[str, str], list[str]]:
    """Look at the installation and the machine. On a GPU, the Triton kernels are tried.

    Returns:
        What there is, by name; and what will not work, in a sentence each.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    _packages(found, problems)
    _decoders_and_operators(found, problems)
    _devices(found, problems)
    _memory(found, problems)
    return found, problems


def _packages(found: dict[str, str], problems: list[str]) -> None:
    found['system'] = f'{platform.platform()}, Python {platform.python_version()}'
    for name, distributions in (NEEDED | OPTIONAL).items():
        versions = {dist: _version(dist) for dist in distributions.split()}
        installed = [f'{dist} {number}' for dist, number in versions.items() if number]
        found[name] = ', '.join(installed) or 'not installed'
        if not installed and name in NEEDED:
            problems.append(f'{name} is not installed')
    if int((_version('transformers') or '0').split('.')[0]) >= 5:
        problems.append("mmpretrain does not load with transformers 5: install 'transformers<5'")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _decoders_and_operators(found: dict[str, str], problems: list[str]) -> None:
    turbo = features.check_feature('libjpeg_turbo')
    found['JPEG'] = f'Pillow with {"libjpeg-turbo" if turbo else "libjpeg"}, OpenCV'
    if torch.cuda.is_available():
        found['JPEG'] += ', nvJPEG on the GPU'
    try:
        check_opencv()
        spec = find_spec('mmcv._ext')  # imports mmcv, and that OpenCV
    except ImportError as error:
        problems.append(str(error))
        return
    compiled = spec is not None and str(spec.origin).endswith(('.so', '.pyd'))
    found['mmcv operators'] = 'compiled' if compiled else 'those of this package (docs/mmcv_ops.md)'


def _devices(found: dict[str, str], problems: list[str]) -> None:
    if not torch.cuda.is_available():
        built_for = torch.version.cuda or torch.version.hip
        found['GPU'] = 'none' if built_for else 'none, and this PyTorch is built for CPUs only'
        if built_for and shutil.which('nvidia-smi'):
            problems.append(
                f'PyTorch finds no GPU, but nvidia-smi is here: this one is built for CUDA '
                f'{built_for}, which needs a driver that is new enough'
            )
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found[f'GPU {index}'] = (
            f'{card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}, '
            f'mixed precision in {"bfloat16" if has_bfloat16 else "float16"}'
        )
    device = torch.device('cuda', 0) if torch.cuda.is_available() else torch.device('cpu')
    for operator, choice in backend_choices(device).items():
        found[f"backend 'auto' of {operator}"] = choice
        if device.type == 'cuda' and choice != 'triton':
            problems.append(f'{operator} is slower than it could be: {choice}')
    if not torch.distributed.is_available():
        found['torch.distributed'] = 'missing'
    else:
        found['torch.distributed'] = 'NCCL' if torch.distributed.is_nccl_available() else 'gloo'


def _memory(found: dict[str, str], problems: list[str]) -> None:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found['CPU cores'] = str(usable)
    if os.path.isdir('/dev/shm'):
        free = shutil.disk_usage('/dev/shm').free
        found['shared memory'] = f'{free / 2**30:.1f} GiB free'
        if free < LEAST_SHARED_MEMORY:
            problems.append(
                f'/dev/shm has {free / 2**20:.0f} MiB free, too few for loader processes: give a '
                'container --shm-size 8g, or set num_workers=0'
            )
