"""The recipes of docs/adding_a_network.md and docs/adding_a_schedule.md, followed; training without classes, on a folder."""

from __future__ import annotations

import re
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from tiny_folders import write_folder
from tiny_mnist import write_mnist
from tiny_script import run_here

import check_log
import sample
import train_afhq
import train_folder
import train_mnist
from diffusion import schedules
from reporting.reader import Folder
from training import checkpoint, class_conditional

ROOT = Path(__file__).resolve().parents[1]
TINY = "--device cpu --n_timesteps 3 --batch_size 4 --n_epochs 1 --n_features 8 --g_weight 1 --n_samples 1"
STEPS = "--device cpu --n_timesteps 3 --batch_size 4 --train_steps 2 --unet_dim 8 --unet_dim_mults 1 --image_size 8"


def blocks(page: str) -> dict[str, str]:
    """A page's blocks of code by the file name in their first line."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def data(tmp_path):
    write_mnist(tmp_path / "data")
    return f"--data_dir {tmp_path / 'data'} --log_dir {tmp_path / 'log'}"


def test_the_recipe_of_context_vectors(tmp_path, capsys, monkeypatch):
    """docs/text.md as it stands, but for fewer images, epochs, samples and steps."""
    write_mnist(tmp_path / "data", n_train=70, n_test=20)
    monkeypatch.chdir(tmp_path)
    code = blocks("text.md")["prototypes.py"]
    for old, new in (
        ("(1e-3, 1e-3, 1e-3, 3e-4, 1e-4)", "(1e-3,)"),
        ("respaced(50)", "respaced(2)"),
        ("sample(40,", "sample(1,"),
        ("repeat(40)", "repeat(1)"),
        ('Path("data") / file_name(images)', "judge"),
    ):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    exec(code, {"__name__": "prototypes", "judge": tmp_path / "judge.pt"})
    assert len(re.findall(r"w = [01]: \d+\.\d% of 10 samples", capsys.readouterr().out)) == 2


def test_the_recipe_of_measured_attributes(tmp_path, monkeypatch):
    write_folder(tmp_path / "data" / "cats", ["cat"], 3)
    monkeypatch.chdir(tmp_path)
    code = blocks("text.md")["attributes.py"]
    exec(code.replace("*.jpg", "*.png"), {"__name__": "attributes"})
    head, *rows = (tmp_path / "data" / "cats" / "attributes.csv").read_text().splitlines()
    assert head == "file,bright,warm,detailed" and len(rows) == 3


def train(script, words):
    return run_here(script, words.split())


def test_the_recipe_of_a_network(tmp_path, data, monkeypatch):
    code = blocks("adding_a_network.md")
    module = {"__name__": "networks.tiny"}
    exec(code["networks/tiny.py"], module)
    tables = {
        "training/checkpoint.py": checkpoint.NETWORKS,
        "training/class_conditional.py": class_conditional.NETWORK_OPTIONS,
    }
    for name, table in tables.items():
        monkeypatch.setitem(table, "tiny", eval("{" + code[name] + "}", module)["tiny"])
    assert train(train_mnist, f"{TINY} {data} --network tiny") == 0
    ddpm, _ = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    assert isinstance(ddpm.nn_model, module["TinyNet"])
    assert train(sample, f"{tmp_path / 'log' / 'model_epoch1.pt'} --device cpu --n_samples 1") == 0


def test_the_recipe_of_a_schedule(tmp_path, data, monkeypatch):
    code = blocks("adding_a_schedule.md")
    module = {"torch": torch, "Tensor": torch.Tensor}
    exec(code["diffusion/schedules.py"], module)
    monkeypatch.setitem(schedules.SCHEDULES, "sigmoid", eval("{" + code["SCHEDULES"] + "}", module)["sigmoid"])
    assert train(train_mnist, f"{TINY} {data} --schedule sigmoid --beta2 0.5") == 0
    ddpm, _ = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    assert 0.49 < ddpm.sqrt_beta_t[3] ** 2 < 0.5 and 0 < ddpm.alpha_bar_t[3] < ddpm.alpha_bar_t[1] < 1


# ------------------------------------------------------------ beta1, beta2


def test_betas_of_the_command_line(tmp_path, data, capsys):
    assert train(train_mnist, f"{TINY} {data} --beta1 0.1 --beta2 0.4") == 0
    ddpm, _ = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    torch.testing.assert_close(ddpm.sqrt_beta_t[1:] ** 2, torch.tensor([0.1, 0.25, 0.4]))
    for more, words in (("--beta1 0.5", "beta1 < beta2"), ("--schedule cosine --beta1 0.01", "--beta1 does nothing")):
        assert train(train_mnist, f"{TINY} {data} {more}") == 2 and words in capsys.readouterr().err


# ------------------------------------------------------------ training without classes


@pytest.mark.parametrize("network", ["conditional_unet", "unet --dim_mults 1", "fc --num_hidden 8"])
def test_training_without_classes(tmp_path, data, network):
    words = TINY.replace("--g_weight 1 --n_samples 1", "--n_samples 8")
    words = words.replace("--n_features 8", "") if network.startswith("fc") else words
    assert train(train_mnist, f"{words} {data} --unconditional --network {network}") == 0
    written = {file.name for file in (tmp_path / "log").iterdir()}
    assert {"samples_epoch1.png", "animation_epoch1.gif", "inpainting.png", "forward_process.png"} <= written
    assert not any(name.startswith(("generated_images", "mixture")) for name in written)
    ddpm, content = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    assert ddpm.nn_model.n_classes == 0 and content["class_names"] == []
    assert imageio.imread(tmp_path / "log" / "samples_epoch1.png").std() > 10
    check = check_log.check_folder(Folder(tmp_path / "log"))
    assert check.settings.kind == "steps"
    assert not [finding for finding in check.findings if finding.level == "problem" and "missing" in finding.text]


def test_options_about_classes_are_refused_without_classes(data, capsys):
    assert train(train_mnist, f"{TINY} {data} --unconditional") == 2
    assert "--g_weight does nothing with --unconditional" in capsys.readouterr().err


# ------------------------------------------------------------ your own folder, and the animals' flags


def test_a_folder_of_ones_own(tmp_path):
    write_folder(tmp_path / "mine", ["a", "b", "c"], 4, size=8, splits=("train",))
    words = f"{TINY} --im_height 8 --data_dir {tmp_path / 'mine'} --log_dir {tmp_path / 'log'}"
    assert train(train_folder, words) == 0
    _, content = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    assert content["class_names"] == ["a", "b", "c"]
    assert train(train_folder, f"{words} --resume") == 0


def test_the_flags_of_the_animal_sheet(tmp_path, capsys):
    """--data_path .../train, --data_class all, and --visualize of what was trained."""
    write_folder(tmp_path / "afhq", ["cat", "dog"], 12, size=8)
    train_folder_, log_dir = tmp_path / "afhq" / "train", tmp_path / "log"
    assert train(train_afhq, f"{STEPS} --data_path {train_folder_} --data_class all --save_folder {log_dir}") == 0
    model = log_dir / "model_step2.pt"
    _, content = checkpoint.load_model(model, torch.device("cpu"))
    assert content["arguments"]["data_class"] is None and content["arguments"]["dataset"] == "folder"
    pictures = tmp_path / "pictures"
    words = f"--device cpu --data_path {train_folder_} --visualize --save_folder {pictures}"
    assert train(train_afhq, words) == 2 and "needs --load_path" in capsys.readouterr().err
    assert train(train_afhq, f"{words} --load_path {model} --sample_steps 2") == 2
    assert "leave out --sampler" in capsys.readouterr().err
    assert train(train_afhq, f"{words} --load_path {model}") == 0
    for name in ("forward_process.png", "backward_process.png"):
        assert (pictures / name).read_bytes() == (log_dir / name).read_bytes()
    (pictures / "config.json").write_text("{}")
    assert train(train_afhq, f"{words} --load_path {model}") == 2 and "another run" in capsys.readouterr().err
