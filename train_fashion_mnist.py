"""Train a class-conditional DDPM on Fashion-MNIST and fill a log folder with what it learnt.

    python train_fashion_mnist.py                          # 20 epochs, log/log_fashion_mnist
    python train_fashion_mnist.py --resume                 # the same command after an interruption
    python train_fashion_mnist.py --flip on --g_weight 0 2 # clothes may be mirrored, though most shoes point to the left

The images are read from ./data/FashionMNIST/raw, or downloaded there.
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
    "The loss stays above that of digits, since clothes have more texture: with --n_features 16 --l_rate 1e-3 "
    "--batch_size 64 its mean was 0.117, 0.085 and 0.079 in the first three epochs. Trousers, coats and boots come "
    "first, sandals and bags late. Judge progress by the quarters of t and by the pictures."
)


def parser() -> argparse.ArgumentParser:
    return training_parser(__doc__, datasets=["fashion_mnist"], log_dir="./log/log_fashion_mnist")


def main() -> None:
    train_classes(parser(), EXPECTED)


if __name__ == "__main__":
    run_script(main)
