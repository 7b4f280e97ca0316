"""What a reader of the pages meets: the table of many folders, and both in a real browser."""

from __future__ import annotations

import json
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
from reporting.index import write_index
from reporting.page import write_report
from reporting.run import read_run
from reporting.tables import classifier_accuracy

ROOT = Path(__file__).resolve().parents[2]


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


# ------------------------------------------------------------------------------------------------ the index


def rows_of(page: Page) -> list[list[str]]:
    body = page.source.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td.*?</td>", row) for row in body.split("<tr>")[1:]]


def test_the_index_has_a_line_for_each_folder(root):
    measured = {
        "model": "m.pt",
        "results": [{"guidance_weight": w, "judge_accuracy": w / 4, "n_images": 40} for w in (0, 1, 3)],
    }
    write_json(root / "log_mnist" / "metrics.json", [measured])
    page = Page(write_index(root))
    afhq, mnist = rows_of(page)
    assert 'href="./ann/log_afhq/report.html"' in afhq[1] and 'href="./log_mnist/report.html"' in mnist[1]
    assert 'src="./ann/log_afhq/samples_step1000.png"' in afhq[0]
    assert 'src="./log_mnist/generated_images_epoch10_guidance_weight0.5.png"' in mnist[0]  # the nearest to 1
    text = lambda cells: [re.sub("<.*?>", "", cell) for cell in cells]  # noqa: E731
    assert all("failed (" in row[2] for row in (mnist, afhq))  # check_log.py's verdict: pictures of zeros
    assert text(mnist)[3:] == ["finished", "mnist ", "10 of 10 epochs", "0.1", "", "25.0% (w = 1, n = 40)"]
    assert text(afhq)[3:] == ["stopped or running", "afhq ", "1,000 of 2,000 steps", "0.5", "", ""]
    for _, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith("./") and (root / unquote(attributes[name])).exists()


def test_a_copy_is_told_to_both(tmp_path):
    for name in ("ann", "bob"):
        shutil.copytree(ROOT / "log" / "log_toy_two_gaussians", tmp_path / name / "log_toy")
    for row, other in zip(rows_of(Page(write_index(tmp_path))), ("bob", "ann")):
        assert f"another hand-in: {other}/log_toy shares the times of" in row[2]


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
        if folder.path.name == "log_afhq":
            raise RuntimeError("<u>what nobody thought of")
        return read(folder)

    monkeypatch.setattr(report_index, "read_run", failing)
    page = Page(write_index(root))
    rows = rows_of(page)
    assert [len(row) for row in rows] == [len(report_index.COLUMNS)] * 4
    assert "4 log folders" in page.text and "cannot be read: <u>what nobody thought of" in page.text
    assert "config.json is no JSON" in page.text and page.source.count("<img") == 1  # of log_mnist
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
    assert classifier_accuracy(read_run(tmp_path).measured) is None


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


def test_a_picture_is_enlarged_and_closed_with_the_keyboard(browser, folders):
    browser.open(folders / "log_mnist" / "report.html")
    first = "[...document.querySelectorAll('a.enlarge')].find(a => a.checkVisibility())"
    natural, width = (
        browser.run(f"{first}.firstChild.{what}") for what in ("naturalWidth", "getBoundingClientRect().width")
    )
    assert natural == width
    browser.run(f"{first}.focus()")
    browser.press("Enter")
    shown = "document.querySelector('figure:target img').getBoundingClientRect().width"
    assert browser.run(shown) >= 2 * natural
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "close"
    browser.press("Enter")
    assert browser.run("document.querySelector('figure:target')") is None


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
