"""The report is parsed, and held against the folder that it was made from."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from tiny_report import Page, write_class_run, write_step_run

import report
from common.files import write_csv, write_json
from reporting import reader
from reporting.page import write_report
from reporting.run import find_pictures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def class_run(tmp_path_factory) -> Path:
    return write_class_run(tmp_path_factory.mktemp("runs") / "log_mnist")


@pytest.fixture
def log_dir(class_run, tmp_path) -> Path:
    return Path(shutil.copytree(class_run, tmp_path / "log_mnist"))


def test_the_report_shows_every_picture_once_and_only_those(log_dir):
    (log_dir / ".hidden.png").write_bytes(b"x")
    (log_dir / "empty.png").write_bytes(b"")
    page = Page(write_report(log_dir))
    there = sorted(
        path.name for path in log_dir.iterdir() if path.suffix in (".png", ".gif") and path.stat().st_size > 1
    )
    assert sorted(source[2:] for source in page.sources()) == there
    assert len(there) == 13
    assert all(image["alt"] and int(image["width"]) > 0 and int(image["height"]) > 0 for image in page.images())


def test_epochs_are_stepped_through_and_weights_are_in_order(log_dir):
    page = Page(write_report(log_dir))
    radios = [attributes for tag, attributes in page.tags if attributes.get("type") == "radio"]
    grids, animations = ([radio for radio in radios if radio["name"] == name] for name in ("grid", "animation"))
    assert len(grids) == len(animations) == 2 and len({radio["id"] for radio in radios}) == 4
    assert ["checked" in radio for radio in grids] == ["checked" in radio for radio in animations] == [False, True]
    # Style rules show the block that follows the label of the chosen button: nothing may stand between them.
    blocks = re.findall(
        r'id="grid\d"[^>]*><label for="grid\d">(\d+)</label>\s*<div class="step">(.*?)</div></div>',
        page.source.replace("\n", ""),
    )
    assert [label for label, _ in blocks] == ["2", "10"]
    for epoch, block in blocks:
        names = re.findall(r'img src="./(.*?)"', block)
        assert names == [f"generated_images_epoch{epoch}_guidance_weight{w}.png" for w in ("0", "0.5", "2", "10")]
    assert "epochs 2, 10; printed is the one that was chosen" in page.text
    pictures = find_pictures(reader.Folder(log_dir))
    assert list(pictures.grids) == [("epoch", 2), ("epoch", 10)]
    assert list(pictures.grids["epoch", 10]) == ["0", "0.5", "2", "10"]
    assert pictures.animations["epoch", 2] == {"0": "animation_epoch2_guidance_weight0.gif"}
    assert pictures.loss == "loss.png" and pictures.others == ["50% off #1?.png", "samples.png"]


def test_a_gif_has_the_picture_that_it_ends_in_beside_it(log_dir):
    (log_dir / "samples.gif").write_bytes((log_dir / "animation_epoch2_guidance_weight0.gif").read_bytes())
    (log_dir / "foreign.gif").write_bytes((log_dir / "animation_epoch2_guidance_weight0.gif").read_bytes())
    (log_dir / "generated_images_epoch10_guidance_weight0.png").unlink()
    page = Page(write_report(log_dir))
    after = {}
    for (_, first), (tag, second) in zip(page.tags, page.tags[1:]):
        if first.get("class") == "moving":
            after[first["src"]] = (tag, second["class"], second.get("src"))
    assert after == {
        "./animation_epoch2_guidance_weight0.gif": ("img", "still", "./generated_images_epoch2_guidance_weight0.png"),
        "./animation_epoch10_guidance_weight0.gif": ("span", "still blank", None),
        "./samples.gif": ("img", "still", "./samples.png"),
        "./foreign.gif": ("span", "still blank", None),
    }
    printed = page.text.split("Not printed, as they end in pictures shown above: ")[1].split("\n")[0]
    assert printed == "animation_epoch2_guidance_weight0.gif, samples.gif"


def test_a_run_counted_in_steps(tmp_path):
    write_step_run(tmp_path / "log")
    page = Page(write_report(tmp_path / "log"))
    assert page.source.count('type="radio" name="grid"') == 2 and "Step 1000" in page.text
    assert "stopped at step 1000 of 2000" in page.text and "training loss, step 1000" in page.text
    assert "Guidance" not in page.text and "real test images" not in page.text
    body = page.source.split("</nav>")[1]
    order = [
        "Samples<",
        "From noise to image<",
        "Forward process",
        "Backward process",
        "Curves<",
        "Measurements<",
        "Distance",
    ]
    places = [body.index(f">{name}") for name in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "text, what",
    [
        ("inpainting.png", "the part of them that the model sees"),
        ("inpainting_2.png", "(2)"),
        ("bits_per_dim_epoch5.png", "(epoch5)"),
        ("mixture.png", "features of both classes"),
        ("guidance_sweep.png", "A row for each"),
        ("data.png", "Real training images"),
        ("vector_field.png", "arrows"),
        ("networks.png", "Networks compared"),
        ("comparison.png", "several models"),
        ("datasheet.png", "datasheet.png"),
    ],
)
def test_captions(tmp_path, text, what):
    (tmp_path / text).write_bytes(b"x")
    assert what.lower() in Page(write_report(tmp_path)).text.lower()


def test_points_of_the_plane_have_captions_of_their_own(tmp_path):
    (tmp_path / "samples.png").write_bytes(b"x")
    assert "true density" not in Page(write_report(tmp_path)).text
    write_json(tmp_path / "config.json", {"dataset": {"name": "chequerboard", "train_images": 500, "classes": []}})
    text = Page(write_report(tmp_path)).text
    assert "true density" in text and "500 training points" in text and "0 classes" not in text


def test_the_report_needs_nothing_but_the_folder(log_dir):
    page = Page(write_report(log_dir))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in page.source and "@import" not in page.source
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src * file:; style-src 'unsafe-inline'"]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if name in attributes:
                if attributes[name].startswith("#"):
                    assert f'id="{attributes[name][1:]}"' in page.source
                    continue
                assert attributes[name].startswith("./") and not set(attributes[name]) & set("#? ")
                assert (log_dir / unquote(attributes[name])).is_file()


def test_facts_and_settings(log_dir):
    page = Page(write_report(log_dir))
    for text in (
        "log_mnist",
        "finished 10 of 10 epochs",
        "mnist (60,000 training images, 10,000 validation images, 10 classes)",
        "cpu (2 threads)",
        "2026-11-22 06:00:00 UTC",
        "2,000",
        "5 min 00 s",
        "655,361",
        "python train_mnist.py --n_epochs 10\ncommit abc123",
        "torch 2.1",
        "loss near 0.03",
    ):
        assert text in page.text
    assert "1 of 3 arguments differ" in page.text and "<dt>g_weight</dt><dd>0 0.5</dd>" in page.source
    assert "validation loss" not in page.text  # there is none in metrics.csv
    changed = page.source.split('<tr class="changed">')[1:]
    assert (
        len(changed) == 1
        and "n_epochs" in changed[0].split("</tr>")[0]
        and re.findall(r"<td>(.*?)</td>", changed[0])[:2] == ["10", "20"]
    )


@pytest.mark.parametrize(
    "n_rows, n_epochs, state",
    [
        (3, 20, "stopped at epoch 3 of 20"),
        (20, 20, "finished 20 of 20 epochs"),
        (3, None, "3 epochs done"),
        (0, 20, "no fin"),
    ],
)
def test_state(tmp_path, n_rows, n_epochs, state):
    write_json(tmp_path / "config.json", {"arguments": {"n_epochs": n_epochs}})
    if n_rows:
        write_csv(tmp_path / "metrics.csv", [{"epoch": e + 1, "train_loss": 1.0} for e in range(n_rows)])
    assert state in Page(write_report(tmp_path)).text


def test_hostile_text_stays_text(log_dir):
    evil = "</style></title></script><script>alert('x')</script>\"'><img src=x onerror=y>\ud800&amp;"
    config = {key: evil for key in ("command", "commit", "device", "started", "seed", "expected", "n_parameters")}
    config["arguments"] = {evil: evil, "n_epochs": evil}
    config["defaults"] = {evil: 1}
    config["versions"] = {evil: evil}
    config["dataset"] = {"name": evil, "train_images": evil, "classes": [evil]}
    (log_dir / "config.json").write_text(json.dumps(config))
    (log_dir / "metrics.csv").write_text(f'epoch,"{evil[:20]}"\n1,{evil[:8]}\n')
    config["spec"] = {"network": evil}
    write_json(
        log_dir / "metrics.json",
        [{"model": evil[:-6], "results": [{evil[:9]: evil[9:20], "judge_accuracy": evil[:5]}]}],
    )
    (log_dir / "config.json").write_text(json.dumps(config))
    tag = "<u onerror=1>" if sys.platform != "win32" else ""
    for name in (f"{tag} & 'c'.png", f'{tag}"c".gif', f"model_{tag}.pt", f"samples_{tag}.png"):
        (log_dir / name).write_bytes((log_dir / "loss.png").read_bytes())
    page = Page(write_report(log_dir))
    assert not [1 for tag, attributes in page.tags if tag in ("script", "u") or "onerror" in attributes]
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert f"./{tag} & 'c'.png" in page.sources() and f'./{tag}"c".gif' in page.sources()
    assert f"{tag} & 'c'.png" in [image["alt"] for image in page.images()]
    assert "<u" not in page.source
    assert "<script>alert('x')</script>" in page.text


@pytest.mark.parametrize("name", ["config.json", "metrics.csv"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b"a,b\n1\n2,3,4,5\n", b"[" * 100_000]
)
def test_broken_files_are_named_on_the_page(log_dir, name, content):
    (log_dir / name).write_bytes(content)
    page = Page(write_report(log_dir))
    assert any(attributes.get("class") == "note" for _, attributes in page.tags)
    assert name in page.text
    assert len(page.images()) == 13


def test_broken_values_do_not_matter(log_dir):
    keys = ("arguments", "defaults", "versions", "dataset", "n_parameters", "expected", "command", "commit", "started")
    for value in (None, [], "text", 3, float("nan"), {"a": {"b": None}}, {"n_epochs": float("inf"), "classes": 3}):
        (log_dir / "config.json").write_text(json.dumps({key: value for key in keys}))
        Page(write_report(log_dir))
    (log_dir / "metrics.csv").write_text("epoch,train_loss,seconds\n1,nan,\n,2,3\n2,inf,x,too,many\n3\n")
    page = Page(write_report(log_dir))
    assert "1 of 4 rows" in page.text
    assert "3 epochs done" in page.text or "epoch 3" in page.text
    (log_dir / "loss.png").write_bytes(b"not a picture")
    assert "./loss.png" in Page(write_report(log_dir)).sources()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_what_is_no_plain_file_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "config.json")  # reading it would wait forever; here, until the alarm

    def too_long(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    (tmp_path / "metrics.csv").mkdir()
    (tmp_path / "metrics.json").write_text("[" + " " * 1000 + "]")
    monkeypatch.setitem(reader.MOST_BYTES, ".json", 1000)
    page = Page(write_report(tmp_path))
    signal.alarm(0), signal.signal(signal.SIGALRM, before)
    for text in (
        "config.json is a pipe or device",
        "metrics.csv is a folder",
        "metrics.json is larger than",
    ):
        assert text in page.text


def test_an_empty_folder_has_a_report_too(tmp_path):
    page = Page(write_report(tmp_path))
    assert page.images() == [] and tmp_path.name in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_report_depends_on_the_folder_only(log_dir):
    first = write_report(log_dir).read_bytes()
    assert write_report(log_dir).read_bytes() == first


def test_command_line(log_dir, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", str(log_dir)])
    assert report.main() == 0
    assert capsys.readouterr().out.strip() == str(log_dir / "report.html")
    call = [sys.executable, str(ROOT / "report.py"), str(log_dir / "nowhere")]
    (log_dir / "report.html").unlink()
    result = subprocess.run([*call, str(log_dir)], check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stdout.strip() == str(log_dir / "report.html")  # the others are written
    assert len(result.stderr.splitlines()) == 1 and "nowhere" in result.stderr


def test_measured_quality_and_continuations_are_shown(tmp_path):
    measured = {
        "model": "model_epoch6.pt",
        "weights": "moving average",
        "samples_per_weight": 300,
        "judge_accuracy_on_real_test_images": 0.995,
        "sampler": "ddpm, 400 steps",
        "results": [{"guidance_weight": 1, "judge_accuracy": 0.9733}],
    }
    write_json(tmp_path / "metrics.json", [measured])
    write_json(tmp_path / "config.json", {"resumed": [{"command": "python <again>", "from_step": 423}]})
    page = write_report(tmp_path).read_text()
    assert (
        "97.3% (n = 300)" in page
        and "w = 1, n = 300 (claimed)" in page
        and "Claimed: " in page
        and "99.50%" in page
        and "model_epoch6.pt" in page
    )
    assert "python &lt;again&gt;" in page and "from_step 423" in page
    for broken in ("{", "[1]", '{"a": 1}', '[{"results": 3}]', '[{"model": "a", "results": [3]}]', "[" * 100_000):
        (tmp_path / "metrics.json").write_text(broken)
        assert "metrics.json is" in write_report(tmp_path).read_text()


def table(page: str, heading: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the table below a heading, by column, and the text that follows it."""
    part = page.split(f"<h3>{heading}</h3>")[1].split("<h3>")[0].split("</section>")[0]
    names = re.findall(r'<th scope="col">(.*?)</th>', part)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in part.split("<tbody>")[1].split("<tr>")[1:]]
    assert all(len(row) == len(names) for row in rows)
    return [dict(zip(names, row)) for row in rows], part.split("</table>")[1]


