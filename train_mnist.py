"""Train a class-conditional DDPM on MNIST and fill a log folder with what it learnt.

    python train_mnist.py                                  # the exercise: 20 epochs, log/log_mnist
    python train_mnist.py --resume                         # the same command after an interruption
    python train_mnist.py --dataset rendered --n_epochs 1  # no download: digits drawn from matplotlib's fonts
    python train_mnist.py --schedule cosine --g_weight 0 0.5 2 --log_dir log/cosine

Expect a training loss of 0.12 in the first epoch, 0.06 in the second, 0.05 in the fourth (measured with the defaults),
and digits at w = 1 most of which can be read after the first epoch.
"""

from __future__ import annotations

import torch

import datasets
from checkpoint import build
from cli import CallError, pick_amp, pick_device, run_script, training_parser
from trainer import Trainer, plain_arguments

EXPECTED = (
    "With the defaults on MNIST the mean training loss is 0.12 in the first epoch, 0.06 in the second, 0.05 in the "
    "fourth, and then hardly falls; other schedules, losses and data have other values. "
    "Judge progress by the quarters of t and by the pictures."
)


def main() -> None:
    parser = training_parser(__doc__, datasets=["mnist", "rendered"], log_dir="./log/log_mnist")
    args = parser.parse_args()
    device = pick_device(args.device)

    spec = {
        "network": "conditional_unet",
        "network_arguments": {
            "in_channels": args.im_channels,
            "n_features": args.n_features,
            "n_classes": args.n_classes,
            "height": args.im_height,
        },
        "ddpm": {
            "n_timesteps": args.n_timesteps,
            "drop_prob": args.drop_prob,
            "schedule": args.schedule,
            "loss": args.loss,
        },
    }
    torch.manual_seed(args.seed)  # the first weights; everything after has generators of its own
    ddpm = build(spec, device, pick_amp(args.amp, device))

    shape = {"n_classes": args.n_classes, "im_height": args.im_height, "im_channels": args.im_channels}
    try:
        train_set = datasets.load(args.dataset, args.data_dir, train=True, limit=args.limit, **shape)
        val_set = datasets.load(args.dataset, args.data_dir, train=False, **shape)
    except ValueError as error:
        raise CallError(str(error)) from None

    defaults = plain_arguments(parser.parse_args([]))
    Trainer(ddpm, spec, train_set, val_set, args, defaults, EXPECTED).run()


if __name__ == "__main__":
    run_script(main)
