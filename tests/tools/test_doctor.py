"""What ``convnextv2 doctor`` says of an installation."""

import re
import sys
from types import SimpleNamespace

import mmcv
import pytest
import torch
from run_tool import run_tool

from convnextv2_mm.apis import doctor


def lines(capsys) -> dict[str, str]:
    printed = capsys.readouterr().out.splitlines()
    return dict(re.split('  +', line, maxsplit=1) for line in printed)


def test_this_installation_has_no_problem(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: SimpleNamespace(free=2**33))
    with pytest.raises(SystemExit) as stop:
        run_tool('doctor')
    found = lines(capsys)
    assert stop.value.code == 0
    assert found['torch'] == f'torch {torch.__version__.split("+")[0]}'
    assert found['mmcv'].endswith(mmcv.__version__)
    assert found['problem'] == 'none found'


def test_an_opencv_that_does_not_load_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    _, problems = doctor.examine()
    assert any('OpenCV does not load' in problem for problem in problems)


def test_problems_are_told(monkeypatch, capsys):
    """As on a GPU without bfloat16, whose kernels do not compile, with transformers 5."""
    card = SimpleNamespace(name='Tesla V100', total_memory=16 * 2**30, major=7, minor=0)
    for name, value in dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_properties=lambda index: card,
        is_bf16_supported=lambda including_emulation=True: including_emulation,
        device=lambda index: torch.device('cpu'),
    ).items():
        monkeypatch.setattr(torch.cuda, name, value)
    choices = dict(
        depthwise_conv='triton', gelu_grn_linear='torch, since Triton gives other results'
    )
    monkeypatch.setattr(doctor, 'backend_choices', lambda device: choices)
    real = doctor.version
    monkeypatch.setattr(doctor, 'version', lambda n: '5.1.0' if n == 'transformers' else real(n))
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: SimpleNamespace(free=2**26))
    with pytest.raises(SystemExit) as stop:
        run_tool('doctor')
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert 'Tesla V100, 16 GiB, sm_70, mixed precision in float16' in printed
    problems = [line for line in printed.splitlines() if line.startswith('problem ')]
    for said in ('transformers 5', 'gelu_grn_linear is slower', '/dev/shm has 64 MiB free'):
        assert sum(said in problem for problem in problems) == 1
    assert len(problems) == 3
