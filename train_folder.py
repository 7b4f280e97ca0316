"""Train a class-conditional DDPM on your own images, one folder for each class, and fill a log folder.

    python train_folder.py --data_dir data/shoes                     # data/shoes/train/<class>/*.png, log/log_folder
    python train_folder.py --data_dir data/shoes --im_height 64 --network unet
    python train_folder.py --data_dir data/shoes --unconditional     # without classes
    python train_folder.py --data_dir data/shoes --resume            # the same command after an interruption

Test images are in <data_dir>/test/<class>/ (or val); without them some of the training images are held out.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
from common.console import listen

if __name__ == "__main__":
    listen()  # before the imports that take seconds

import argparse

from common.console import run_script
from training.class_conditional import train_classes, training_parser

EXPECTED = "The loss falls fast in the first epoch and then hardly at all: judge progress by the pictures."
DEFAULTS = {"log_dir": "./log/log_folder", "im_height": 32, "im_channels": 3, "n_classes": None, "flip": "on"}


def parser() -> argparse.ArgumentParser:
    return training_parser(__doc__, datasets=["folder"], **DEFAULTS)


def main() -> None:
    train_classes(parser(), EXPECTED)


if __name__ == "__main__":
    run_script(main)
