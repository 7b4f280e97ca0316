"""Models of the same images side by side: samples of each from the same noise, above real images.

    python compare.py log/log_mnist_fc/model_epoch10.pt log/log_mnist/model_epoch12.pt

writes comparison.png beside the first model: for each of them its network, number of parameters and validation loss
(that of training: the first 2,000 test images with fixed t and noise), and n_samples of every class at the same guidance
weight (of 10 classes, where there are more than 20). The models may be of any kind and size; their classes, images,
noise schedule and loss have to be the same, or else neither pictures nor losses would compare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from common.console import CallError, at_least, in_range, run_script, values_from_call
from common.files import free_names
from common.machine import keep_large_buffers, pick_amp, pick_device
from datasets import sources
from figures.images import real_rows
from reporting.log_files import shown_classes
from reporting.page import write_report
from training import checkpoint
from training.losses import validation_loss
from utils import plot_groups


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL", help="model_epoch*.pt or checkpoint.pt files of this suite")
    add("--g_weight", type=in_range(-1, 1e6), default=1.0, metavar="W", help="guidance weight w (1)")
    add("--n_samples", type=at_least(1), default=2, help="samples of each class (2)")
    add("--seed", type=at_least(0), default=0, help="decides every random draw (0)")
    add("--out", type=Path, metavar="FILE.png", help="the picture (comparison.png beside the first model)")
    add("--data_dir", type=Path, default=Path("./data"), help="folder of the data sets")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args()
    args.out = args.out or args.models[0].parent / "comparison.png"
    if args.out.suffix != ".png":
        raise CallError(f"--out {args.out}: the picture is a .png")
    return args


def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    keep_large_buffers()
    loaded = [checkpoint.load_model(file, device, pick_amp("auto", device)) for file in args.models]
    about = [
        (checkpoint.data_of(ddpm, content), content["class_names"], ddpm.alpha_bar_t.tolist(), ddpm.loss)
        for ddpm, content in loaded
    ]
    for file, one in zip(args.models, about):
        if one != about[0]:
            raise CallError(f"{file} has other images or classes, or another T, schedule or loss than {args.models[0]}")
    (name, which), class_names, _, _ = about[0]
    if not class_names:
        raise CallError(f"{args.models[0]} has no classes")
    with values_from_call():
        test_set = sources.load(name, args.data_dir, train=False, **which).to(device)

    groups, classes = [], shown_classes(len(class_names))
    for file, (ddpm, content) in zip(args.models, loaded):
        n_parameters = sum(p.numel() for p in ddpm.nn_model.parameters())
        loss = validation_loss(ddpm, test_set, True, args.seed)
        generator = torch.Generator(device).manual_seed(args.seed)
        y, _ = ddpm.sample(args.n_samples, None, len(class_names), args.g_weight, classes, generator=generator,
                           record=False)  # fmt: skip
        lines = [content["spec"]["network"], file.name, f"{n_parameters:,} parameters", f"validation loss {loss:.4f}"]
        print(f"{file}: {lines[0]}, {lines[2]}, {lines[3]}", flush=True)
        groups.append(("\n".join(lines), y.cpu()))
    groups.append(("real", real_rows(test_set, args.n_samples, classes)))
    with free_names(args.out.parent, args.out.stem) as (path,):
        title = f"guidance weight {args.g_weight:g}, the same noise (seed {args.seed})"
        plot_groups(path, groups, [class_names[k] for k in classes], title)
    print(path)
    if (path.parent / "report.html").exists():
        write_report(path.parent)


if __name__ == "__main__":
    run_script(main)
