"""The limits of what a run may ask for: one table for the command line, for training, and for those who read its files.

What training accepts, every other script accepts. A limit that is raised here is raised for all of them.
"""

from __future__ import annotations

from typing import Any

MOST_TEXT = 4096  # characters of an argument: the longest path that Linux knows
MOST_NAME = 100  # characters of a class name
MOST_WEIGHTS = 100  # values of --g_weight
MOST_CLASSES = 1000
INT64 = 2**63 - 1  # the largest integer that torch can hold

# Lowest and highest value of whole numbers, by the name of the option.
WHOLE = {
    "n_timesteps": (1, 100_000),  # each costs a pass through the network
    "n_classes": (1, MOST_CLASSES),
    "n_features": (8, 4096),
    "num_hidden": (1, 4096),
    "n_blocks": (1, 1000),
    "n_frequencies": (1, 1000),
    "dim_mults": (1, 64),
    "im_height": (8, 1024),
    "im_channels": (1, 3),
    "n_epochs": (1, 10**9),
    "train_steps": (1, 10**9),
    "save_every": (1, INT64),
    "save_and_sample_every": (1, INT64),
    "animate_every": (1, INT64),
    "n_samples": (1, 10_000),
    "n_points": (1, 10**8),
    "n_workers": (0, 256),
    "n_resample": (1, 1000),
    "jump_length": (1, 100_000),
    "seed": (0, INT64),
}
# The same of a recipe (`Spec`), where arguments of the networks' constructors have names of their own.
SPEC = {
    **{name: highest for name, (_, highest) in WHOLE.items()},
    "dim": WHOLE["n_features"][1],
    "height": WHOLE["im_height"][1],
    "size": WHOLE["im_height"][1],
    "input_dim": 3 * WHOLE["im_height"][1] ** 2,
}
MOST_OTHER = 4096  # any other number in a recipe


def too_large(arguments: dict[str, Any]) -> str | None:
    """What in a part of a recipe is beyond its limit, in words, or None. Lists count value by value."""
    for name, value in arguments.items():
        most = SPEC.get(name, MOST_OTHER)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > most:
                return f"{name} {number:,}, more than {most:,}"
    return None


def wrong_name(name: Any) -> str | None:
    """Why a class cannot have this name, which has to stand in figures, files and on a terminal; None if it can."""
    if type(name) is not str:
        return "is no text"
    if not name or len(name) > MOST_NAME:
        return f"has {len(name)} characters, not 1 to {MOST_NAME}"
    if not name.isprintable():
        return "has characters that cannot be shown, such as of another encoding"
    return None
