"""--sampler, --sample_steps and --placement of the training scripts."""

from __future__ import annotations

import imageio.v2 as imageio
import torch
from tiny_folders import write_folder
from tiny_sample import loaded
from tiny_script import run_here

import check_log
import train_afhq


def test_pictures_are_drawn_by_the_sampler_that_is_asked_for(train, tmp_path, capsys):
    asked = "--n_epochs 1 --sampler sde-dpm++2m --sample_steps 3 --placement log-snr"
    assert train(tmp_path / "log", asked) == 0
    run_here(check_log, [str(tmp_path / "log"), "--resample", "all"])
    assert capsys.readouterr().out.count("draws the same images") == 2
    assert train(tmp_path / "plain", "--n_epochs 1") == 0
    grids = [
        imageio.imread(tmp_path / run / "generated_images_epoch1_guidance_weight0.png") for run in ("log", "plain")
    ]
    assert (grids[0] != grids[1]).any()
    weights = [loaded(tmp_path / run / "model_epoch1.pt").state_dict() for run in ("log", "plain")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())  # training is the same


def test_so_are_animal_faces(tmp_path, capsys):
    write_folder(tmp_path / "afhq", ["cat"], 20, size=8)
    words = (
        f"--data_dir {tmp_path} --device cpu --amp off --batch_size 8 --unet_dim 8 --unet_dim_mults 1 --image_size 8"
    )
    run = f"{words} --n_samples 4 --train_steps 2 --time_steps 6 --log_dir"
    assert run_here(train_afhq, f"{run} {tmp_path / 'log'} --sampler ddim --sample_steps 2".split()) == 0
    assert run_here(train_afhq, f"{run} {tmp_path / 'plain'}".split()) == 0
    grids = [imageio.imread(tmp_path / name / "samples_step2.png") for name in ("log", "plain")]
    assert (grids[0] != grids[1]).any()
    capsys.readouterr()
    run_here(check_log, [str(tmp_path / "log"), "--resample", "all"])
    assert "draws the same images" in capsys.readouterr().out
    assert run_here(train_afhq, f"{run} {tmp_path / 'more'} --sample_steps 7".split()) == 2
    assert "from 1 to T = 6, not 7" in capsys.readouterr().err and not (tmp_path / "more").exists()


def test_impossible_samplers_are_refused_before_training(train, tmp_path, capsys):
    for words, message in (
        ("--sample_steps 9", "n_steps must be a whole number from 1 to T = 8, not 9"),
        ("--placement quadratic", "--placement needs a number of steps"),
    ):
        assert train(tmp_path / "log", words) == 2 and message in capsys.readouterr().err
        assert not (tmp_path / "log").exists()
