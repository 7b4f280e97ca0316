"""The loss curves are read back from disk, and looked at pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from read_pictures import read_rgb

from figures.curves import plot_curves


def epoch(number: int, **values) -> dict:
    quarters = {f"loss_q{q}": 0.1 / q / number for q in range(1, 5)}
    return {
        "epoch": number,
        "step": 10 * number,
        "train_loss": 1 / number,
        "val_loss": 1.1 / number,
        **quarters,
        **values,
    }


def colours(path) -> set[tuple[int, int, int]]:
    packed = read_rgb(path).astype(int) @ [1 << 16, 1 << 8, 1]
    return {(int(value) >> 16, int(value) >> 8 & 255, int(value) & 255) for value in np.unique(packed)}


def test_loss_has_a_curve_for_each_column_that_is_known(tmp_path):
    train, val, quarters = (0x1F, 0x5F, 0xA8), (0xD1, 0x49, 0x5B), {(0x44, 0x01, 0x54), (0xD9, 0xA4, 0x00)}
    path = tmp_path / "loss.png"
    plot_curves(path, [epoch(e) for e in range(1, 21)])
    assert {train, val} | quarters <= colours(path)
    plot_curves(path, [epoch(1)])  # one epoch is a point, and can be seen
    assert {train, val} | quarters <= colours(path)
    for missing in (None, math.nan, ""):
        plot_curves(path, [epoch(1, val_loss=missing), epoch(2, val_loss=missing)])
        assert train in colours(path) and val not in colours(path)
    plot_curves(path, [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": math.nan}])
    assert train in colours(path) and not quarters & colours(path)
    assert (read_rgb(path)[:, -100:] < 255).any()  # the one curve has the whole page


def test_loss_of_rows_from_a_file_and_of_values_without_logarithm(tmp_path):
    plot_curves(tmp_path / "a.png", [{key: str(value) for key, value in epoch(e).items()} for e in (1, 2)])
    plot_curves(tmp_path / "b.png", [epoch(e) for e in (1, 2)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plot_curves(tmp_path / "c.png", [epoch(1, loss_q1=0.0, loss_q2=-1.0, loss_q3=math.inf, train_loss=math.inf)])
    with pytest.raises(ValueError, match="at least one"):
        plot_curves(tmp_path / "d.png", [])
