"""Train a class-conditional DDPM on Fashion-MNIST and fill a log folder with what it learnt.

    python train_fashion_mnist.py                          # 20 epochs, log/log_fashion_mnist
    python train_fashion_mnist.py --resume                 # the same command after an interruption
    python train_fashion_mnist.py --flip on --g_weight 0 2 # clothes may be mirrored, though most shoes point to the left

The images are read from ./data/FashionMNIST/raw, or downloaded there.
"""

from __future__ import annotations

from class_training import train_classes, training_parser
from cli import run_script

EXPECTED = (
    "The mean training loss falls fast in the first epoch and then hardly at all, while clothes get folds, collars and "
    "laces. Judge progress by the quarters of t and by the pictures."
)


def main() -> None:
    train_classes(training_parser(__doc__, datasets=["fashion_mnist"], log_dir="./log/log_fashion_mnist"), EXPECTED)


if __name__ == "__main__":
    run_script(main)
