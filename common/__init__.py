"""What every room uses: messages and exit status of scripts, the machine, files.

This file comes before all others, and so it asks the first questions: is this a Python that can run the suite, and has
it the packages? It is written so that also an old Python can read it. So are the scripts: they do without
`from __future__ import annotations`, which Python 3.6 (`python3` on many clusters) does not know.
"""

# ruff: noqa: UP031, UP036, RUF005
import os
import sys

if sys.version_info < (3, 8):
    sys.exit("Python 3.8 or newer is needed, and %s is %d.%d" % ((sys.executable,) + sys.version_info[:2]))

# A notebook hands its own backend down to `!python train_mnist.py`; the suite draws without any.
os.environ.pop("MPLBACKEND", None)

PACKAGES = ("torch", "torchvision", "matplotlib", "imageio", "numpy", "PIL")


def _one_line(kind, error, trace):  # type: ignore[no-untyped-def]
    """A package that is not installed is no fault of the code: one line in place of a traceback."""
    package = (getattr(error, "name", None) or "").split(".")[0]
    if issubclass(kind, ModuleNotFoundError) and package in PACKAGES:
        sys.stderr.write(
            "%s: error: this Python (%s) has no %s: activate the environment of the suite (source .venv/bin/activate), "
            "or install what is needed (python -m pip install -r requirements.txt)\n"
            % (os.path.basename(sys.argv[0]), sys.executable, package)
        )
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line
