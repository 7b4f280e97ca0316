"""train_mnist.py --network fc: the way past narrow layers, dequantised images, and a run that resumes to the bit."""

from __future__ import annotations

import json

import pytest
import torch

from datasets import image_set
from networks.fc import FcNetwork
from training import checkpoint, trainer

FC = "--network fc --num_hidden 8 --n_features 32 --amp off "  # 32: fc has none, and says so of any other


def weights(log_dir):
    return checkpoint.load(log_dir / "checkpoint.pt")["model"]


# ------------------------------------------------------------ dequantisation


def test_every_level_becomes_its_own_256th_of_the_range():
    levels = image_set.to_float(torch.arange(256, dtype=torch.uint8))
    for u in (0.0, 0.25, 0.999):
        expected = torch.tensor([(k + u) / 256 * 2 - 1 for k in range(256)])
        torch.testing.assert_close(image_set.dequantise(levels, torch.full((256,), u)), expected, rtol=0, atol=1e-6)


@pytest.fixture
def batches(monkeypatch):
    """What the training steps of a run saw: images, and the uniform numbers' generator state made them."""
    seen = []
    backward = trainer.Trainer.backward
    monkeypatch.setattr(
        trainer.Trainer, "backward", lambda self, y, *a: seen.append(y.clone()) or backward(self, y, *a)
    )
    return seen


@pytest.mark.parametrize(
    "words, continuous", [(FC, True), (FC + "--dequantise off", False), ("", False), ("--dequantise on", True)]
)
def test_what_is_trained_on(quick, tmp_path, batches, data_dir, words, continuous):
    assert quick(tmp_path / "log", f"{words} --n_epochs 1 --drop_prob 0") == 0
    levels = torch.cat([(y + 1) * (128 if continuous else 127.5) for y in batches])
    part = levels - levels.floor() if continuous else (levels - levels.round()).abs()
    if continuous:
        assert 0.45 < part.mean() < 0.55 and part.min() < 0.01 and part.max() > 0.99 and levels.max() < 256
        assert not torch.equal(batches[0], batches[1])
    else:
        assert part.max() < 1e-4
    config = json.loads((tmp_path / "log" / "config.json").read_text())
    assert config["dataset"]["dequantised"] is continuous


def test_validation_sees_the_8_bit_images(quick, tmp_path, monkeypatch):
    seen, losses = [], trainer.DDPM.training_losses

    def spying(self, y, c, t, noise):
        if torch.is_inference_mode_enabled():
            seen.append((y + 1) * 127.5)
        return losses(self, y, c, t, noise)

    monkeypatch.setattr(trainer.DDPM, "training_losses", spying)
    assert quick(tmp_path / "log", FC + "--n_epochs 1") == 0
    levels = torch.cat(seen)
    assert len(levels) == 20 and (levels - levels.round()).abs().max() < 1e-4


def test_a_resumed_run_is_the_run_that_was_never_stopped(quick, tmp_path, batches):
    assert quick(tmp_path / "whole", FC + "--n_epochs 2") == 0
    whole = list(batches)
    assert quick(tmp_path / "parts", FC + "--n_epochs 1") == 0
    assert quick(tmp_path / "parts", FC + "--n_epochs 2 --resume") == 0
    assert all(torch.equal(a, b) for a, b in zip(whole, batches[len(whole) :]))
    assert all(
        torch.equal(a, b) for a, b in zip(weights(tmp_path / "whole").values(), weights(tmp_path / "parts").values())
    )
    assert quick(tmp_path / "parts", FC + "--n_epochs 2 --resume --dequantise off") == 2


# ------------------------------------------------------------ the network that is trained


@pytest.mark.parametrize("kind, skip", [("residual", True), ("fourier", True), ("plain", False)])
def test_the_model_file_says_which_network_it_was(train, tmp_path, run, kind, skip):
    assert train(tmp_path / "log", f"{FC} --n_epochs 1 --fc_kind {kind}") == 0
    ddpm, content = checkpoint.load_model(tmp_path / "log" / "model_epoch1.pt", torch.device("cpu"))
    assert content["spec"]["network"] == "fc" and ddpm.nn_model.size == (1, 28, 28)
    assert (ddpm.nn_model.gain is not None) == skip
    assert (tmp_path / "log" / "generated_images_epoch1_guidance_weight1.png").stat().st_size > 1000
    assert run("--classes 3 --n_samples 1 --g_weight 2", file=tmp_path / "log" / "model_epoch1.pt") == 0


def test_the_way_past_the_layers_is_a_number_for_each_time():
    torch.manual_seed(0)
    net = FcNetwork(16, 4, 0, "plain", (1, 4, 4), skip=True)
    without = FcNetwork(16, 4, 0, "plain", (1, 4, 4))
    without.load_state_dict({name: w for name, w in net.state_dict().items() if not name.startswith("gain")})
    x, t = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(net(x, t), without(x, t))  # before training it is 0
    torch.nn.init.normal_(net.gain[2].weight)
    ratio = ((net(x, t) - without(x, t)) / x).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand(3, 16), rtol=1e-3, atol=1e-4)
    assert ratio[:, 0].unique().numel() == 3


def test_narrow_layers_cannot_pass_the_noise_on_and_beside_them_it_passes():
    """A prediction through k units explains at most k of D dimensions of white noise: error at least (D - k) / D."""
    torch.manual_seed(0)
    D, k, errors = 32, 4, []
    t = torch.ones(256, 1)
    for skip in (False, True):
        net = FcNetwork(D, k, skip=skip)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(200):
            noise = torch.randn(256, D)
            loss = (net(noise, t) - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(loss.item())
    assert errors[0] > 0.95 * (D - k) / D and errors[1] < 0.1
