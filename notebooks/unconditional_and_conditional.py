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
# # Unconditional and conditional models, by free functions
#
# The data, the forward process, training and sampling without and with classes, and a table of hyper-parameters, by the functions
# of the sheet: `sample_xt`, `train`, `sample`, `train_classconditional`. With `QUICK` (the default on a CPU) the trainings are
# short: under two minutes on one CPU core. Its pictures are those of the first minute of a training. A T4 was not tried.

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
from IPython.display import Image, Markdown, display

from common.console import DataError
from common.machine import pick_device
from datasets.image_set import ImageSet, to_float
from datasets.rendered_digits import DIGITS, render_digits
from datasets.sources import load
from ddpm import DDPM
from figures.grids import plot_groups
from figures.images import data_figure, real_rows
from networks.Conditional_UNet import UNet
from sheets import sample, sample_xt, train, train_classconditional
from training.checkpoint import load_model
from training.losses import validation_loss

device, folder, _ = pick_device("auto"), Path(tempfile.mkdtemp()), torch.manual_seed(0)
QUICK = os.environ.get("QUICK", "1" if device.type == "cpu" else "0") == "1"
N_IMAGES, N_VALIDATION, EPOCHS, N_FEATURES, BATCH, RATE = (
    (1500, 200, 4, 16, 32, 2e-3) if QUICK else (None, None, 20, 32, 256, 3e-4)
)
T, N_STEPS = 400, 20 if QUICK else 400  # in training; in sampling
print(f"on {device.type}, {'QUICK' if QUICK else 'the whole sheet'}")


def digits(train, n):
    """The first n digits of MNIST (all if n is None), or digits drawn from fonts."""
    try:
        return load("mnist", "data", train, limit=n)
    except DataError:
        print("MNIST is not in data/ and could not be downloaded: digits drawn from fonts take its place")
        return ImageSet(*render_digits(n or 60_000, seed=int(not train)), DIGITS, "rendered")


def loader_of(images, batch_size=BATCH):
    pairs = torch.utils.data.TensorDataset(to_float(images.images), images.labels)
    return torch.utils.data.DataLoader(pairs, batch_size, shuffle=True)


def shown(name):
    display(Image(data=(folder / name).read_bytes()))


# %% [markdown]
# ## The data
#
# Images of each class in their columns. Digits and clothes are grey and centred; CIFAR-100 has colours, backgrounds and 100 classes,
# so it asks for much more of a model.

# %%
train_set, test_set = digits(True, N_IMAGES), digits(False, N_VALIDATION).to(device)
sets = [train_set]
for name, size, channels in (("fashion_mnist", 28, 1), ("cifar100", 32, 3)):
    try:
        sets.append(load(name, "data", True, n_classes=None, im_height=size, im_channels=channels))
    except DataError:
        print(f"{name} is not in data/ and could not be downloaded: it is left out")
for images in sets:
    data_figure(folder / "data.png", images)
    shown("data.png")

# %% [markdown]
# ## The forward process
#
# `sample_xt` goes from $x_0$ to $x_t$ in one step. Every row has one image and one noise. At a quarter of the time the digits can
# still be read; at the end hardly anything is left of them: $\sqrt{\bar\alpha_T} = 0.13$.

# %%
ddpm = DDPM(UNet(1, N_FEATURES, n_classes=0, height=28), n_timesteps=T, device=device)
x0 = real_rows(train_set, 1)[:5].to(device)
times, epsilon = [0, T // 8, T // 4, T // 2, 3 * T // 4, T], torch.randn(x0.shape, device=device)
forward = torch.stack([sample_xt(x0, t, epsilon, ddpm.alpha_bar_t, T) for t in times if t], dim=1)
forward = torch.cat([x0[:, None], forward], dim=1).flatten(0, 1)
plot_groups(folder / "forward.png", [("", forward.cpu())], [f"t = {t}" for t in times])
shown("forward.png")

# %% [markdown]
# ## Without classes: `train` and `sample`
#
# Look at the loss, which falls fast in the first epochs, and at the strokes: with QUICK there are hardly any digits yet.

# %%
losses = train(ddpm, loader_of(train_set), EPOCHS, torch.optim.Adam(ddpm.parameters(), RATE), device)
generator = torch.Generator(device).manual_seed(0)
plot_groups(folder / "a.png", [("", sample(ddpm.respaced(N_STEPS), 20, generator=generator).cpu())], n_columns=10)
shown("a.png")

# %% [markdown]
# ## With classes: `train_classconditional` and `sample`
#
# Above: the model just trained, asked for each digit with the guidance weights 0 and 2. Below: a model of the suite after 20 epochs
# of the whole of MNIST, from the same noise. After a short training all classes look nearly alike, and then guidance, which adds what a
# class has that the others have not, changes little. Of the long one every digit can be read at w = 2.

# %%
conditional = DDPM(UNet(1, N_FEATURES, n_classes=10, height=28), n_timesteps=T, device=device, drop_prob=0.1)
optim = torch.optim.Adam(conditional.parameters(), RATE)
losses = train_classconditional(conditional, loader_of(train_set), EPOCHS, optim, device)
longer, _ = load_model(Path("log/log_mnist/model_epoch20.pt"), device)
rows = []
for name, model in (("here", conditional), ("20 epochs", longer)):
    for w in (0.0, 2.0):
        generator = torch.Generator(device).manual_seed(0)
        images = sample(model.respaced(N_STEPS), 1, range(10), g_weight=w, generator=generator)
        rows.append((f"{name}, w = {w:g}", images.cpu()))
plot_groups(folder / "b.png", rows, [str(k) for k in range(10)])
shown("b.png")

# %% [markdown]
# ## Hyper-parameters
#
# Each row changes one thing of the first. All have seen the same images equally often, and the validation has the same noise, so the
# losses can be compared. They cannot be compared between schedules or values of T, whose noise is another: look at samples there.
# In a short training a small rate and large batches are clearly worse: the steps are too small, or too few. The width hardly
# matters yet; in a long training the wider network wins.

# %%
base = {"n_features": N_FEATURES, "l_rate": RATE, "batch_size": BATCH}
changes = [{}, {"n_features": N_FEATURES // 2}, {"l_rate": RATE / 10}, {"batch_size": 4 * BATCH}]
table = ["| n_features | l_rate | batch_size | parameters | validation loss |", "|---|---|---|---|---|"]
some = ImageSet(
    train_set.images[: len(train_set) // 2], train_set.labels[: len(train_set) // 2], DIGITS, train_set.name
)
for change in changes:
    used, _ = {**base, **change}, torch.manual_seed(0)
    model = DDPM(UNet(1, used["n_features"], n_classes=10, height=28), n_timesteps=T, device=device)
    optim = torch.optim.Adam(model.parameters(), used["l_rate"])
    train_classconditional(model, loader_of(some, used["batch_size"]), max(1, EPOCHS // 2), optim, device)
    size = sum(weights.numel() for weights in model.parameters())
    loss = validation_loss(model, test_set, True, seed=0)
    table.append(f"| {used['n_features']} | {used['l_rate']:g} | {used['batch_size']} | {size:,} | {loss:.3f} |")
display(Markdown("\n".join(table)))
