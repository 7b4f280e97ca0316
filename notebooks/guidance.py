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
# # Classifier-free guidance, step by step
#
# The parts of the network, the schedule, one training step, one sample, and what the guidance weight does. The model is
# `log/log_mnist/model_epoch20.pt` of the suite, so nothing is trained here. With `QUICK` (the default on a CPU) samples take
# 20 of the 400 steps: under a minute on one CPU core. A T4 was not tried.

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

from common.machine import pick_device
from ddpm import DDPM
from diffusion.condition import Condition
from figures.curves import new_figure, plain_axes, write_figure
from figures.grids import plot_groups
from training.checkpoint import load_model

device, folder = pick_device("auto"), Path(tempfile.mkdtemp())
QUICK = os.environ.get("QUICK", "1" if device.type == "cpu" else "0") == "1"
full, _ = load_model(Path("log/log_mnist/model_epoch20.pt"), device)
ddpm = full.respaced(20) if QUICK else full
print(f"on {device.type}, {ddpm.n_timesteps} of {full.n_timesteps} steps")


def show(groups, heads=None):
    """Rows of images, each group [N, 1, 28, 28] with its label to the left."""
    display(plot_groups(folder / "shown.png", groups, heads, None, len(groups[0][1])))


def seeded(seed=0):
    return torch.Generator(device).manual_seed(seed)


# %% [markdown]
# ## The parts of the network and their shapes
#
# Two levels down, a vector, two levels up. Time and class enter on the way up: the class multiplies, the time is added.

# %%
shapes = []
hooks = [
    part.register_forward_hook(lambda module, inputs, output, name=name: shapes.append((name, tuple(output.shape))))
    for name, part in full.nn_model.named_children()
]
with torch.no_grad():
    full.nn_model(torch.zeros(1, 1, 28, 28, device=device), torch.ones(1, 1, 1, 1, device=device))
for hook in hooks:
    hook.remove()
for name, shape in shapes:
    print(f"{name:18} {shape}")

# %% [markdown]
# ## Schedules
#
# $\bar\alpha_t$ is the share of the image's variance that is left at time t. It should end near 0. With the linear schedule
# and T = 400 it ends at 0.0175.

# %%
figure = new_figure(6, 3.2)
axes = figure.subplots()
for schedule in ("linear", "cosine"):
    tables = DDPM.ddpm_schedule(1e-4, 0.02, 400, schedule)
    axes.plot(tables["alpha_bar_t"], label=f"{schedule}, ends at {tables['alpha_bar_t'][-1]:.4f}")
axes.set_xlabel("t")
axes.set_title(r"$\bar\alpha_t$", fontsize=11)
axes.legend(frameon=False)
plain_axes(axes)
figure.tight_layout()
write_figure(folder / "shown.png", figure)

# %% [markdown]
# ## Algorithm 1 on one image
#
# A time, a noise, the noisy image, the network's guess of the noise, and its error: the loss. The second row is the image that
# follows from the guess. It is sharp at small t and rough at large ones, where hardly more than the class is known.

# %%
x_0, _ = ddpm.sample(1, classes=[3], g_weight=3.0, generator=seeded(), record=False)
c = torch.eye(10, device=device)[[3]]
times = [20, 100, 200, 300, 400]
x_0s = x_0.repeat(len(times), 1, 1, 1)
t = torch.tensor(times, device=device)
noise = torch.randn(x_0s.shape, device=device, generator=seeded(1))
with torch.no_grad():
    x_t = full.q_sample(x_0s, t, noise)
    eps = full.eval().eps(x_t, t, c.repeat(len(times), 1))
    losses = (eps - noise).square().flatten(1).mean(dim=1)
show([("x_t", x_t.cpu()), ("x_0 from eps", full.predict_x0(x_t, t, eps).cpu())], [f"t = {time}" for time in times])
print("loss at each t:", [round(loss, 3) for loss in losses.tolist()])

# %% [markdown]
# ## Algorithm 2 step by step
#
# One reverse step after the other, with guidance weight 1. The second row is the x_0 that the network expects at that moment.

# %%
x, steps, expected, shown = torch.randn(1, 1, 28, 28, device=device, generator=seeded(2)), [], [], []
condition = Condition(torch.eye(10, device=device)[[8]], 1.0)
with torch.no_grad():
    fast = ddpm.fast_copy()
    for t in range(ddpm.n_timesteps, 0, -1):
        if t == ddpm.n_timesteps or t % (ddpm.n_timesteps // 5) == 0:
            shown.append(t)
            steps.append(x)
            expected.append(fast.predict_x0(x, t, fast.eps(x, t, condition)))
        x = fast.p_sample(x, t, condition, generator=seeded(t))
steps, expected = torch.cat([*steps, x]), torch.cat([*expected, x])
show([("x_t", steps.cpu()), ("expected x_0", expected.cpu())], [f"t = {t}" for t in [*shown, 0]])

# %% [markdown]
# ## The guidance weight
#
# All rows begin with the same noise. With w = 0 some digits cannot be read; with w = 1 nearly all can; with w = 3 they are
# alike: guidance buys certainty with variety.

# %%
rows = [(f"w = {w}", ddpm.sample(1, g_weight=float(w), generator=seeded(3), record=False)[0].cpu()) for w in (0, 1, 3)]
show(rows, [str(k) for k in range(10)])

# %% [markdown]
# ## Mixtures of classes
#
# Half a 3 and half an 8, asked for in two ways: one class vector with both, or the sum of both classes' scores. The columns
# differ by their noise.

# %%
half = torch.zeros(8, 10, device=device)
half[:, [3, 8]] = 0.5
mixtures = [
    (way, ddpm.sample(1, None, 10, 1.0, half, mixture=way, generator=seeded(4), record=False)[0].cpu())
    for way in ("vector", "scores")
]
show(mixtures)
