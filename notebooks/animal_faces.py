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
# # Faces of animals
#
# The cosine schedule, the L1 loss, samples and their distance to the data over the steps, and both processes. With `QUICK` (the
# default on a CPU) a small network sees images of 16 x 16 for some hundred steps: under two minutes on one CPU core. Without it
# the settings are the sheet's, 10,000 steps at 32 x 32. A T4 was not tried.
#
# The images are the cats of AFHQ in `data/afhq/train/cat`, which you have to put there yourself (`python train_afhq.py --help`). Where
# they are not, **coloured digits take their place**: everything runs, but nothing below then says anything about cats.

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
import torch.nn.functional as F
from IPython.display import Image, display

from common.console import DataError
from common.machine import pick_device
from datasets.image_set import ImageSet, to_float
from datasets.rendered_digits import render_digits
from datasets.sources import load
from ddpm import DDPM
from evaluation.metrics import frechet_distance, moments
from evaluation.reference import Reference, draw_samples
from figures.curves import new_figure, plain_axes, plot_distances
from figures.grids import plot_grid
from figures.images import process_figures
from networks.unet import UNet
from sheets.animals import Diffusion
from training.ema import MovingAverage

device, folder, _ = pick_device("auto"), Path(tempfile.mkdtemp()), torch.manual_seed(0)
QUICK = os.environ.get("QUICK", "1" if device.type == "cpu" else "0") == "1"
SIZE, DIM, MULTS, STEPS, EVERY, N_FID = (
    (16, 8, (1, 2, 4), 240, 80, 64) if QUICK else (32, 16, (1, 2, 4, 8), 10_000, 1000, 1000)
)
T, BATCH, RATE = 50, 32, 2e-3 if QUICK else 1e-3
print(f"on {device.type}, {'QUICK' if QUICK else 'the whole sheet'}")


def shown(path):
    display(Image(data=Path(path).read_bytes()))


# %% [markdown]
# ## The data


# %%
def coloured_digits(n, seed):
    """Digits drawn from fonts, each in one colour on another."""
    images, _ = render_digits(n, seed)
    ink = F.interpolate(to_float(images), (SIZE, SIZE), mode="bilinear", antialias=True) / 2 + 0.5
    low, high = torch.rand(2, n, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    pixels = (ink * high + (1 - ink) * low) * 255
    return ImageSet(pixels.round().to(torch.uint8), torch.zeros(n, dtype=torch.long), ["digit"], "coloured digits")


try:
    which = {"n_classes": None, "data_class": "cat", "im_height": SIZE, "im_channels": 3}
    train_set, test_set = (load("afhq", "data", split, **which).to(device) for split in (True, False))
except DataError:
    print("There is no AFHQ in data/afhq: coloured digits take its place.")
    train_set, test_set = (coloured_digits(n, seed).to(device) for n, seed in ((1000, 0), (200, 1)))
plot_grid(folder / "data.png", to_float(train_set.images[:20]).cpu(), n_columns=10, title=f"{len(train_set):,} images")
shown(folder / "data.png")

# %% [markdown]
# ## The cosine schedule
#
# With few steps (T = 50) the linear schedule of T = 400 or 1000 would leave much of the image at the end: its curve does not come near
# 0. The cosine schedule falls evenly and ends at 0 for every T.

# %%
figure = new_figure(6, 3.2)
axes = figure.subplots()
for schedule in ("linear", "cosine"):
    alpha_bar = DDPM.ddpm_schedule(1e-4, 0.02, T, schedule)["alpha_bar_t"]
    axes.plot(alpha_bar, label=f"{schedule}, ends at {alpha_bar[-1]:.2g}")
axes.set_xlabel("t")
axes.set_title(r"$\bar\alpha_t$", fontsize=11)
axes.legend(frameon=False)
plain_axes(axes)
figure.tight_layout()
figure.savefig(folder / "schedule.png")
shown(folder / "schedule.png")

# %% [markdown]
# ## Training with the L1 loss, and the distance of the samples
#
# `Diffusion` has the sheet's names. Samples are drawn from a moving average of the weights. Every so many steps they are compared with
# the training images: by the FID if clean-fid is installed, and by the Frechet distance in the features of a small classifier. With
# `QUICK` the features are the colours of 4 x 4 squares, which says whether colours and coarse shapes are right, and no more. The
# loss soon hardly falls, while the distance goes on falling: that is why one looks at it. 0 is out of reach: so many other real
# images have the distance in the last line.

# %%
diffusion = Diffusion(UNet(3, SIZE, dim=DIM, dim_mults=MULTS), image_size=SIZE, timesteps=T).to(device)
optim = torch.optim.Adam(diffusion.parameters(), RATE)
average = MovingAverage(diffusion.ddpm, decay=0.995)
reference = None if QUICK else Reference(train_set, test_set, folder, Path("data"))


def coarse(images):
    return F.adaptive_avg_pool2d(to_float(images), 4).flatten(1).cpu()


def distance(images, what="samples"):
    """How far images, uint8 [N, 3, SIZE, SIZE], are from the training images: part of a row for `plot_distances`."""
    if reference:
        return reference.compare(what, images, None)
    value = frechet_distance(*moments(coarse(train_set.images)), *moments(coarse(images)))
    print(f"{len(images)} {what}: Frechet distance {value:.3f}")
    return {"frechet_distance": value, "n_images": len(images), "features": "colours of 4 x 4 squares"}


rows, total = [], 0.0
for step in range(1, STEPS + 1):
    x, _ = train_set.batch(torch.randint(len(train_set), (BATCH,)))
    loss = diffusion(x, torch.randn_like(x))
    optim.zero_grad()
    loss.backward()
    optim.step()
    average.update(step - 1)
    total += loss.item()
    if step % EVERY == 0:
        print(f"step {step}/{STEPS}  train loss {total / EVERY:.4f}")
        samples, _ = draw_samples(average.ddpm, 0, N_FID, 0, seed=0)
        rows, total = [*rows, {"step": step, **distance(samples)}], 0.0
distance(test_set.images[:N_FID], "real images that were not used in training")
plot_distances(folder / "fid.png", rows)
shown(folder / "fid.png")

# %% [markdown]
# ## Samples
#
# Above those of the model just trained: with QUICK they have the colours of cats and no faces yet. Below those of a run of the
# sheet's 10,000 steps at 32 x 32 and its distances
# (`python train_afhq.py --fid`, in `log/log_afhq_10000`).

# %%
plot_grid(folder / "samples.png", to_float(samples[:20]), n_columns=10, title=f"after {STEPS} steps")
for path in (folder / "samples.png", "log/log_afhq_10000/samples_step10000.png", "log/log_afhq_10000/fid.png"):
    shown(path)

# %% [markdown]
# ## The forward and the backward process
#
# At 0, 25, 50, 75 and 99 % of T. Forwards the cosine schedule takes the image away evenly. Backwards, from the noise of the last row,
# other images come out than went in: at 99 % hardly anything of the image is left that could tell which it was.

# %%
process_figures(folder, average.ddpm, to_float(train_set.images[:8]), seed=0)
shown(folder / "forward_process.png")
shown(folder / "backward_process.png")
