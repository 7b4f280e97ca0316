"""A real tiny run passes; each way of spoiling it fails with a line that says what is wrong, and harms nothing."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tiny_folders import write_folder
from tiny_hand_in import edit_json, edit_metrics, run_check

import check_log
import train_afhq
from common import console
from common.console import run_script
from common.files import write_json
from datasets import sources
from evaluation import model_checks
from figures.grids import plot_gif, plot_grid
from reporting import grids, hand_ins, reader, verdict
from training import checkpoint

REPOSITORY = Path(check_log.__file__).parent
GRID = "generated_images_epoch3_guidance_weight1.png"
GIF = "animation_epoch3_guidance_weight1.gif"
MODEL = "model_epoch3.pt"
NAMES = [str(k) for k in range(10)]
TITLE = "epoch 3, guidance weight 1"


@pytest.fixture
def folder(whole_run, tmp_path) -> Path:
    """A copy of a real run, to be spoiled. Its data are noise: so are its samples, and that is as it should be."""
    return Path(shutil.copytree(whole_run, tmp_path / "hand_in"))


def images(n: int = 10, size: int = 28, seed: int = 0) -> torch.Tensor:
    """Smooth blobs, each another one, as float [n, 1, size, size] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def noise(n: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_real_run_passes(folder, capsys):
    assert run_check(folder) == 0
    out = capsys.readouterr().out
    assert "hand_in: passed" in out and "problem" not in out
    for text in (
        f"{GRID}: 1 rows of generated and 1 rows of real images",
        f"{GIF}: 8 frames, from noise to the grid's images",
        "metrics.csv: 3 rows",
        "the run: finished 3 of 3 epochs",
        f"{MODEL}: ",
        "inpainting.png: ",
        "mixture.png: ",
    ):
        assert f"  ok       {text}" in out


def test_what_need_not_be_handed_in_is_a_note(folder, capsys):
    for name in ("checkpoint.pt", "train.log", "report.html", "model_epoch2.pt"):
        (folder / name).unlink()
    (folder / "notes.txt").write_text("my notes")
    assert run_check(folder, "--quiet") == 0
    out = capsys.readouterr().out
    for name in ("checkpoint.pt", "train.log", "report.html", "model_epoch2.pt", "notes.txt"):
        assert f"  note     {name}: " in out
    assert "  ok" not in out


def test_weights_that_a_run_began_with_are_a_note(folder, capsys):
    edit_json(folder / "config.json", lambda config: config["arguments"].update(load_path="log/other/model_epoch9.pt"))
    edit_metrics(folder / "metrics.csv", lambda rows: rows[0].update(train_loss="1e-3"))
    run_check(folder, "--quiet")
    out = capsys.readouterr().out
    assert "load_path log/other/model_epoch9.pt (not None)" in out
    assert "  note     metrics.csv: the training loss does not fall" in out  # it may have begun where it ends


# ------------------------------------------------------------------------------------------------ spoiled copies


class Evil:
    """A pickle of this runs a command when it is read without care."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def png_header(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, with a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def zip_bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1))
        archive.writestr("archive/data/0", bytes(200_000_000))


def drawn_page(path: Path, page: np.ndarray) -> None:
    imageio.imwrite(path, page)


def like(folder: Path, name: str) -> tuple[int, int]:
    """Height and width of a picture."""
    return imageio.imread(folder / name).shape[:2]


def other_network(folder: Path) -> None:
    content = checkpoint.load(folder / MODEL)
    content["spec"]["network_arguments"]["n_features"] = 16
    torch.manual_seed(0)
    content["model"] = checkpoint.build(content["spec"], torch.device("cpu")).nn_model.state_dict()
    checkpoint.save(folder / MODEL, content)


def cut_wires(folder: Path) -> None:
    content = checkpoint.load(folder / MODEL)
    content["model"].popitem()
    checkpoint.save(folder / MODEL, content)


def real_as_generated(folder: Path) -> None:
    real = images(seed=1)
    plot_grid(folder / GRID, real, real, NAMES, TITLE)


def frozen(folder: Path) -> None:
    """Frames that differ by one pixel outside of the images, so that the file does hold several."""
    page = imageio.mimread(folder / GIF)[-1]
    pages = []
    for k in range(9):
        pages.append(page.copy())
        pages[-1][0, k] = 0
    imageio.mimwrite(folder / GIF, pages, duration=100, loop=0)


def ends_elsewhere(folder: Path) -> None:
    frames = torch.stack([noise(seed=k) for k in range(9)])
    plot_gif(folder / GIF, frames, list(range(8, -1, -1)), 10, NAMES)


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: is missing"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{'a': 1}"), "config.json: is no JSON"),
    "config is deep": (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json: is no JSON"),
    "config is huge": (
        lambda f: os.truncate(f / "config.json", 2**40),
        "config.json: is larger than 4 MB, and was not read",
    ),
    "config tells nothing": (lambda f: (f / "config.json").write_text("[]"), "config.json: does not tell what the run"),
    "config asks for a lot": (
        lambda f: edit_json(f / "config.json", lambda c: c["arguments"].update(im_height=10**9)),
        "config.json: does not tell what the run was: im_height is 1000000000, not an integer from 1 to 1024",
    ),
    "classes that move the cursor": (
        lambda f: edit_json(f / "config.json", lambda c: c["dataset"].update(classes=["\x1b[2J"] * 10)),
        "config.json: does not tell what the run was: the classes of the data set are no list of names",
    ),
    "no grid": (lambda f: (f / GRID).unlink(), f"{GRID}: is missing"),
    "no gif": (lambda f: (f / GIF).unlink(), f"{GIF}: is missing"),
    "no model": (lambda f: (f / MODEL).unlink(), f"{MODEL}: is missing"),
    "no loss curve": (lambda f: (f / "loss.png").unlink(), "loss.png: is missing"),
    "no metrics": (lambda f: (f / "metrics.csv").unlink(), "metrics.csv: is missing"),
    "truncated grid": (lambda f: os.truncate(f / GRID, (f / GRID).stat().st_size // 2), f"{GRID}: cannot be decoded"),
    "empty grid": (lambda f: os.truncate(f / GRID, 0), f"{GRID}: is empty"),
    "grid is a text": (lambda f: (f / GRID).write_text("a picture, believe me"), f"{GRID}: is no PNG"),
    "blank grid": (
        lambda f: drawn_page(f / GRID, np.full(like(f, GRID), 255, np.uint8)),
        f"{GRID}: is blank: it shows nothing",
    ),
    "noise for a grid": (
        lambda f: drawn_page(f / GRID, np.random.default_rng(0).integers(0, 256, like(f, GRID), dtype=np.uint8)),
        f"{GRID}: shows nothing but noise",
    ),
    "black loss curve": (
        lambda f: drawn_page(f / "loss.png", np.zeros((484, 1210), np.uint8)),
        "loss.png: is blank: it shows nothing",
    ),
    "noise among real images": (
        lambda f: plot_grid(f / GRID, noise(), images(), NAMES, TITLE),
        f"{GRID}: its generated images are noise",
    ),
    "a row too many": (
        lambda f: plot_grid(f / GRID, noise(20), noise(seed=1), NAMES, TITLE),
        f"{GRID}: is another grid than the run asked for: rows (2, 1) instead of (1, 1)",
    ),
    "no real row": (
        lambda f: plot_grid(f / GRID, noise(), noise(20), NAMES, TITLE),
        f"{GRID}: is another grid than the run asked for: rows (1, 2) instead of (1, 1)",
    ),
    "too few classes": (
        lambda f: plot_grid(f / GRID, noise(7), noise(7), NAMES[:7], TITLE),
        f"{GRID}: is another grid than the run asked for: columns 7 instead of 10",
    ),
    "some images blank": (
        lambda f: plot_grid(f / GRID, torch.cat([images(8), -torch.ones(2, 1, 28, 28)]), images(seed=1), NAMES, TITLE),
        f"{GRID}: 2 of its 10 generated images are blank",
    ),
    "one image ten times": (
        lambda f: plot_grid(f / GRID, images(1).repeat(10, 1, 1, 1), images(seed=1), NAMES, TITLE),
        f"{GRID}: 9 of its 10 generated images are copies of others among them",
    ),
    "real images as generated": (real_as_generated, f"{GRID}: 10 of its 10 generated images are copies of the real"),
    "a grid of another weight": (
        lambda f: plot_grid(f / GRID, *read(f, GRID.replace("weight1", "weight0")), NAMES, TITLE),
        f"{GRID}: shows the same generated images as {GRID.replace('weight1', 'weight0')}",
    ),
    "gif of one frame": (
        lambda f: imageio.mimwrite(f / GIF, imageio.mimread(f / GIF)[-1:]),
        f"{GIF}: does not move: it has one frame",
    ),
    "frozen gif": (frozen, f"{GIF}: hardly moves: its first frame shows the images of its last"),
    "gif that ends elsewhere": (ends_elsewhere, f"{GIF}: ends in other images than its grid shows: 10 of 10 differ"),
    "truncated gif": (lambda f: os.truncate(f / GIF, 3000), f"{GIF}: "),
    "nan in metrics": (
        lambda f: edit_metrics(f / "metrics.csv", lambda rows: rows[1].update(train_loss="nan")),
        "metrics.csv: row 2 has a loss (or epoch) that is no finite number",
    ),
    "rising loss": (
        lambda f: edit_metrics(f / "metrics.csv", lambda rows: rows[2].update(train_loss="9.5")),
        "metrics.csv: the training loss does not fall",
    ),
    "missing row": (
        lambda f: edit_metrics(f / "metrics.csv", lambda rows: [rows[0], rows[2]]),
        "metrics.csv: epoch 2 is missing",
    ),
    "unfinished": (
        lambda f: edit_metrics(f / "metrics.csv", lambda rows: rows[:2]),
        "the run: not finished: 2 of 3 epochs",
    ),
    "epochs without end": (
        lambda f: edit_metrics(f / "metrics.csv", lambda rows: rows[2].update(epoch="1e300")),
        "metrics.csv: epoch 3 is missing",
    ),
    "another network": (other_network, f"{MODEL}: is of another network or schedule than config.json says"),
    "a weight is missing": (cut_wires, f"{MODEL}: has 41,"),
    "model of another epoch": (
        lambda f: shutil.copy(f / "model_epoch2.pt", f / MODEL),
        f"{MODEL}: holds epoch 2",
    ),
    "hostile pickle": (
        lambda f: torch.save({"format": 1, "model": Evil(f.parent / "trace")}, f / MODEL),
        f"{MODEL}: is damaged, or no model of this suite",
    ),
    "bare pickle": (
        lambda f: (f / MODEL).write_bytes(pickle.dumps(Evil(f.parent / "trace"))),
        f"{MODEL}: is damaged, or no model of this suite",
    ),
    "zip bomb": (lambda f: zip_bomb(f / MODEL), f"{MODEL}: is damaged"),
    "link out of the folder": (
        lambda f: (shutil.move(str(f / GRID), str(f.parent)), os.symlink(f.parent / GRID, f / GRID)),
        f"{GRID}: is a link, which was not followed or opened",
    ),
    "link to a device": (
        lambda f: ((f / "metrics.json").unlink(missing_ok=True), os.symlink("/dev/zero", f / "metrics.json")),
        "metrics.json: is a link",
    ),
    "pipe": (lambda f: ((f / "loss.png").unlink(), os.mkfifo(f / "loss.png")), "loss.png: is a pipe or device"),
    "folder for a grid": (lambda f: ((f / GRID).unlink(), (f / GRID).mkdir()), f"{GRID}: is a folder, but should"),
    "folder for the config": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "config.json: is a folder, but should",
    ),
    "huge picture": (
        lambda f: (f / GRID).write_bytes(png_header(100_000, 100_000)),
        f"{GRID}: claims 100,000 x 100,000 pixels, and was not decoded",
    ),
    "huge stranger": (
        lambda f: (f / "x\x1b[2J\n.png").write_bytes(png_header(2**31 - 1, 2**31 - 1)),
        "x\\x1b[2J\\n.png: claims 2,147,483,647 x 2,147,483,647 pixels",
    ),
    "metrics.json is no JSON": (lambda f: (f / "metrics.json").write_text("{"), "metrics.json: is no JSON"),
}


def read(folder: Path, name: str) -> list[np.ndarray]:
    """The generated and the real images of a grid of the tiny run, as floats in [-1, 1]."""
    groups = grids.read_images(*reader.Folder(folder).picture(name), grids.Grid((28, 28), tuple(NAMES), 10, (1, 1)))
    return [group[0, ..., :1].transpose(0, 3, 1, 2) / 127.5 - 1 for group in groups]


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.skipif(sys.platform == "win32", reason="has no links and pipes")
def test_a_spoiled_copy_fails_with_the_reason(folder, capsys, kind):
    spoil, reason = SPOILT[kind]
    spoil(folder)
    assert run_check(folder, "--quiet") == 1
    out = capsys.readouterr().out
    assert any(line.startswith(f"  problem  {reason}") for line in out.splitlines()), out
    assert "could not be checked" not in out and "\x1b" not in out
    assert not (folder.parent / "trace").exists()  # nothing was executed


# ------------------------------------------------------------------------------------------------ grids


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "n_columns, n_rows, n_real, size", [(10, 4, 4, 28), (3, 2, 5, 32), (10, 2, 2, 64), (1, 1, 1, 8)]
)
def test_a_grid_is_cut_into_the_images_it_was_drawn_from(tmp_path, channels, n_columns, n_rows, n_real, size):
    rng = np.random.default_rng(0)
    generated, real = (rng.integers(0, 256, (n * n_columns, channels, size, size)) for n in (n_rows, n_real))
    names = [f"class {k}" for k in range(n_columns)]
    plot_grid(tmp_path / "a.png", generated / 127.5 - 1, real / 127.5 - 1, names, "title")
    picture = reader.Folder(tmp_path).picture("a.png")
    grid = grids.Grid((size, size), tuple(names), n_columns, (n_rows, n_real))
    older = (picture.pixels, None), (picture.pixels[3:, 5:], None)  # without metadata, and as other fonts would have it
    for pixels, geometry in (picture, *older):
        for images, cut in zip((generated, real), grids.read_images(pixels, geometry, grid)):
            cut = cut.reshape(-1, size, size, 3).transpose(0, 3, 1, 2)[:, :channels]
            np.testing.assert_array_equal(cut, images)
    more = grid._replace(rows=(n_rows + 1, n_real))
    assert "is another grid than the run asked for: rows" in grids.read_images(*picture, more)
    assert grids.read_images(picture.pixels, None, more) == grids.MISPLACED


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, "3", '{"size": 5}'])
def test_damaged_metadata_are_named(text):
    grid = grids.Grid((28, 28), (), 10, (1,))
    assert "damaged metadata" in grids.read_images(np.zeros((50, 300, 3), np.uint8), text, grid)


@pytest.mark.parametrize(
    "change", [{"tops": [10**4]}, {"tops": [10**30]}, {"scale": 0}, {"left": -1}, {"gap": 0.5}, {"tops": []}]
)
def test_metadata_that_lie_are_refused(change):
    truth = {"size": [28, 28], "columns": 2, "rows": [1], "scale": 1, "gap": 3, "left": 5, "tops": [5]}
    grid, page = grids.Grid((28, 28), (), 2, (1,)), np.full((50, 80, 3), 255, np.uint8)
    assert isinstance(grids.read_images(page, json.dumps(truth), grid), list)
    assert isinstance(grids.read_images(page, json.dumps({**truth, **change}), grid), str)


def test_a_colour_animation_ends_in_its_grid(tmp_path):
    frames = torch.stack([torch.rand(10, 3, 32, 32) * 2 - 1, images(30, 32).reshape(10, 3, 32, 32)])
    plot_gif(tmp_path / "a.gif", frames, [400, 0], 10, NAMES)
    animation = reader.Folder(tmp_path).animation("a.gif")
    grid = grids.Grid((32, 32), tuple(NAMES), 10, (1,))
    exact = ((frames[1] + 1) * 127.5).round().byte().permute(0, 2, 3, 1)[None].numpy()
    assert animation.geometry is not None
    for geometry in (animation.geometry, None):
        (last,) = grids.read_images(animation.last, geometry, grid, animated=True)
        assert grids.ends_elsewhere(last, exact) is None
        assert "10 of 10" in grids.ends_elsewhere(last, exact[:, ::-1])


# ------------------------------------------------------------------------------------------------ drawing again


def test_resample_draws_the_grids_again(folder, capsys):
    assert run_check(folder, "--resample", "all") == 0
    out = capsys.readouterr().out
    for w in (0, 1):
        assert f"{GRID.replace('weight1', f'weight{w}')}: {MODEL} draws the same images" in out


def test_resample_finds_a_model_that_drew_other_grids(folder, capsys):
    content = checkpoint.load(folder / MODEL)
    torch.manual_seed(5)
    content["model"] = checkpoint.build(content["spec"], torch.device("cpu")).nn_model.state_dict()
    checkpoint.save(folder / MODEL, content)
    (folder / "checkpoint.pt").unlink()
    assert run_check(folder) == 0  # nothing else betrays it
    assert run_check(folder, "--resample", "one") == 1
    assert f"{MODEL} draws other images" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ other kinds of runs


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """The log folder of a tiny train_afhq.py."""
    data = write_folder(tmp_path_factory.mktemp("data") / "afhq", ["cat"], 12, size=20).parent
    log_dir = tmp_path_factory.mktemp("animals") / "log"
    words = "--unet_dim 8 --unet_dim_mults 1 2 --time_steps 10 --batch_size 4 --n_samples 5 --image_size 16"
    words += f" --train_steps 4 --save_and_sample_every 2 --data_path {data} --save_folder {log_dir} --device cpu"
    with mock.patch.object(sys, "argv", ["train_afhq.py", *words.split()]):
        run_script(train_afhq.main)
    return log_dir


def test_a_run_counted_in_steps(animals, tmp_path, capsys):
    folder = Path(shutil.copytree(animals, tmp_path / "hand_in"))
    # Four steps learn nothing: the samples are noise, and the check says so; with others in their place all is well.
    assert run_check(folder, "--quiet") == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  problem")]
    noises = [f"  problem  samples_step{s}.png: its generated images are noise" for s in (2, 4)]
    assert [line for line in problems if "metrics.csv" not in line] == noises
    edit_metrics(folder / "metrics.csv", lambda rows: rows[0].update(train_loss="1.5"))
    for name in ("train.log", "checkpoint.pt"):  # they have the true losses
        (folder / name).unlink()
    frames = torch.cat([torch.rand(1, 5, 3, 16, 16) * 2 - 1, images(15, 16).reshape(1, 5, 3, 16, 16)])
    plot_grid(folder / "samples_step2.png", images(15, 16, 1).reshape(5, 3, 16, 16), title="step 2, samples")
    plot_grid(folder / "samples_step4.png", frames[1], title="step 4, samples")
    plot_gif(folder / "animation_step4.gif", frames, [10, 0], 3)
    assert run_check(folder) == 0
    out = capsys.readouterr().out
    assert "samples_step4.png: 2 rows of generated" in out and "finished 4 of 4 steps" in out
    assert run_check(folder, "--resample") == 1
    assert "model_step4.pt draws other images" in capsys.readouterr().out
    shutil.copy(animals / "samples_step4.png", folder)  # what the model did draw
    assert run_check(folder, "--resample") == 1
    assert "samples_step4.png: model_step4.pt draws the same images" in capsys.readouterr().out
    (folder / "forward_process.png").unlink()
    assert run_check(folder) == 1 and "forward_process.png: is missing" in capsys.readouterr().out


def test_a_run_on_points(tmp_path, capsys):
    arguments = {"dataset": "chequerboard", "train_steps": 20, "save_and_sample_every": 10, "n_timesteps": 5, "seed": 0}
    config = {"arguments": arguments, "dataset": {"name": "chequerboard"}}
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "metrics.json", [])
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss\n0,10,1.0\n0,20,0.5\n")
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "model_step20.pt", {"format": 1})
    for name in ("samples", "forward_process", "backward_process", "vector_field", "loss"):
        plot_grid(tmp_path / f"{name}.png", images())
    assert run_check(tmp_path) == 1  # only by its model, which is none
    out = capsys.readouterr().out
    assert out.count("  problem") == 1 and "model_step20.pt: is damaged" in out and "finished 20 of 20 steps" in out
    for name in ("vector_field.png", "metrics.json"):
        (tmp_path / name).unlink()
        assert run_check(tmp_path) == 1
        assert f"  problem  {name}: is missing" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ judging


class Judge(torch.nn.Module):
    """Sees class k + shift in the k-th image of every row."""

    mirrors = False

    def __init__(self, shift: int):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(float(shift)))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        assert y.shape[1:] == (1, 28, 28) and -1 <= y.min() < y.max() <= 1
        return torch.nn.functional.one_hot((torch.arange(len(y)) + int(self.shift)) % 10, 10).float()


@pytest.mark.parametrize("shift, status, text", [(0, 0, "100% of 10 images"), (1, 1, "0% of 10 images")])
def test_judge(folder, data_dir, capsys, shift, status, text):
    test_set = sources.load("mnist", data_dir, False)
    with mock.patch.object(model_checks.Classifiers, "of", return_value=(Judge(shift), 0.99, test_set)):
        assert run_check(folder, "--judge") == status
    out = capsys.readouterr().out
    assert f"  {'problem ' if status else 'ok      '} {GRID}: {text} show the class asked for" in out


def test_without_data_there_is_no_judge_but_a_note(folder, tmp_path, capsys):
    with mock.patch.object(sources, "load", side_effect=console.DataError("no data here")):
        assert run_check(folder, "--judge", "--judge_dir", tmp_path) == 0
    assert "  note     judge: cannot judge: no data here" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ the call


def test_many_folders_in_one_table(folder, tmp_path, capsys):
    bad = Path(shutil.copytree(folder, tmp_path / "=1+1"))
    for name in (GRID, "train.log", "checkpoint.pt"):
        (bad / name).unlink()
    edit_metrics(bad / "metrics.csv", lambda rows: [row.update(seconds=f"1{row['seconds']}") for row in rows] and rows)
    (tmp_path / "a_file").write_text("no folder")
    judges = tmp_path / "judges"
    judges.mkdir()
    (judges / "judge_mnist_10x28x1.pt").write_bytes(b"x")
    (tmp_path / "index.html").write_text("the page over all folders")
    folders = (tmp_path / "a_file", bad, tmp_path / "index.html", judges, folder)
    assert run_check(*folders, "--csv", tmp_path / "marks.csv") == 1
    out, err = capsys.readouterr()
    assert "1 of 3 hand-ins pass" in out and "judges: no hand-in" in err and "index.html: no hand-in" in err
    rows = list(csv.DictReader(open(tmp_path / "marks.csv", encoding="utf-8")))
    assert [row["verdict"] for row in rows] == ["failed", "failed", "passed"]
    assert rows[1]["problems"] == f"{GRID}: is missing" and rows[2]["of"] == "3 epochs" and rows[2]["done"] == "3"
    assert check_log.as_csv([{"folder": "=1+1"}]) == "folder\n'=1+1\n"
    assert run_check(folder, "--csv", "-") == 0
    out = capsys.readouterr().out
    assert out.startswith("folder,verdict,") and len(out.splitlines()) == 2


def test_a_failure_of_the_check_itself_hides_no_other_folder(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "other")
    with mock.patch.object(verdict, "check_metrics", side_effect=[MemoryError("too much"), None]):
        assert run_check(folder, other) == 1
    out = capsys.readouterr().out
    assert "could not be checked to the end (MemoryError: too much)" in out and f"{other}: " in out


def test_a_folder_of_too_many_files_is_not_read_to_its_end(folder, capsys, monkeypatch):
    monkeypatch.setattr(hand_ins, "MOST_ENTRIES", 5)
    assert run_check(folder) == 1
    assert "hand_in: holds more than 5 files" in capsys.readouterr().out


def test_a_wrong_call_is_one_line(tmp_path, capsys):
    assert run_check(tmp_path / "nowhere") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run_check(tmp_path, "--resample", "some") == 2


@pytest.mark.parametrize("folder", sorted(path.name for path in (REPOSITORY / "log").glob("log_*")))
def test_the_reference_folders_pass(folder, capsys):
    status = run_check(REPOSITORY / "log" / folder, "--quiet")
    assert status == 0, capsys.readouterr().out
