"""Train an unconditional DDPM on faces of one kind of animal (AFHQ), counted in steps, and fill a log folder.

    python train_afhq.py                                       # the exercise: 10,000 steps at 32 x 32, log/log_afhq
    python train_afhq.py --resume                              # the same command after an interruption
    python train_afhq.py --train_steps 1000 --save_and_sample_every 500 --fid
    python train_afhq.py --load_path log/log_afhq/model_step10000.pt --save_folder log/longer   # begin with its weights

The images are files in <data_path>/afhq/train/<class>/ (and .../test/<class>/ or .../val/<class>/, if you have them;
otherwise some are held out). `--fid` measures the FID if clean-fid is installed (requirements-fid.txt), and in any case
the Frechet distance in the features of a small network that is first trained to tell how the images were turned.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

import checkpoint
import datasets
from animal_figures import N_MEASURED, draw_animal_run
from cli import (
    HelpFormatter,
    add_method_arguments,
    add_running_arguments,
    number,
    pick_amp,
    pick_device,
    run_script,
    values_from_call,
    whole,
)
from figures import draw_data
from measurements import read_list
from reference import Reference
from trainer import Trainer, plain_arguments

EXPECTED = (
    "The loss falls fast in the first hundreds of steps and then hardly at all, while faces become faces: judge "
    "progress by the samples."
)


def parser() -> argparse.ArgumentParser:
    """The exercise's names, and beside them those of the other scripts, which messages of the suite use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument_group("the exercise's arguments").add_argument
    add("--batch_size", type=whole(1), default=32, help="images per training step")
    add("--train_steps", type=whole(1), default=10_000, help="length of the training")
    add(
        "--save_and_sample_every",
        type=whole(1),
        default=1000,
        metavar="S",
        help="model and pictures every S steps, and at the end",
    )
    add("--data_class", default="cat", help="which animal: the name of a folder")
    add(
        "--image_size",
        "--im_height",
        type=whole(8),
        default=32,
        dest="im_height",
        help="height and width of the images",
    )
    add(
        "--time_steps",
        "--n_timesteps",
        type=whole(1),
        default=50,
        dest="n_timesteps",
        help="T, the number of diffusion steps",
    )
    add(
        "--unet_dim",
        "--n_features",
        type=whole(8),
        default=16,
        help="width of the network's first level, a multiple of 8",
    )
    add(
        "--unet_dim_mults",
        type=whole(1),
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="M",
        help="width of each level as a multiple",
    )
    add(
        "--learning_rate",
        "--l_rate",
        type=number(0, 1e30, open_ends=True),
        default=1e-3,
        dest="l_rate",
        help="of Adam, constant",
    )
    add(
        "--save_folder",
        "--log_dir",
        type=Path,
        default=Path("./log/log_afhq"),
        dest="log_dir",
        help="folder of everything that the run writes",
    )
    add("--load_path", type=Path, default=None, help="a model file of this script: begin with its weights")
    add("--data_path", "--data_dir", type=Path, default=Path("./data"), dest="data_dir", help="folder of the data sets")
    add(
        "--dataloader_workers",
        "--n_workers",
        type=whole(0),
        default=0,
        dest="n_workers",
        help="processes that decode image files, at the first start",
    )
    add("--n_samples", type=whole(1), default=64, help="pictures in a grid of samples")
    add(
        "--fid",
        action="store_true",
        help=f"with the pictures: how far {N_MEASURED:,} samples are from the training images",
    )
    add("--judge_dir", type=Path, default=Path("./log/judges"), help="where the judges of --fid are kept")
    add_method_arguments(parser)
    add_running_arguments(parser)
    parser.set_defaults(schedule="cosine", loss="l1", ema=0.995)
    return parser


def main() -> None:
    args = parser().parse_args()
    device = pick_device(args.device)
    unet = {"in_channels": 3, "height": args.im_height, "dim": args.unet_dim, "dim_mults": list(args.unet_dim_mults)}
    # The exercise's sampler: x_0 clamped, mean and variance of the posterior.
    ddpm_arguments = {"n_timesteps": args.n_timesteps, "schedule": args.schedule, "loss": args.loss,
                      "variance": "posterior", "clip_x0": True}  # fmt: skip
    spec = {"network": "unet", "network_arguments": unet, "ddpm": ddpm_arguments}
    torch.manual_seed(args.seed)  # the first weights; everything after has generators of its own
    ddpm = checkpoint.build(spec, device, pick_amp(args.amp, device))
    if args.load_path and not (args.resume and (args.log_dir / "checkpoint.pt").exists()):
        before, content = checkpoint.load_model(args.load_path, device)
        checkpoint.load_weights(ddpm.nn_model, before.nn_model.state_dict(), args.load_path)

    which = {"n_classes": None, "data_class": args.data_class, "im_height": args.im_height, "im_channels": 3}
    with values_from_call():
        train_set, val_set = (
            datasets.load("afhq", args.data_dir, train, n_workers=args.n_workers, **which) for train in (True, False)
        )
    args.dataset = "afhq"
    defaults = plain_arguments(parser().parse_args([]))
    draw = draw_animal_run
    if args.fid:
        if args.resume:
            read_list(args.log_dir / "metrics.json")  # now, and not at the first pictures, is it found damaged
        train_set, val_set = train_set.to(device), val_set.to(device)
        draw = functools.partial(draw, reference=Reference(train_set, val_set, args.judge_dir, args.data_dir))
    Trainer(ddpm, spec, train_set, val_set, args, defaults, EXPECTED, draw, draw_data).run()


if __name__ == "__main__":
    run_script(main)