def test_each_kind_of_measurement_has_a_table(tmp_path):
    compared = {"features": "128 features <of a judge>", "reference": "mnist, training images", "n_reference": 60000}
    figures = {**compared, "n_images": 50000, "frechet_distance": 12.3456, "precision": 0.8125, "recall": 0.75}
    about = {"model": "model_epoch6.pt", "weights": "moving average", "sampler": "ddpm, 400 steps, seed 0"}
    older = {"samples_per_weight": 100, "results": [{"guidance_weight": 0.5, "judge_accuracy": 0.87}]}
    bits = {"bits_per_dim": 1.23456, "standard_error": None, "decoder": 0.1, "steps": 1.13, "prior": 1e-5}
    real = {"images": "real test images", "judge_accuracy": 0.99, **figures}
    drawn = {"images": "samples", "guidance_weight": 1.0, **figures, "fid": 3.21}
    measurements = [
        {**about, "measured": "bits per dimension", "bound_of": "the first 6 test images", "results": [bits]},
        {**about, **older},
        {**about, "measured": "samples", "results": [real, drawn]},
        {**about, "weights": "raw", "completions": "the first 4 test images", "results": [{"method": "mean"}]},
        {**about, "completions": "the first 4 test images", "results": [{"method": "input"}]},
        {**about, "measured": "<i>", "results": [{"what": "of a later version"}]},
    ]
    write_json(tmp_path / "metrics.json", measurements)
    page = write_report(tmp_path).read_text()
    Page(tmp_path / "report.html")  # its tags fit each other

    (old, of_real, of_drawn), text = table(page, "Generated images")
    assert list(old)[:4] == ["model", "images", "n images", "guidance weight"]
    names = ("guidance weight", "judge accuracy", "frechet distance", "images")
    assert [old[name] for name in names] == ["0.5", "87.0% (n = 100)", "", ""]
    assert (of_real["images"], of_real["guidance weight"], of_real["fid"]) == ("real test images", "", "")
    shares = [of_drawn[name] for name in ("frechet distance", "precision", "recall")]
    assert shares == ["12.35", "81.2% (n = 50,000)", "75.0% (n = 50,000)"]
    assert (of_drawn["n images"], of_drawn["fid"]) == ("50,000", "3.21")
    assert old["n images"] == "100" and "Features: 128 features &lt;of a judge&gt;." in text and "features" not in old
    assert "Weights: moving average. Sampler: ddpm, 400 steps, seed 0." in text and "weights" not in old
    assert "Frechet distance: between the features" in text

    (row,), text = table(page, "Likelihood of test images")
    assert row == {
        "model": "model_epoch6.pt",
        "bits per dim": "1.235",
        "standard error": "",
        "decoder": "0.1",
        "steps": "1.13",
        "prior": "1e-05",
    }
    assert "Bound of: the first 6 test images" in text
    rows, text = table(page, "Completed images")
    assert [(row["method"], row["weights"]) for row in rows] == [("mean", "raw"), ("input", "moving average")]
    assert "Completions: the first 4 test images. Sampler: ddpm, 400 steps, seed 0." in text
    (row,), _ = table(page, "&lt;i&gt;")
    assert row["what"] == "of a later version"


def test_a_table_that_claims_millions_of_cells_is_cut(tmp_path):
    rows = [{"model": "m", "results": [{f"name {i} {j}": 1 for j in range(60)} for i in range(300)]}] * 3
    write_json(tmp_path / "metrics.json", rows)
    page = write_report(tmp_path).read_text()
    assert page.count("<td>") < 10_000 and "the first 200 rows and 40 columns are shown" in page
