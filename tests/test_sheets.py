"""The functions of the exercise sheets, and every line of the table that maps the sheets' names to this suite's."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import trained_unet
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sheets
from ddpm import DDPM
from networks.fc import FcNetwork
from networks.unet import UNet

T, BETA1, BETA2 = 6, 0.01, 0.3
SHAPE = (5, 1, 4, 4)
TABLE = (Path(__file__).parents[1] / "docs" / "sheet_names.md").read_text(encoding="utf-8")


@pytest.fixture
def ddpm():
    torch.manual_seed(0)
    return DDPM(FcNetwork(16, 8, 10, size=SHAPE[1:]), BETA1, BETA2, T, "cpu", drop_prob=0.4)


def images(n=5, seed=0):
    return torch.rand(n, *SHAPE[1:], generator=torch.Generator().manual_seed(seed)) * 2 - 1


def labels(n=5):
    return torch.arange(n) * 3 % 10


def labelled(n=22, batch_size=8):
    return DataLoader(TensorDataset(images(n), labels(n)), batch_size)


def adam(ddpm):
    return torch.optim.Adam(ddpm.parameters(), lr=3e-3)


# ------------------------------------------------------------ the table: each name, computed again from the papers

BETAS = [0.0] + [BETA1 + (BETA2 - BETA1) * i / (T - 1) for i in range(T)]
BARS = [math.prod(1 - b for b in BETAS[: t + 1]) for t in range(T + 1)]


def column(values, t):
    return torch.tensor([values[k] for k in t.tolist()]).view(-1, 1, 1, 1)


def noised(s, t=None):
    """Ho et al., equation 4."""
    bar = column(BARS, s["t"] if t is None else t)
    return bar.sqrt() * s["x0"] + (1 - bar).sqrt() * s["noise"]


def predicted(s, x_t, t, c=None):
    return s["ddpm"].nn_model(x_t, column([k / T for k in range(T + 1)], t), c)


def step(s, x_t, t):
    """Algorithm 2, lines 3 and 4."""
    eps = predicted(s, x_t, torch.full((len(x_t),), t))
    mean = (x_t - BETAS[t] / math.sqrt(1 - BARS[t]) * eps) / math.sqrt(1 - BETAS[t])
    return mean + (math.sqrt(BETAS[t]) * torch.randn(x_t.shape) if t > 1 else 0)


def steps(s, x):
    for t in range(T, 0, -1):
        x = step(s, x, t)
    return x


def posterior(s):
    """Ho et al., equations 6 and 7."""
    beta, bar, before = (column(values, t) for values, t in ((BETAS, s["t"]), (BARS, s["t"]), (BARS, s["t"] - 1)))
    mean = before.sqrt() * beta / (1 - bar) * s["x0"] + (1 - beta).sqrt() * (1 - before) / (1 - bar) * s["x_t"]
    return mean, (1 - before) / (1 - bar) * beta


def error(s, t, noise, c):
    """Equation 14, one number for each sample."""
    x_t = noised({**s, "noise": noise}, t)
    return (predicted(s, x_t, t, c) - noise).square().mean(dim=(1, 2, 3))


def drawn(s, c):
    """The loss with t, noise and hidden classes drawn in this order."""
    t, noise = torch.randint(1, T + 1, (len(s["x0"]),)), torch.randn(s["x0"].shape)
    if c is not None:
        c = c * (torch.rand(len(c), 1) >= 0.4)
    return error(s, t, noise, c)


def samples_of_classes(s):
    x, c = torch.randn(4, *SHAPE[1:]), F.one_hot(torch.tensor([3, 8, 3, 8]), 10).float()
    for t in range(T, 0, -1):
        eps = predicted(s, x, torch.full((4,), t), c)
        x = (x - BETAS[t] / math.sqrt(1 - BARS[t]) * eps) / math.sqrt(1 - BETAS[t])
        if t > 1:
            x = x + math.sqrt(BETAS[t]) * torch.randn(x.shape)
    return x


def mean_losses(s, with_classes):
    """One epoch of Algorithm 1 by hand, on a copy of the model as it was before."""
    net = copy.deepcopy(s["untrained"])
    s, optim, losses = {**s, "ddpm": net}, adam(net), []
    for x, label in labelled():
        loss = drawn({**s, "x0": x}, F.one_hot(label, 10).float() if with_classes else None).mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses += [loss.item()] * len(x)
    for ours, theirs in zip(net.parameters(), s["ddpm_after"].parameters()):
        torch.testing.assert_close(ours, theirs)
    return [sum(losses) / len(losses)]


def prior(s):
    bar = torch.tensor(BARS[T])
    q = Normal(bar.sqrt() * s["x0"], (1 - bar).sqrt())
    return kl_divergence(q, Normal(torch.zeros(()), torch.ones(()))).sum(dim=(1, 2, 3)).double()


ORACLES = {
    "`ddpm_schedule`": lambda s, found: (found["alpha_bar_t"], torch.tensor(BARS)),
    "`betas`": lambda s, found: (found, torch.tensor(BETAS)),
    "`alphas`": lambda s, found: (found, 1 - torch.tensor(BETAS)),
    "`alphaBars`, `alphas_cumprod`": lambda s, found: (found, torch.tensor(BARS)),
    "`sample_xt`": lambda s, found: (found, noised(s)),
    "`q_sample`, `q`": lambda s, found: (found, noised(s)),
    "`q_posterior`": lambda s, found: (found, posterior(s)),
    "`reverse_q`, `p_sample`": lambda s, found: (found, step(s, s["x_t"], 3)),
    "`p_sample_loop`": lambda s, found: (found, steps(s, s["x_T"])),
    "`sample(shape)`": lambda s, found: (found, steps(s, torch.randn(SHAPE))),
    "`sample(ddpm, n, classes)`": lambda s, found: (found, samples_of_classes(s)),
    "`p_loss`, `p_losses`": lambda s, found: (found, error(s, s["t"], s["noise"], s["c"]).mean()),
    "`loss`, `forward`": lambda s, found: (found, drawn(s, s["c"]).mean()),
    "`negative_elbo`": lambda s, found: (found, drawn(s, None)),
    "`elbo`, L_0 .. L_T": lambda s, found: (found[:, T], prior(s)),
    "`complete_image`": lambda s, found: (found * s["ymask"], s["y"] * s["ymask"]),
    "`get_context_mask`": lambda s, found: (found, s["c"] * (torch.rand(len(s["c"]), 1) >= 0.1)),
    "`train`": lambda s, found: (torch.tensor(found), torch.tensor(mean_losses(s, False))),
    "`train_classconditional`": lambda s, found: (torch.tensor(found), torch.tensor(mean_losses(s, True))),
}


def rows_of(text):
    """{name in a sheet: expression} of the table's rows."""
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| .+ \|$", text, re.M)
    return {name: code for name, code in rows if name in ORACLES}


