"""--sampler, --sample_steps and --placement of the training scripts."""

from __future__ import annotations

import imageio.v2 as imageio
import torch
from tiny_sample import loaded
from tiny_script import run_here

import check_log


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


def test_impossible_samplers_are_refused_before_training(train, tmp_path, capsys):
    for words, message in (
        ("--sample_steps 9", "n_steps must be a whole number from 1 to T = 8, not 9"),
        ("--placement quadratic", "--placement needs a number of steps"),
    ):
        assert train(tmp_path / "log", words) == 2 and message in capsys.readouterr().err
        assert not (tmp_path / "log").exists()
