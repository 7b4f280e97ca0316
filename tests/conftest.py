"""What several test files share."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from matplotlib.figure import Figure
from started_script import no_layout
from tiny_mnist import write_mnist
from tiny_run import run_train_mnist
from tiny_sample import loaded, run_sample

from figures import images
from training import class_conditional, log_folder


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tensors here are small: threads that wait for each other would cost more than they save."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Waiting for the disk takes longer than most tests, and files survive a test without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_figures():
    """Completions and mixtures in one step: in fifty they take longer than the training of most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "FEW_STEPS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def loose_layout():
    """Figures are drawn with `no_layout`. The value: the real one, which the tests of figures have."""
    tight = Figure.tight_layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "tight_layout", no_layout)
        yield tight


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with an MNIST of 70 + 20 random images."""
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder, n_train=70, n_test=20)
    return folder


@pytest.fixture(scope="session")
def whole_run(data_dir, tmp_path_factory):
    """The log folder of an uninterrupted run; tests only read it."""
    log_dir = tmp_path_factory.mktemp("whole") / "log"
    assert run_train_mnist(data_dir, log_dir) == 0
    return log_dir


@pytest.fixture
def train(data_dir):
    """train(log_dir, "--more arguments") runs train_mnist.py in this process and returns its exit status."""
    return lambda log_dir, more="": run_train_mnist(data_dir, log_dir, more)


@pytest.fixture
def no_pictures():
    """Runs with classes leave no pictures and no loss curve, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_conditional, "draw_class_run", lambda run, **_: run.save_model())
        patch.setattr(class_conditional, "draw_data", lambda run, **_: None)
        patch.setattr(log_folder, "plot_curves", lambda *_: None)
        yield


@pytest.fixture
def quick(train, no_pictures):
    """`train` without pictures."""
    return train


# ------------------------------------------------------------ a trained model, for sample.py


@pytest.fixture
def model(whole_run):
    return whole_run / "model_epoch3.pt"


@pytest.fixture
def ddpm(model):
    return loaded(model)


@pytest.fixture
def run(model, tmp_path):
    """run("--more arguments") runs sample.py in this process with results in tmp_path/out; returns the exit status."""
    return lambda more="", file=model, out=tmp_path / "out": run_sample(file, out, more)


@pytest.fixture
def in_a_terminal():
    """SIGHUP and SIGINT do what they do there; `nohup pytest` ignores the one, `pytest &` in a script the other."""
    usual = {"SIGHUP": signal.SIG_DFL, "SIGINT": signal.default_int_handler}
    numbers = {getattr(signal, name): handler for name, handler in usual.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