def test_the_table_has_an_oracle_for_every_line():
    lines = [line for line in TABLE.splitlines() if line.startswith("|")]
    assert len(lines) - 2 == len(ORACLES) == len(rows_of(TABLE))


@pytest.mark.parametrize("name", ORACLES)
def test_the_table_is_right(name, ddpm):
    x0, noise, t = images(), torch.randn(SHAPE), torch.tensor([1, 2, 3, 6, 5])
    s = {"ddpm": ddpm, "T": T, "beta1": BETA1, "beta2": BETA2, "DDPM": DDPM, "shape": SHAPE, "loader": labelled()}
    s.update(x0=x0, noise=noise, t=t, c=F.one_hot(labels(), 10).float(), x_t=images(seed=1), x_T=torch.randn(SHAPE))
    s.update(y=images(seed=2), ymask=torch.tensor([1.0, 1, 0, 0]).view(1, 1, 4, 1), optim=adam(ddpm))
    own = (sheets.sample_xt, sheets.sample, sheets.get_context_mask, sheets.train, sheets.train_classconditional)
    s.update({f.__name__: f for f in own})
    s["untrained"], s["ddpm_after"] = copy.deepcopy(ddpm), ddpm
    torch.manual_seed(7)
    found = eval(rows_of(TABLE)[name], s)
    torch.manual_seed(7)
    found, expected = ORACLES[name](s, found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------ sample_xt


@pytest.mark.parametrize("size", [(2,), (1, 28, 28), (3, 32, 32)])
def test_sample_xt_is_q_sample(size):
    ddpm = DDPM(torch.nn.Identity(), device="cpu")
    x0, epsilon, t = torch.rand(6, *size), torch.randn(6, *size), torch.tensor([0, 1, 2, 100, 399, 400])
    found = sheets.sample_xt(x0, t, epsilon, ddpm.alpha_bar_t)
    # 1 - alphaBar loses digits in float32 that DDPM's own table has: at t = 1 the factor 0.01 is exact to 3e-4 of it.
    torch.testing.assert_close(found, ddpm.q_sample(x0, t, epsilon), rtol=1e-4, atol=2e-5)
    assert torch.equal(found[0], x0[0])
    torch.testing.assert_close(sheets.sample_xt(x0, t.view(6, 1, 1), epsilon, ddpm.alpha_bar_t.tolist()), found)
    assert torch.equal(sheets.sample_xt(x0, 100, epsilon, ddpm.alpha_bar_t)[3], found[3])
    assert sheets.sample_xt(x0, 5, epsilon, ddpm.alpha_bar_t.double()).dtype == torch.float32


@pytest.mark.parametrize("t", [-1, 401, torch.tensor([0, 401]), 0.5])
def test_sample_xt_refuses_times_outside_of_the_table(t):
    with pytest.raises(ValueError, match=re.escape("whole numbers in 0..400")):
        sheets.sample_xt(torch.zeros(2, 2), t, torch.zeros(2, 2), torch.linspace(1, 0, 401))


# ------------------------------------------------------------ sample


def test_sample_with_and_without_classes(ddpm):
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    assert sheets.sample(ddpm, 3).shape == (3, *SHAPE[1:])
    found = sheets.sample(ddpm, 3, classes=torch.tensor([8, 3]), g_weight=2.0, generator=seeded())
    assert torch.equal(found, ddpm.sample(3, None, 10, 2.0, [8, 3], generator=seeded())[0]) and len(found) == 6
    vectors = torch.full((1, 10), 0.1)
    assert torch.equal(
        sheets.sample(ddpm, 2, vectors, generator=seeded()),
        ddpm.sample(2, None, 10, 0.0, vectors, generator=seeded())[0],
    )


def test_sample_of_points_without_classes():
    ddpm = DDPM(FcNetwork(2, 8), n_timesteps=3, device="cpu")
    assert sheets.sample(ddpm, 7).shape == (7, 2)
    with pytest.raises(ValueError, match="the network has no classes"):
        sheets.sample(ddpm, 7, [1])


# ------------------------------------------------------------ training


def test_training_makes_the_loss_fall_and_prints_a_line_per_epoch(capsys):
    """All images are one: its noise can be told from x_t alone."""
    torch.manual_seed(0)
    ddpm = DDPM(FcNetwork(16, 64, 10, size=SHAPE[1:]), BETA1, BETA2, T, "cpu")
    loader = DataLoader(TensorDataset(torch.full((256, *SHAPE[1:]), 0.5), torch.zeros(256).long()), 32, shuffle=True)
    for function in (sheets.train, sheets.train_classconditional):
        model = copy.deepcopy(ddpm)
        losses = function(model, loader, 30, torch.optim.Adam(model.parameters(), lr=3e-3), "cpu")
        lines = capsys.readouterr().out.splitlines()
        assert len(losses) == len(lines) == 30 and losses[-1] < 0.7 * losses[0]
        assert lines[4] == f"epoch 5/30  train loss {losses[4]:.4f}"


class Images(Dataset):
    """A data set of images alone, whose batches are tensors, not tuples."""

    def __len__(self):
        return 22

    def __getitem__(self, i):
        return images(22)[i]


def test_kinds_of_batches(ddpm):
    """Batches of (x, label), (x,) and x are the same to `train`; labels and one-hot rows to `train_classconditional`."""

    def trained(function, loader):
        model = copy.deepcopy(ddpm)
        torch.manual_seed(0)
        return function(model, loader, 2, adam(model), "cpu")

    alone, bare = DataLoader(TensorDataset(images(22)), 8), DataLoader(Images(), 8)
    assert trained(sheets.train, labelled()) == trained(sheets.train, alone) == trained(sheets.train, bare)
    rows = F.one_hot(labels(22), 10)
    as_rows = DataLoader(TensorDataset(images(22), rows.float()), 8)
    as_int32 = DataLoader(TensorDataset(images(22), labels(22).int()), 8)
    found = trained(sheets.train_classconditional, labelled())
    assert found == trained(sheets.train_classconditional, as_rows) == trained(sheets.train_classconditional, as_int32)
    assert found != trained(sheets.train, labelled())


@pytest.mark.parametrize("training", [True, False])
def test_training_leaves_the_mode_as_it_was_and_trains_in_training_mode(training):
    """BatchNorm's statistics move in training mode only."""
    ddpm = DDPM(trained_unet(), n_timesteps=5, device="cpu").train(training)
    before = ddpm.nn_model.init_conv.conv1[1].running_mean.clone()
    loader = DataLoader(TensorDataset(torch.rand(8, 1, 8, 8), labels(8)), 4)
    sheets.train_classconditional(ddpm, loader, 1, adam(ddpm), "cpu")
    assert ddpm.training == ddpm.nn_model.training == training
    assert not torch.equal(ddpm.nn_model.init_conv.conv1[1].running_mean, before)


def test_context_vectors_take_the_place_of_classes():
    torch.manual_seed(0)
    ddpm = DDPM(UNet(1, 8, 8, (1, 2), context_dim=3, n_blocks=1), n_timesteps=3, device="cpu")
    vectors = torch.randn(8, 3)
    losses = sheets.train_classconditional(ddpm, [(torch.rand(8, 1, 8, 8), vectors)], 3, adam(ddpm), "cpu")
    assert len(losses) == 3
    one, other = (sheets.sample(ddpm, 2, v, generator=torch.Generator().manual_seed(1)) for v in vectors[:2, None])
    assert one.shape == (2, 1, 8, 8) and not torch.equal(one, other)


def test_refusals(ddpm):
    with pytest.raises(ValueError, match="gives no batches"):
        sheets.train(ddpm, [], 1, adam(ddpm), "cpu")
    with pytest.raises(ValueError, match="gives no labels"):
        sheets.train_classconditional(ddpm, DataLoader(TensorDataset(images())), 1, adam(ddpm), "cpu")
    no_classes = DDPM(FcNetwork(16, 8, size=SHAPE[1:]), n_timesteps=3, device="cpu")
    with pytest.raises(ValueError, match="use `train`"):
        sheets.train_classconditional(no_classes, labelled(), 1, adam(no_classes), "cpu")
    sheets.train(no_classes, labelled(), 1, adam(no_classes), "cpu")
