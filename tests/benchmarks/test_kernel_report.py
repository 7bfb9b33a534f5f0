"""The kernels compile for a GPU: the interpreter takes what the compiler refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'benchmarks' / 'kernel_report.py'


def test_kernels_compile_and_fit_the_registers(tmp_path):
    pytest.importorskip('triton')
    out = tmp_path / 'kernels.json'
    subprocess.run(
        [sys.executable, TOOL, '--json', out],
        env=os.environ | {'TRITON_CACHE_DIR': str(tmp_path / 'cache')},
        check=True,
        capture_output=True,
    )
    rows = {row['name']: row for row in json.loads(out.read_text())}
    assert len(rows) == 16
    assert all(row['spilled_bytes'] <= 64 for row in rows.values())
    # 49 products of 64 channels at 4x4 sites, for each of 32 threads
    assert rows['depthwise_conv, dense']['products'] == 49 * 16 * 64 // 32
    for name in ('depthwise_conv, dense', 'weight gradient, dense'):
        assert rows[name]['instructions'] < 2 * rows[name]['products']
