"""Train a class-conditional DDPM on CIFAR-10 and fill a log folder with what it learnt.

    python train_cifar10.py                                          # the exercise: log/log_cifar10
    python train_cifar10.py --resume                                 # the same command after an interruption
    python train_cifar10.py --network unet --n_features 128 --dropout 0.1 --l_rate 2e-4 --ema 0.9999   # 41 M parameters
    python train_cifar10.py --n_features 128                         # the exercise's network, four times as wide

The images are those of torchvision (downloaded to ./data if they are not there), or image files in
./data/cifar10/train/<class>/ and ./data/cifar10/test/<class>/. Half of them are mirrored, each time others.
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
    "The mean training loss falls fast in the first epochs and then hardly at all, long before pictures are good. "
    "Judge progress by the quarters of t and by the pictures; photographs need far more steps than digits."
)
DEFAULTS = {
    **{"log_dir": "./log/log_cifar10", "im_height": 32, "im_channels": 3, "flip": "on"},
    **{"n_epochs": 100, "g_weight": [1, 3], "save_every": 10, "animate_every": 20, "dim_mults": [1, 2, 2, 2]},
}


def parser() -> argparse.ArgumentParser:
    return training_parser(__doc__, datasets=["cifar10"], **DEFAULTS)


def main() -> None:
    train_classes(parser(), EXPECTED)


if __name__ == "__main__":
    run_script(main)
