"""Train a DDPM on faces whose condition is a context vector, so that words ask for pictures, and fill a log folder.

    python train_celeba.py                                       # CelebA with CLIP: 50 epochs at 64 x 64, log/log_celeba
    python train_celeba.py --resume                              # the same command after an interruption
    python train_celeba.py --dataset folder --data_dir data/faces --encoder attributes --prompts happy "not happy"
    python train_celeba.py --im_height 32 --prompts "a smiling woman with blond hair" "an old man with glasses"

The images are CelebA as torchvision lays it out (<data_dir>/celeba/img_align_celeba, see datasets/celeba.py), or image
files in <data_dir>/train/<any name>/ with `--dataset folder`. In training the condition is the vector that the encoder
makes of each picture; in sampling it is the vector of a prompt. Encoders: `clip` (pip install -r requirements-text.txt,
which downloads weights once), and `attributes`, a table of numbers beside the images, whose prompts are phrases such as
"old, not happy". docs/text.md tells how this works and what came of it.
"""

import sys
from os.path import dirname

sys.path.insert(0, dirname(__file__))  # `python -P` leaves it out
from common.console import listen

if __name__ == "__main__":
    listen()  # before the imports that take seconds

import argparse
import functools
from pathlib import Path

from common.console import (
    ArgumentParser,
    HelpFormatter,
    as_path,
    at_least,
    expanded,
    in_range,
    number,
    run_script,
    values_from_call,
)
from datasets import clip
from datasets.context import LAYOUTS
from training import processes
from training.arguments import (
    about,
    add_method_arguments,
    add_running_arguments,
    add_sampler_arguments,
    new_model,
    process_of,
    settings_of,
)
from training.class_conditional import check_weights
from training.prompts import check_call, draw_first, draw_prompt_run, load_sets
from training.settings import Plan
from training.trainer import Trainer

EXPECTED = (
    "The loss falls fast in the first epochs and then hardly at all, while faces become faces: judge progress by the "
    "pictures. Coarse wishes (hair, skin, age) are obeyed before fine ones (a smile), and more plainly at larger w."
)
# Of CLIP; a table of attributes has examples of its own.
PROMPTS = [
    "a smiling woman with blond hair",
    "a smiling man with dark hair",
    "an old man with glasses",
    "a young woman with long dark hair",
    "a bald man with a beard",
    "a woman with a hat",
]


def parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    count = at_least(1)
    add = parser.add_argument_group("the exercise's arguments").add_argument
    add("--batch_size", type=count, default=128, help="images per training step")
    add("--n_epochs", type=number("n_epochs"), default=50, help="passes over the training images")
    add("--log_dir", type=as_path, default=Path("./log/log_celeba"), help="folder of everything that the run writes")
    add("--n_workers", type=number("n_workers"), default=0, help="threads that decode image files, at the first start")
    add("--l_rate", type=in_range(0, 1e30, open_ends=True), default=3e-4, help="learning rate of Adam, constant")
    text = "guidance weights w of the pictures, as in (1 + w) eps(x, c) - w eps(x, no context)"
    add("--g_weight", type=in_range(-1, 1e6), nargs="+", default=[0, 1, 3, 7], metavar="W", help=text)
    text = "what the pictures show, a column each (CLIP: six sentences; attributes: both ends of three of them)"
    add("--prompts", nargs="+", default=None, metavar="TEXT", help=text)
    add(
        "--n_features",
        type=number("n_features"),
        default=64,
        help="width of the network's first level, a multiple of 8",
    )
    text = "width of each level as a multiple of n_features"
    add("--dim_mults", type=number("dim_mults"), nargs="+", default=[1, 2, 4, 4], metavar="M", help=text)
    add("--n_blocks", type=number("n_blocks"), default=2, help="residual blocks of each level")
    add("--dropout", type=in_range(0, 0.999), default=0.0, help="in the residual blocks")
    add("--n_timesteps", type=number("n_timesteps"), default=500, help="T, the number of diffusion steps")
    add("--n_samples", type=number("n_samples"), default=4, help="pictures of each prompt in a grid")
    add("--im_height", type=number("im_height"), default=64, help="height and width of the images")
    add("--drop_prob", type=in_range(0, 1), default=0.1, help="how often training hides the context")

    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=list(LAYOUTS), default="celeba", help="what to train on")
    add(
        "--data_dir", type=as_path, default=Path("./data"), help="folder of the data sets; with `folder`, of its images"
    )
    add("--limit", type=count, default=None, metavar="N", help="train on the first N images only")

    add = parser.add_argument_group("encoder").add_argument
    add("--encoder", choices=["clip", "attributes"], default="clip", help="what makes vectors of pictures and texts")
    text = "table of attributes (attributes.csv or list_attr_celeba.txt beside the images)"
    add("--attributes", type=as_path, default=None, metavar="FILE", help=text)
    add("--clip_model", default=clip.MODEL, metavar="NAME", help="a model of open_clip")
    text = f"its weights: a name that open_clip knows, a file, or `{clip.RANDOM}`"
    add("--clip_weights", type=expanded, default=clip.WEIGHTS, metavar="FILE", help=text)

    add_method_arguments(parser)
    add_sampler_arguments(parser, "--sample_steps")
    add_running_arguments(parser)
    add = parser.add_argument_group("log folder").add_argument
    add(
        "--save_every",
        type=number("save_every"),
        default=5,
        metavar="E",
        help="model and pictures every E epochs, and at the end",
    )
    text = "GIFs with the pictures of every E-th epoch, and at the end"
    add("--animate_every", type=number("animate_every"), default=25, metavar="E", help=text)
    parser.set_defaults(schedule="cosine")
    return parser


@processes.together()
def main() -> None:
    args = parser().parse_args()
    args.prompts = args.prompts or (PROMPTS if args.encoder == "clip" else None)
    check_call(args)
    check_weights(args.g_weight)
    device = processes.start(args.device)
    with values_from_call(), processes.one_by_one():
        encoder, vectors, train_set, val_set = load_sets(args, device)
    network = {
        **{"in_channels": 3, "height": args.im_height, "context_dim": encoder.dimension, "dim": args.n_features},
        **{"dim_mults": list(args.dim_mults), "n_blocks": args.n_blocks, "dropout": args.dropout},
    }
    # x_0 clamped: guidance would otherwise drive colours out of their range.
    schedule = {**process_of(parser(), args), "drop_prob": args.drop_prob}
    spec = {
        "network": "unet",
        "network_arguments": network,
        "ddpm": {**schedule, "variance": "posterior", "clip_x0": True},
        "encoder": encoder.recipe(),
    }
    ddpm = new_model(spec, args, device)
    plan = Plan("epoch", args.n_epochs, args.save_every)
    pictures = {"train_set": train_set, "vectors": vectors, "prompts": args.prompts}
    first = functools.partial(draw_first, **pictures)
    draw = functools.partial(draw_prompt_run, **pictures, args=args)
    told = about(parser(), args, spec, EXPECTED)
    Trainer(ddpm, train_set, val_set, settings_of(args), plan, told, draw, first).run()


if __name__ == "__main__":
    run_script(main)
