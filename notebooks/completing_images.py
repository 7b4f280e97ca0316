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
# # Completing images
#
# A model without classes is trained, its samples are looked at, and halves of images are completed in three ways. With `QUICK`
# (the default on a CPU) the training is short, the completions are made by `log/log_mnist/model_epoch20.pt` of the suite, and both
# take few steps: under two minutes on one CPU core. Without it everything is the sheet's, with the model trained here. A T4 was not tried.

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

import contextlib
import importlib.util
import io
import tempfile

import torch
from IPython.display import Image, display

from common.console import DataError, Progress
from common.machine import pick_device
from datasets.image_set import ImageSet, to_float
from datasets.rendered_digits import DIGITS, render_digits
from datasets.sources import load
from ddpm import DDPM
from diffusion.inpainting import mask_named, resampling_times
from figures.curves import new_figure, plain_axes, plot_curves
from figures.grids import plot_groups
from figures.images import inpainting_figure
from networks.Conditional_UNet import UNet
from sheets import train
from training.checkpoint import load_model
from training.losses import validation_loss

device, folder, _ = pick_device("auto"), Path(tempfile.mkdtemp()), torch.manual_seed(0)
QUICK = os.environ.get("QUICK", "1" if device.type == "cpu" else "0") == "1"
N_IMAGES, N_VALIDATION, EPOCHS, N_FEATURES, BATCH, RATE = (
    (1500, 200, 4, 16, 32, 2e-3) if QUICK else (None, None, 20, 32, 256, 3e-4)
)
N_STEPS, N_RESAMPLE, JUMP = (20, 3, 5) if QUICK else (50, 10, 5)  # of the completions
print(f"on {device.type}, {'QUICK' if QUICK else 'the whole sheet'}")


def digits(train, n):
    """The first n digits of MNIST (all if n is None), or digits drawn from fonts."""
    try:
        return load("mnist", "data", train, limit=n)
    except DataError:
        print("MNIST is not in data/ and could not be downloaded: digits drawn from fonts take its place")
        return ImageSet(*render_digits(n or 60_000, seed=int(not train)), DIGITS, "rendered")


def loader_of(images):
    pairs = torch.utils.data.TensorDataset(to_float(images.images), images.labels)
    return torch.utils.data.DataLoader(pairs, BATCH, shuffle=True)


def shown(name):
    display(Image(data=(folder / name).read_bytes()))


# %% [markdown]
# ## The posterior
#
# [The derivation](../answers/forward_process.md#the-posterior-by-bayes-theorem) gives a Gaussian whose mean is a weighted sum of
# $x_0$ and $x_t$. `ddpm.q_posterior` computes both weights and the variance. At small t nearly all weight lies on $x_0$; at
# large t on $x_t$, because one step changes little then. The variance is below $\beta_t$, by much only in the first steps.

# %%
ddpm = DDPM(UNet(1, N_FEATURES, n_classes=0, height=28), device=device)
t, one, zero = (
    torch.arange(1, 401, device=device),
    torch.ones(400, 1, device=device),
    torch.zeros(400, 1, device=device),
)
weight_x0, variance = ddpm.q_posterior(one, zero, t)
weight_xt, _ = ddpm.q_posterior(zero, one, t)
figure = new_figure(9, 3)
left, right = figure.subplots(1, 2)
for values, label in ((weight_x0, "weight of $x_0$"), (weight_xt, "weight of $x_t$")):
    left.semilogx(t.cpu(), values[:, 0].cpu(), label=label)
right.semilogx(t.cpu(), (variance[:, 0] / ddpm.sqrt_beta_t[1:] ** 2).cpu(), label=r"variance / $\beta_t$")
for axes in (left, right):
    axes.set_xlabel("t")
    axes.legend(frameon=False)
    plain_axes(axes)
figure.tight_layout()
figure.savefig(folder / "posterior.png")
shown("posterior.png")

# %% [markdown]
# ## Training without classes
#
# The loss is the mean squared error of the predicted noise; predicting 0 gives 1. Look at the distance of both curves: there is
# none as long as the model does not learn images by heart. In the first epochs the validation can be below the training loss, which
# is a mean over the whole epoch.

