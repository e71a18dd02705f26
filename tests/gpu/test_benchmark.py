"""The benchmark of the GPU's kernels, small and in the simulator: `make test_cuda`."""

import json

import gpu_kernels
from numba import cuda

from helpers import run_here


def test_every_pass_is_measured(tmp_path, monkeypatch):
    device = cuda.get_current_device()
    monkeypatch.setattr(type(device), "name", b"a simulated card", raising=False)
    process = run_here(
        gpu_kernels,
        *("--batch=2", "--frames=3", "--neurons=8", "--rate_hz=40", "--repeats=1"),
        f"--json={tmp_path / 'kernels.json'}",
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("a simulated card; ")
    assert "all spikes are the CPU's: True" in process.stdout
    rows = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    assert [row["pass"] for row in rows] == ["forward", "eprop", "bptt"]
    assert all(row["gpu_s"] > 0 and row["cpu_s"] > 0 and row["apart"] < 1e-5 for row in rows)
