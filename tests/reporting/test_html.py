"""What a reader of the pages meets: the curves, the table of many folders, and both in a real browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from tiny_browser import Browser
from tiny_report import Page, write_class_run, write_step_run

import report
from common.files import write_csv, write_json
from reporting import index as report_index
from reporting.curves import LEFT, MAX_POINTS, RIGHT, WIDTH, Curve, _log_ticks, _ticks, curves, drawing
from reporting.index import write_index
from reporting.page import write_report
from reporting.reader import read_run
from reporting.tables import judged


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Two runs with reports, one below the other's neighbour; tests only read them."""
    root = tmp_path_factory.mktemp("folders")
    for folder in (write_class_run(root / "log_mnist"), write_step_run(root / "ann" / "log_afhq")):
        write_report(folder)
    return root


@pytest.fixture
def root(folders, tmp_path) -> Path:
    return Path(shutil.copytree(folders, tmp_path / "root"))


# ------------------------------------------------------------------------------------------------ curves


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of the curves in a drawing, in its own units."""
    paths = re.findall(r'<path d="M([\d. L-]*)" fill="none"', svg)
    return [[tuple(map(float, point.split())) for point in path.split("L")] for path in paths if " " in path]


def ticks(svg: str) -> dict[float, float]:
    """The values at the vertical axis, and where they stand."""
    found = re.findall(r'<text x="\d+" y="([\d.]+)" text-anchor="end">(.*?)</text>', svg)
    return {float(text): float(y) - 4 for y, text in found}


@pytest.mark.parametrize("values, log", [([8.0, 2.0, 1.0, 0.5], True), ([3.0, -1.0, 0.0, 2.0], False)])
def test_a_curve_runs_through_its_values(values, log):
    """The place of each point is computed anew from the ticks, which a reader goes by."""
    svg = drawing("Loss", "epoch", [Curve("training", "#000", "", [(k, y) for k, y in enumerate(values)])])
    assert ("log scale" in svg) == log
    (points,), axis = lines(svg), ticks(svg)
    scale = math.log if log else float
    (low, y_low), (high, y_high) = (f(axis.items()) for f in (min, max))
    for (_, y), value in zip(points, values):
        part = (scale(value) - scale(low)) / (scale(high) - scale(low))
        assert y == pytest.approx(y_low + part * (y_high - y_low), abs=0.11)  # the file has one decimal
    x = [x for x, _ in points]
    assert x[0] >= LEFT and x[-1] <= WIDTH - RIGHT
    assert [b - a for a, b in zip(x, x[1:])] == pytest.approx([(x[-1] - x[0]) / 3] * 3, abs=0.11)
    assert f"<b>{values[-1]:.4g}</b>" in svg and f"from {values[0]:g} at epoch 0 to {values[-1]:g} at epoch 3" in svg


def test_curves_of_a_run(tmp_path):
    """Long columns are thinned and keep their last row; gaps and what is no number are passed over; quarters are named."""
    names = ("epoch", "train_loss", "val_loss", "loss_q1", "loss_q4", "images_per_second")
    rows = [dict(zip(names, (e, 1 / e, 2 / e if e % 500 == 0 else None, 0.5, 0.25, 100.0))) for e in range(1, 2001)]
    rows[3]["train_loss"] = math.nan
    write_csv(tmp_path / "metrics.csv", rows)
    page = curves(read_run(tmp_path))
    loss, quarters, speed = page.split('<svg viewBox="0 0 400')[1:]
    training, validation = lines(loss)
    assert MAX_POINTS / 2 < len(training) <= MAX_POINTS and len(validation) == 4
    assert training[-1][0] == validation[-1][0] == max(x for x, _ in training)
    assert "<b>0.0005</b>" in loss and "<b>0.001</b>" in loss and "lowest t" in quarters and "highest t" in quarters
    assert len(lines(quarters)) == 2 and len(lines(speed)) == 1 and 0 in ticks(speed)


@pytest.mark.parametrize("rows", [
    "1,1e308\n2,-1e308\n", "1,5e-324\n2,1\n", "1e308,1\n-1e308,1\n", "1,1e99\n2,1e-99\n", "1,0\n", "1,7\n1,7\n",
    "1,1\n2,1.0000000000000002\n", "1,-9e99\n2,9e99\n", "1,nan\n", "1,inf\n",
])  # fmt: skip
def test_hostile_numbers_draw_something_finite(tmp_path, rows):
    (tmp_path / "metrics.csv").write_text(f"epoch,train_loss\n{rows}")
    page = curves(read_run(tmp_path))
    assert "nan" not in page and "inf" not in page.replace("info", "")
    assert all(-1 <= place <= 500 for line in lines(page) for point in line for place in point)
    Page(write_report(tmp_path))


@pytest.mark.parametrize("low, high", [(0.0358, 0.0775), (0.009, 0.17), (1e-9, 3e5), (0.5, 0.5000001), (1, 10)])
def test_ticks_cover_the_values_with_few_round_numbers(low, high):
    for found in (_ticks(low, high), _log_ticks(low, high)):
        assert 2 <= len(found) <= 9 and found == sorted(found) and found[0] <= low and found[-1] >= high
    assert all(x == int(x) for x in _ticks(1, 12, whole=True))


# ------------------------------------------------------------------------------------------------ the index


def rows_of(page: Page) -> list[list[str]]:
    body = page.source.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td.*?</td>", row) for row in body.split("<tr>")[1:]]


def test_the_index_has_a_line_for_each_folder(root):
    measured = {"model": "m.pt", "results": [{"guidance_weight": w, "judge_accuracy": w / 4} for w in (0, 1, 3)]}
    write_json(root / "log_mnist" / "metrics.json", [measured])
    page = Page(write_index(root))
    afhq, mnist = rows_of(page)
    assert 'href="./ann/log_afhq/report.html"' in afhq[1] and 'href="./log_mnist/report.html"' in mnist[1]
    assert 'src="./ann/log_afhq/samples_step1000.png"' in afhq[0]
    assert 'src="./log_mnist/generated_images_epoch10_guidance_weight0.5.png"' in mnist[0]  # the nearest to 1
    text = lambda cells: [re.sub("<.*?>", "", cell) for cell in cells]  # noqa: E731
    assert text(mnist)[2:] == ["mnist", "", "finished", "10 of 10 epochs", "0.1", "", "25.0% (w = 1)"]
    assert text(afhq)[2:] == ["afhq", "", "stopped or running", "1,000 of 2,000 steps", "0.5", "", ""]
    for _, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith("./") and (root / unquote(attributes[name])).exists()


def test_one_bad_folder_costs_its_own_line_only(root, monkeypatch):
    evil = "<script>alert('x')<" + "\"'u onerror=1>" if sys.platform != "win32" else "&amp;'"
    bad = root / evil
    bad.mkdir()
    write_json(
        bad / "config.json", {"dataset": {"name": "</td><script>"}, "spec": {"network": ["<u>"]}, "arguments": 3}
    )
    (bad / "metrics.csv").write_text('epoch,train_loss\n1e999,<u>\n"\n')
    (bad / "generated_images_epoch1_guidance_weight1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"\x7f" * 40
    )  # 2e9 pixels wide
    (root / "broken").mkdir(), (root / "broken" / "config.json").write_text("[" * 100_000)
    (root / ".hidden").mkdir(), (root / ".hidden" / "config.json").write_text("{}")
    (root / "no_run").mkdir(), (root / "no_run" / "notes.txt").write_text("{}")
    if hasattr(os, "symlink"):
        os.symlink(root, root / "no_run" / "loop")
    read = report_index.read_run

    def failing(folder):
        if folder.name == "log_afhq":
            raise RuntimeError("<u>what nobody thought of")
        return read(folder)

    monkeypatch.setattr(report_index, "read_run", failing)
    page = Page(write_index(root))
    rows = rows_of(page)
    assert [len(row) for row in rows] == [len(report_index.COLUMNS)] * 4
    assert "4 log folders" in page.text and "cannot be read: <u>what nobody thought of" in page.text
    assert "config.json cannot be read" in page.text and page.source.count("<img") == 1  # of log_mnist
    assert [tag for tag, _ in page.tags].count("script") == 1 and not {"u"} & {tag for tag, _ in page.tags}
    assert not [1 for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]


def test_the_command_and_a_wrong_one(root, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report.py", str(root / "log_mnist"), "--index", str(root)])
    assert report.main() == 0
    assert capsys.readouterr().out.splitlines() == [str(root / "log_mnist" / "report.html"), str(root / "index.html")]
    monkeypatch.setattr(sys, "argv", ["report.py", "--index", str(root / "nowhere")])
    assert report.main() == 2 and "nowhere is not a folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["report.py"])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 2 and "--index" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "{", "3", "[3]", '[{"results": 3}]', '[{"results": [{"judge_accuracy": "x"}]}]']
)
def test_no_accuracy_where_none_was_measured(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert judged(tmp_path / "metrics.json") is None


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def grids(epoch: int) -> list[str]:
    return [f"generated_images_epoch{epoch}_guidance_weight{w}.png" for w in ("0", "0.5", "2", "10")]


def test_the_report_in_a_browser(browser, folders):
    """Every picture loads under the page's policy, the keyboard steps and pauses, and print says what it leaves out."""
    browser.open(folders / "log_mnist" / "report.html")
    assert browser.run("[...document.images].filter(i => i.loading != 'lazy').every(i => i.naturalWidth > 0)")
    assert browser.visible("img")[:4] == grids(10)
    assert browser.visible(".moving") == ["animation_epoch10_guidance_weight0.gif"] and not browser.visible(".still")

    browser.run("document.querySelector('nav a:last-child').focus()")
    browser.press("Tab")  # from the last link to the chosen button, and from there an arrow
    browser.press("ArrowLeft")
    assert browser.run("document.activeElement.type") == "radio" and browser.visible("img")[:4] == grids(2)
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert browser.run(outline) == "solid"  # where the keyboard is can be seen
    browser.run("document.querySelector('.pause').focus()")
    browser.press(" ")
    still = "generated_images_epoch10_guidance_weight0.png"
    assert not browser.visible(".moving") and browser.visible(".still") == [still]

    browser.media(reduced_motion=True)  # the same switch plays what stands still from the beginning
    assert browser.visible(".moving") and not browser.visible(".still")
    browser.press(" ")
    assert not browser.visible(".moving") and browser.visible(".still") == [still]

    browser.media("print")
    assert browser.visible("img")[:4] == grids(2) and not browser.visible(".moving, .still")
    printed = browser.run("document.body.innerText")
    assert "epochs 2, 10; printed is the one that was chosen" in printed and "Epoch 2" in printed
    assert "Not printed, as they end in pictures shown above: animation_epoch2" in printed
    browser.media()
    assert browser.events == []  # no error, nothing that the policy had to refuse


