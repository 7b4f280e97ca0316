"""Signals that come while a training script still imports its libraries, which takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(file.name for file in ROOT.glob("train_*.py"))
# A torch that takes a minute and swallows exceptions (as the real one does while it looks for numpy).
TORCH = "import pathlib, time\ntry:\n    pathlib.Path('importing').touch()\n    time.sleep(60)\nexcept BaseException:\n    pass\n"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("script, name", [*((script, "SIGUSR1") for script in SCRIPTS), ("train_toy.py", "SIGTERM")])
def test_a_signal_before_training_ends_the_script_with_a_line(script, name, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    stopped = tmp_path / "stopped"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DDPM_STOPPED": str(stopped)}
    call = [sys.executable, str(ROOT / script), "--log_dir", "log"]
    process = subprocess.Popen(call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not (tmp_path / "importing").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + getattr(signal, name)
    (line,) = said.splitlines()
    assert script in line and name in line
    assert not stopped.exists() and not (tmp_path / "log").exists()