# %%
train_set, test_set = digits(True, N_IMAGES), digits(False, N_VALIDATION).to(device)
optim, loader, history = torch.optim.Adam(ddpm.parameters(), RATE), loader_of(train_set), []
for epoch in range(1, EPOCHS + 1):
    with contextlib.redirect_stdout(io.StringIO()):  # its line says "epoch 1/1"
        [train_loss] = train(ddpm, loader, 1, optim, device)
    val_loss = validation_loss(ddpm, test_set, False, seed=0)
    history.append({"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss})
    print(f"epoch {epoch}/{EPOCHS}  train loss {train_loss:.4f}  val loss {val_loss:.4f}", flush=True)
plot_curves(folder / "loss.png", history)
shown("loss.png")

# %% [markdown]
# ## Eight samples
#
# Above: the model that was just trained. After a QUICK training there are strokes and blobs, and few digits. Below: a model that was
# trained for 20 epochs with classes, of which none is asked for here; it learnt to do without them, too.

# %%
longer, _ = load_model(Path("log/log_mnist/model_epoch20.pt"), device)
rows = []
for name, model in (("trained here", ddpm), ("log_mnist", longer)):
    few = model.respaced(N_STEPS) if QUICK else model
    generator = torch.Generator(device).manual_seed(0)
    rows.append((name, few.sample(8, classes=None, generator=generator, record=False)[0].cpu()))
plot_groups(folder / "samples.png", rows, n_columns=8)
shown("samples.png")

# %% [markdown]
# ## Three ways to complete an image
#
# `mean` corrects the mean of each step by the gradient with respect to it. `input` takes the gradient with respect to $x_t$, through
# the network, so hidden pixels move together with the known ones. `repaint` takes no gradient: it replaces the known pixels and
# goes back and forth (resampling). Look at the border: where the halves do not fit each other, the hidden one was drawn without
# regard to the known one. Resampling mends much of that with `mean` and `input`, for its price in time. `repaint` needs more of
# it: its authors take each step 10 times.

# %%
model = (longer if QUICK else ddpm).respaced(N_STEPS)
images = to_float(test_set.images[:6]).cpu()
hidden = ["bottom"] * 3 + ["top"] * 3
masks = torch.cat([mask_named(name, 28, 28) for name in hidden])


def completed(method, n_resample, n_sample=1):
    times = resampling_times(N_STEPS, JUMP, n_resample)
    n_steps = sum(later < t for t, later in zip(times, times[1:]))
    how = {"n_resample": n_resample, "jump_length": JUMP, "n_sample": n_sample}
    generator = torch.Generator(device).manual_seed(0)
    with Progress(n_steps, "steps") as progress:
        return model.complete_image(
            images, masks, method=method, generator=generator, progress=lambda t: progress.advance(1), **how
        ).cpu()


groups = [("visible", images * masks)]
for method in ("mean", "input", "repaint"):
    for n_resample in (1, N_RESAMPLE):
        groups.append((f"{method}, {n_resample}x", completed(method, n_resample)))
plot_groups(folder / "methods.png", groups, [f"{name} hidden" for name in hidden])
shown("methods.png")

# %% [markdown]
# ## Six originals, six halves, five completions of each
#
# The five differ where the visible half leaves several digits open: that of a 4 can become a 9. A good completion need not be the
# original; it must look like a digit and fit its half.

# %%
five = completed("input", N_RESAMPLE, n_sample=5)
heads = [f"{name} hidden" for name in hidden]
inpainting_figure(folder / "inpainting.png", images, masks, five, heads)
shown("inpainting.png")

# %% [markdown]
# ## Bonus: faces from words
#
# The condition is a vector of CLIP: of the picture in training, of a text in sampling ([how](../docs/text.md)). This needs the
# packages of `requirements-text.txt`, CelebA in `data/celeba`, and some hours of a GPU, so it is left out with `QUICK`.

# %%
command = [
    sys.executable,
    "train_celeba.py",
    "--n_epochs",
    "5",
    "--im_height",
    "32",
    "--log_dir",
    str(folder / "celeba"),
]
if not QUICK and importlib.util.find_spec("open_clip") and Path("data/celeba/img_align_celeba").is_dir():
    subprocess.run(command, check=True)
    for file in sorted((folder / "celeba").glob("*.png")):
        display(Image(data=file.read_bytes()))
else:
    print("left out; where all of that is there:", " ".join(["python", *command[1:-2]]))
