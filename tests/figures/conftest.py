"""Figures are laid out as they are for a user."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def real_layout(loose_layout, monkeypatch):
    monkeypatch.setattr(Figure, "tight_layout", loose_layout)
