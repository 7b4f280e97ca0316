"""benchmark.py runs from end to end, in a process of its own, and reports every variant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_short_benchmark(tmp_path):
    words = [
        "--rounds",
        "2",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--batch_size",
        "4",
        "--sampling_steps",
        "1",
        "--json",
        "speed.json",
    ]
    script = ROOT / "benchmark.py"
    done = subprocess.run([sys.executable, str(script), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    machine, _, training, sampling, around = done.stdout.splitlines()
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["machine"] == machine and "1 threads" in machine and len(found["seconds"]) == 2
    variants = ["plain step", "suite step", "suite bare step", "plain sampling", "suite sampling"]
    assert all(list(times) == variants and min(times.values()) > 0 for times in found["seconds"])
    for line, kind, n in ((training, "step", 4), (sampling, "sampling", 40 / 400)):
        plain, suite, ratio = map(float, line.split()[-3:])
        of_plain, of_suite = ([times[f"{side} {kind}"] for times in found["seconds"]] for side in ("plain", "suite"))
        assert abs(plain / (2 * n / sum(of_plain)) - 1) < 0.01 and abs(suite / (2 * n / sum(of_suite)) - 1) < 0.01
        assert abs(ratio - sum(a / b for a, b in zip(of_plain, of_suite)) / 2) < 0.006
    assert around.startswith("data, moving average and metrics add")
