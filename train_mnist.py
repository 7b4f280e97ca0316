"""Train a class-conditional DDPM on MNIST and fill a log folder with what it learnt.

    python train_mnist.py                                  # the exercise: 20 epochs, log/log_mnist
    python train_mnist.py --resume                         # the same command after an interruption
    python train_mnist.py --dataset rendered --n_epochs 1  # no download: digits drawn from matplotlib's fonts
    python train_mnist.py --schedule cosine --g_weight 0 0.5 2 --log_dir log/cosine
    python train_mnist.py --network unet --n_features 16   # the larger kind of network, in a small size
    python train_mnist.py --network fc                     # fully connected layers, on dequantised images

Expect a training loss of 0.12 in the first epoch, 0.06 in the second, 0.05 in the fourth (measured with the defaults),
and digits at w = 1 most of which can be read after the first epoch.
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

EXPECTED = (
    "With the defaults on MNIST the mean training loss is 0.12 in the first epoch, 0.06 in the second, 0.05 in the "
    "fourth, and then hardly falls; other schedules, losses and data have other values. "
    "Judge progress by the quarters of t and by the pictures."
)


def parser() -> argparse.ArgumentParser:
    return training_parser(__doc__, datasets=["mnist", "rendered"], log_dir="./log/log_mnist")


def main() -> None:
    train_classes(parser(), EXPECTED)


if __name__ == "__main__":
    run_script(main)
