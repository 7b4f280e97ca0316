# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Points of the plane, and likelihood
#
# The objective, sampling, two Gaussians, the chequerboard, better networks, and the bound for an image model. With `QUICK` (the
# default on a CPU) trainings are short: under two minutes on one CPU core. Without it the settings are the sheet's, ten million
# points and T = 1000, which takes many times as long. A T4 was not tried.

# %%
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # the address of the suite, if this notebook stands alone (Colab, Kaggle)
found = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "ddpm.py").exists()]
if not found:
    assert REPOSITORY, "put this notebook into the suite's folder, or say above where to clone the suite from"
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "suite"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r", "suite/requirements.txt"], check=True)
    found = [Path("suite").resolve()]
os.chdir(found[0])
sys.path.insert(0, str(found[0]))

import tempfile

import torch
from IPython.display import display

import ToyData
from common.machine import pick_device
from datasets.points import DISTRIBUTIONS, energy_distance
from figures.curves import new_figure, write_figure
from figures.points import animate_samples, plot_samples
from sheets.likelihood import DDPM, FcNetwork, train

device = pick_device("auto")
QUICK = os.environ.get("QUICK", "1" if device.type == "cpu" else "0") == "1"
N_POINTS, T, EPOCHS = (400_000, 200, 2) if QUICK else (10_000_000, 1000, 1)
print(f"on {device.type}: {N_POINTS:,} points, T = {T}, epochs: {EPOCHS}")
folder, _ = Path(tempfile.mkdtemp()), torch.manual_seed(0)

# %% [markdown]
# ## The objective and sampling
#
# `negative_elbo` is one number for each point: the squared error of the predicted noise, summed over both coordinates. A network
# that predicts 0 has 2 on average. `sample(shape)` takes all T reverse steps.

# %%
model = DDPM(FcNetwork(2, 64), T=T)
x = torch.rand(1000, 2) * 2 - 1
print("negative_elbo:", tuple(model.negative_elbo(x).shape), "mean", round(model.loss(x).item(), 2))
print("sample:", tuple(model.sample((5, 2)).shape))

# %% [markdown]
# ## Two Gaussians and the chequerboard
#
# The data lie in [0, 1] and are mapped to [-1, 1]. The loss falls fast and then hardly at all, because most of the noise of a
# point cannot be known: look at the samples over the true density.


# %%
def trained(toy, network, lr=1e-3):
    loader = torch.utils.data.DataLoader((toy().sample((N_POINTS,)) - 0.5) * 2, batch_size=2000, shuffle=True)
    model = DDPM(network, T=T).to(device)
    train(model, torch.optim.Adam(model.parameters(), lr=lr), loader, EPOCHS, device)
    return model


models = {
    name: trained(toy, FcNetwork(2, 64))
    for name, toy in (("tg", ToyData.TwoGaussians()), ("cb", ToyData.Chequerboard()))
}
for name, model in models.items():
    samples = model.sample((5000, 2)).cpu()
    distance = energy_distance(samples, DISTRIBUTIONS[name].sample(5000))
    panel = (f"{name}: energy distance {distance:.1e}", samples)
    display(plot_samples(folder / "a.png", DISTRIBUTIONS[name], [panel]))

# %% [markdown]
# ## The reverse process
#
# From noise to data, as an animation of both models, and the chequerboard in five moments. Most happens late: at half of the time
# the points are still nearly a round Gaussian. So the animation shows more of the last steps.

# %%
marks = [T, T // 2, T // 4, T // 20, 0]
times = sorted({*marks, *(round(T * (k / 20) ** 2) for k in range(21))}, reverse=True)
paths = [
    (name, model.ddpm.reverse_process(torch.randn(2000, 2, device=device), T, times)[1])
    for name, model in models.items()
]
display(animate_samples(folder / "reverse.gif", paths, times))

figure = new_figure(12, 2.8)
for axes, t in zip(figure.subplots(1, len(marks)), marks):
    axes.scatter(*dict(paths)["cb"][times.index(t)].numpy().T, s=2, alpha=0.4, linewidths=0)
    axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", title=f"t = {t}")
write_figure(folder / "reverse.png", figure)

# %% [markdown]
# ## A better network
#
# Residual blocks, and sines and cosines of the coordinates, which let a network draw sharp edges. The share on permitted squares
# tells how sharp.

# %%
board, panels = DISTRIBUTIONS["cb"], []
for kind in ("plain", "residual", "fourier"):
    model = models["cb"] if kind == "plain" else trained(ToyData.Chequerboard(), FcNetwork(2, 64, kind=kind), lr=2e-3)
    samples = model.sample((5000, 2)).cpu()
    panels.append((f"{kind}: {board.permitted(samples).double().mean():.1%} on permitted squares", samples))
plot_samples(folder / "b.png", board, panels)

# %% [markdown]
# ## MNIST: fully connected against a U-Net
#
# Trained by `python train_mnist.py --network fc` and `python train_mnist.py`. Above the U-Net, below the fully connected network,
# from the same noise. The full bound of both is in `bits_per_dim_*.png` of their log folders.

# %%
from figures.grids import plot_groups
from training.checkpoint import load_model

groups = []
for name, file in (("U-Net", "log_mnist/model_epoch20.pt"), ("fc", "log_mnist_fc/model_epoch10.pt")):
    images, _ = load_model(Path("log") / file, device)
    few = images.respaced(20) if QUICK else images
    generator = torch.Generator(device).manual_seed(0)
    groups.append((name, few.sample(2, g_weight=1.0, generator=generator, record=False)[0].cpu()))
plot_groups(folder / "c.png", groups, [str(k) for k in range(10)])