@pytest.mark.parametrize("page", ["log_mnist/report.html", "ann/log_afhq/report.html"])
def test_a_narrow_screen_needs_no_scrolling_sideways(browser, folders, page):
    browser.open(folders / page)
    browser.size(390, 800)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.size(1400, 1000)


def test_what_slips_through_the_escaping_does_not_run(browser, root):
    """The policy is a second wall: scripts that stand in the page by any mistake are refused."""
    report = root / "log_mnist" / "report.html"
    text = report.read_text()
    evil = "<script>document.title = 'run'</script><img src='nowhere.png' onerror=\"document.title = 'run'\">"
    report.write_text(text.replace("</main>", f"{evil}</main>"))
    browser.open(report)
    assert browser.run("document.title") == "log_mnist" and browser.events
    index = write_index(root)
    index.write_text(index.read_text().replace("</main>", f"{evil}</main>"))
    browser.open(index)
    assert browser.run("document.title") == "Log folders in root"


def test_the_index_sorts_in_a_browser(browser, root):
    for name, loss in (("a", 0.9), ("b", 10.0), ("c", None)):
        write_csv(root / name / "metrics.csv", [{"epoch": 1, "train_loss": loss}])
    browser.open(write_index(root))
    assert browser.events == []  # its script has the hash that the policy names
    order = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[1].dataset.key)"
    assert browser.run(order) == ["a", "ann/log_afhq", "b", "c", "log_mnist"]
    browser.run("[...document.querySelectorAll('th button')].find(b => b.textContent == 'training loss').focus()")
    browser.press("Enter")
    assert browser.run(order) == ["log_mnist", "ann/log_afhq", "a", "b", "c"]
    browser.press("Enter")
    assert browser.run(order) == ["b", "a", "ann/log_afhq", "log_mnist", "c"]
    assert json.loads(
        browser.run("JSON.stringify([...document.querySelectorAll('[aria-sort]')].map(h => h.ariaSort))")
    ) == ["descending"]
