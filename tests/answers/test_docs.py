"""The pages answers/ and docs/: links, formulas that GitHub can show, tests that exist, and code that runs."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from unittest import mock

import numpy as np
import pytest
import test_formulas
import test_guidance
import torch
from answers_text import ANSWERS, PAGES, ROOT, displays, formulas, links, sections, tags, without_code

from common.console import run_script
from datasets import sources
from reporting.log_files import CAPTIONS

ROOMS = ["common", "sheets", "networks", "diffusion", "datasets", "reporting", "figures", "training", "evaluation"]
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@named
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if link.startswith("https://arxiv.org/abs/"):
            assert re.fullmatch(r"\d{4}\.\d{5}|1[0-4]\d\d\.\d{4}", link.rpartition("/")[2]), link
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in sections(target), link


def test_arxiv_numbers_are_named_in_the_text():
    for page in ANSWERS:
        text = page.read_text(encoding="utf-8")
        assert all(f"[arXiv:{n}]" in text for n in re.findall(r"arxiv\.org/abs/([\d.]+)", text)), page


@named
def test_github_can_show_the_mathematics(page):
    r"""Markdown drops \ before punctuation and reads }_ as the start of emphasis; a $$ formula needs its own line."""
    for line in without_code(page.read_text(encoding="utf-8")).splitlines():
        assert line.count("$") % 2 == 0, line
        if "$$" in line:
            assert re.fullmatch(r"\s*\$\$[^$]+\$\$", line), line
        inline = re.findall(r"(?<!\$)\$([^$]+)\$(?!\$)", line) if "$$" not in line else []
        for formula in [*inline, *displays(line)]:
            assert not re.search(r"\\[^a-zA-Z\s]", formula), formula
            assert formula.count("{") == formula.count("}"), formula
            assert formula == formula.strip() and "<" not in formula, formula
        for formula in inline:
            assert "}_" not in formula and "*" not in formula, formula
        if line.startswith("|"):  # a | ends a cell, also within a formula
            assert not any("|" in formula for formula in inline), line


def checks_named_in(text: str) -> list[str]:
    lines = re.findall(r"\*Checked by\*(.*?)(?:\n\n|$)", text, re.DOTALL)
    return [name for line in lines for name in re.findall(r"`(\w+)`", line)]


def test_every_derivation_names_the_tests_of_all_its_formulas():
    found = {**vars(test_formulas), **vars(test_guidance)}
    named_somewhere, n_derivations = set(), 0
    for page in ANSWERS:
        for name, text in sections(page).items():
            checks = checks_named_in(text)
            named_somewhere.update(checks)
            assert all(callable(found.get(check)) for check in checks), (page.name, name, checks)
            source = "".join(inspect.getsource(found[check]) for check in checks)
            untested = [tag for tag in tags(text) if f'"{tag}"' not in source and f"({tag})" not in source]
            assert not untested, (page.name, name, untested)
            n_derivations += bool(tags(text))
    assert n_derivations == 10 and len(formulas()) == 38
    assert {name for name in found if name.startswith("test_")} == named_somewhere


def test_the_index_has_every_answer():
    index = ROOT / "answers" / "README.md"
    for page in ANSWERS:
        if page != index:
            expected = {f"{page.name}#{name}" for name in sections(page) if name != "references"}
            assert expected <= set(links(index)), expected - set(links(index))


# ------------------------------------------------------------ docs/layout.md


def test_the_map_names_every_file_and_no_other():
    """Every module stands in docs/layout.md: `room/` at the start of a row, then its files."""
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    named = set()
    for room, row in re.findall(r"^\| `([\w.]+/?)` \|(.*)\|$", text, re.MULTILINE):
        named |= {room + name for name in re.findall(r"`(\w+\.py)`", row)} if room.endswith("/") else {room}
    tracked = {str(file.relative_to(ROOT)) for room in ROOMS for file in ROOT.glob(f"{room}/*.py")}
    tracked |= {file.name for file in ROOT.glob("*.py")}
    assert named == {name for name in tracked if not name.endswith("__init__.py")}


# ------------------------------------------------------------ docs/log_folder.md


def test_the_table_of_the_log_folder_names_every_figure():
    text = (ROOT / "docs" / "log_folder.md").read_text(encoding="utf-8")
    assert not [name for name in CAPTIONS if f"`{name}" not in text]


# ------------------------------------------------------------ docs/adding_a_dataset.md


def blocks() -> dict[str, str]:
    """The page's blocks of code by the file name in their first line."""
    text = (ROOT / "docs" / "adding_a_dataset.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL))


def test_adding_a_dataset_takes_less_than_60_lines():
    lines = [line for code in blocks().values() for line in code.splitlines() if line.strip()]
    assert set(blocks()) == {"shapes.py", "datasets/sources.py", "train_shapes.py", "tests/test_shapes.py"}
    assert len(lines) < 60


def test_the_example_of_adding_a_dataset_runs(tmp_path, monkeypatch, capsys):
    code = blocks()
    for name in ("shapes.py", "train_shapes.py"):
        (tmp_path / name).write_text(code[name], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shapes", "train_shapes"):  # monkeypatch removes them again afterwards
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    shapes = importlib.import_module("shapes")
    line = eval("{" + code["datasets/sources.py"] + "}", {"load_shapes": shapes.load_shapes})
    monkeypatch.setitem(sources.SOURCES, "shapes", line["shapes"])

    names = {"np": np, "torch": torch, "pytest": pytest, "load": sources.load}
    exec(code["tests/test_shapes.py"], names)
    names["test_a_pixel_stands_where_it_was"](tmp_path)

    train_shapes = importlib.import_module("train_shapes")
    tiny = "--n_features 8 --n_timesteps 3 --batch_size 2 --n_epochs 1 --n_samples 1 --g_weight 1 --device cpu"
    words = [*tiny.split(), "--data_dir", str(tmp_path), "--log_dir", str(tmp_path / "log")]
    with mock.patch.object(sys, "argv", ["train_shapes.py", *words]):
        run_script(train_shapes.main)
        written = {file.name for file in (tmp_path / "log").iterdir()}
        assert {"report.html", "model_epoch1.pt", "generated_images_epoch1_guidance_weight1.png"} <= written

        (tmp_path / "shapes" / "test.npz").write_bytes(b"no archive")
        with pytest.raises(SystemExit) as end:
            run_script(train_shapes.main)
    assert end.value.code == 1 and "replace the file" in capsys.readouterr().err
