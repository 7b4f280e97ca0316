"""Train a class-conditional DDPM on CIFAR-100 and fill a log folder with what it learnt.

    python train_cifar100.py                                         # log/log_cifar100
    python train_cifar100.py --resume                                # the same command after an interruption
    python train_cifar100.py --show_classes 20                       # pictures of 20 of the 100 classes instead of 10
    python train_cifar100.py --network unet --n_features 128 --dropout 0.1 --l_rate 2e-4 --ema 0.9999   # 41 M parameters

The images are those of torchvision (downloaded to ./data if they are not there), with the 100 fine classes, or image
files in ./data/cifar100/train/<class>/ and ./data/cifar100/test/<class>/. Half of them are mirrored, each time others.
Model and metrics are of all classes; data.png shows them all, the other pictures 10 that are spread evenly.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
from common.console import listen

if __name__ == "__main__":
    listen()  # before the imports that take seconds

import argparse

from common.console import run_script
from train_cifar10 import DEFAULTS, EXPECTED
from training.class_conditional import train_classes, training_parser


def parser() -> argparse.ArgumentParser:
    return training_parser(
        __doc__, datasets=["cifar100"], **{**DEFAULTS, "log_dir": "./log/log_cifar100", "n_classes": 100}
    )


def main() -> None:
    train_classes(parser(), EXPECTED)


if __name__ == "__main__":
    run_script(main)
