"""benchmark.py runs from end to end, in a process of its own, and reports every side."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import pytest
from started_script import run_started

import benchmark
from figures.growth import exponent, growth_lines
from reporting.speed import speed_table

ROOT = Path(__file__).resolve().parents[1]
TINY = "--rounds 2 --threads 1 --device cpu --amp off --batch_size 4 --sampling_steps 1 --json speed.json"
LIBRARIES = ["diffusers", "denoising_diffusion_pytorch"]


def test_without_the_libraries(tmp_path):
    """A line for each says what to install; the suite and the plain loop are measured, and the file gives the table."""
    for library in LIBRARIES:
        (tmp_path / f"{library}.py").write_text("raise ImportError('not here')")
    call = [sys.executable, str(ROOT / "benchmark.py"), *TINY.split()]
    blocked = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, env=blocked)
    assert done.returncode == 0, done.stderr
    *left_out, machine, _, _, _, _, _, plain, suite = done.stdout.splitlines()
    assert len(left_out) == 2 and all("not here" in line and "requirements-bench.txt" in line for line in left_out)
    assert "1 threads" in machine and plain.startswith("| plain") and suite.startswith("| suite")
    found = json.loads((tmp_path / "speed.json").read_text())
    assert speed_table(found).splitlines() == done.stdout.splitlines()[2:]
    assert len(found["seconds"]) == 2 and list(found["sides"]) == ["plain", "suite"]
    for facts in found["sides"].values():
        assert facts["parameters"] == 655_361 and facts["dtype"] == "float32"
        assert 200e6 < facts["forward_flops"] < 300e6
        assert facts["peak_bytes"]["step"] is None or 1e6 < facts["peak_bytes"]["step"] < 1e9


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, LIBRARIES)), reason="needs the libraries of requirements-bench.txt"
)
def test_the_libraries_have_networks_of_the_same_size(tmp_path):
    status, printed = run_started("benchmark.py", TINY.replace("--rounds 2", "--rounds 1").split(), tmp_path)
    assert status == 0, printed
    found = json.loads((tmp_path / "speed.json").read_text())
    assert list(found["sides"]) == ["plain", "suite", "diffusers", "lucidrains"]
    for facts in found["sides"].values():
        assert facts["parameters"] == pytest.approx(655_361, rel=0.05)
        assert facts["forward_flops"] == pytest.approx(245e6, rel=0.1)
    assert all(seconds > 0 for times in found["seconds"][0].values() for seconds in times.values())


def test_the_numbers_of_the_table():
    """Medians over the rounds; ratios within them; the share of the peak at that moment."""
    facts = {"version": "", "dtype": "float32", "parameters": 1000, "forward_flops": 1000}
    facts["peak_bytes"] = {"step": 2_000_000, "sample": None}
    rounds = [
        {"plain": {"step": p, "sample": 2 * p}, "suite": {"step": s, "sample": p}, "float32": {"product": 1.0}}
        for p, s in ((10, 1), (20, 10), (30, 10))
    ]
    found = {"seconds": rounds, "sides": {"plain": facts, "suite": facts}, "batch_size": 100, "n_sampled": 40}
    found.update(machine="cpu", load="1", clock="time", sampling_steps=5, matrix=100)
    *_, plain, suite = speed_table(found).splitlines()
    assert [cell.strip() for cell in plain.split("|")[4:-1]] == ["5", "1.00", "1%", "2", "1", "1.00", ""]
    assert [cell.strip() for cell in suite.split("|")[4:-1]] == ["10", "3.00", "2%", "2", "2", "2.00", ""]


def test_the_tables_of_the_page_are_those_of_the_committed_files():
    page, files = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8"), sorted((ROOT / "docs").glob("speed_*.json"))
    assert files
    for file in files:
        assert file.name in page
        assert speed_table(json.loads(file.read_text(encoding="utf-8"))) in page
    growth = json.loads((ROOT / "docs" / "growth.json").read_text(encoding="utf-8"))
    assert all(f"- {line}" in page for line in growth_lines(growth))


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize(
    "words, exit_status",
    [
        ("--table other.json", 1),
        ("--sampling_steps 401", 2),
        ("--growth growth.png --sampling_steps 26", 2),
        ("--growth growth.txt", 2),
    ],
)
def test_wrong_calls(words, exit_status, tmp_path):
    (tmp_path / "other.json").write_text('{"sides": 3}')
    status, printed = run_started("benchmark.py", words.split(), tmp_path)
    assert status == exit_status and len(printed.splitlines()) == 1, printed


def test_growth(tmp_path, monkeypatch, capsys):
    """Every curve is measured; time proportional to the size has the power 1, and to its square the power 2."""
    monkeypatch.setattr(benchmark, "FACTORS", (1, 2))
    monkeypatch.setattr(benchmark, "HEIGHTS", (8, 16))
    words = "--growth growth.png --rounds 1 --threads 1 --device cpu --sampling_steps 1 --json growth.json"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words.split()])
    monkeypatch.chdir(tmp_path)
    benchmark.main()
    found = json.loads((tmp_path / "growth.json").read_text())
    assert {axis: sorted(curves) for axis, curves in found["seconds"].items()} == {
        "images at once": ["sampling", "training step"],
        "pixels of an image": ["sampling", "training step"],
        "steps": ["sampling"],
    }
    assert list(found["seconds"]["pixels of an image"]["sampling"]) == ["64", "256"]
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert imageio.imread(tmp_path / "growth.png").shape[0] > 400
    assert exponent({10: [1.0, 9.0, 2.0], 20: [4.0, 4.0, 4.0]}) == pytest.approx(1)
    assert exponent({10: [1.0], 20: [4.0]}) == pytest.approx(2)
