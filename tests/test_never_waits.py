"""On a GPU a training step and a sampling step only enqueue work: nothing in them makes the CPU wait for the GPU.

Shown without a GPU, by tests/pretended_gpu.py: it also refuses to mix devices, as a GPU does.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from pretended_gpu import PretendedGPU

from datasets.image_set import ImageSet
from ddpm import DDPM
from diffusion.condition import Condition
from diffusion.inpainting import METHODS
from diffusion.samplers import SAMPLERS
from evaluation.classifier import classify, features_of
from networks import Conditional_UNet, unet
from networks.classifier import DigitClassifier
from training.losses import validation_loss
from training.settings import About, Plan, Settings
from training.trainer import Trainer


@pytest.fixture
def gpu(monkeypatch):
    """The pretended device. Generators of random numbers are those of the CPU, whatever their device, and no_grad stands
    in for inference mode, in which torch cannot pretend."""
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(
        torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
    )
    with PretendedGPU() as gpu:
        yield gpu


@pytest.fixture(params=["conditional_unet", "unet"])
def ddpm(request, gpu):
    torch.manual_seed(0)
    network = (
        Conditional_UNet.UNet(1, 8, 10, 8)
        if request.param == "conditional_unet"
        else unet.UNet(dim=8, in_channels=1, height=8, dim_mults=(1, 2), n_classes=10)
    )
    return DDPM(network, n_timesteps=4, device=gpu.device)


def images(n=16):
    return ImageSet((torch.rand(n, 1, 8, 8) * 255).to(torch.uint8), torch.arange(n) % 10, list("0123456789"), "mnist")


def test_the_pretended_device_finds_waits_and_mixtures(gpu):
    x = torch.randn(3, device=gpu.device)
    assert x.device == gpu.device and (x + 1).device == gpu.device and not gpu.waits
    for wait in (lambda: x.sum().item(), lambda: bool((x > 0).all()), lambda: x.cpu(), lambda: x[x > 0], x.nonzero):
        before = len(gpu.waits)
        wait()
        assert len(gpu.waits) > before
    with pytest.raises(RuntimeError, match="mixes devices"):
        x + torch.randn(3)


def test_a_training_step(gpu, ddpm, tmp_path):
    settings = Settings(tmp_path / "log", batch_size=4, l_rate=1e-3, flip=True, dequantise=True, clip_grad=1.0)
    data = images().to(gpu.device)
    trainer = Trainer(ddpm, data, data, settings, Plan("epoch", 1, 1), About({}, {}, {}, ""), draw=lambda trainer: None)
    trainer.train_step()
    gpu.waits.clear()
    trainer.train_step()
    assert gpu.waits == [] and gpu.operations > 1000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_with_guidance(gpu, ddpm, sampler):
    c = Condition(torch.eye(10, device=gpu.device), 1.0)
    x = torch.randn(10, 1, 8, 8, device=gpu.device)
    few = ddpm.respaced(3, sampler)
    gpu.waits.clear()
    y, _ = few.reverse_process(x, 3, c=c)
    assert y.device == gpu.device and gpu.waits == []


@pytest.mark.parametrize("method", METHODS)
def test_completing_waits_only_for_its_checks(gpu, ddpm, method):
    waits = []
    for n_resample in (1, 3):
        gpu.waits.clear()
        ddpm.complete_image(
            torch.zeros(2, 1, 8, 8), torch.ones(1, 1, 8, 8), method=method, n_resample=n_resample, jump_length=2
        )
        waits.append(list(gpu.waits))
    assert waits[0] == waits[1]  # the same in more steps: none of them is in the loop


def test_evaluating(gpu, ddpm):
    data = images().to(gpu.device)
    gpu.waits.clear()
    with torch.no_grad():
        validation_loss.__wrapped__(ddpm, data, True, 0, 4)
    assert len(gpu.waits) == 1  # its result


def test_the_classifier_waits_for_its_result_alone(gpu):
    classifier, data = DigitClassifier(1, 10, 8).eval().to(gpu.device), images()
    classes = classify.__wrapped__(classifier, data.images)
    assert classes.device == gpu.device and gpu.waits == []
    features_of.__wrapped__(classifier, data.images)
    assert len(gpu.waits) == 1
