"""Judge a trained model: how many of its samples show the class that was asked for?

    python evaluate.py log/log_mnist/model_epoch20.pt                       # 30 samples of each class at w = 0 1 3
    python evaluate.py log/log_mnist/model_epoch20.pt --g_weight 2 --n_samples 100
    python evaluate.py log/log_mnist/model_epoch20.pt --inpaint 100         # half of 100 test images, completed

The judge is a small classifier trained on the real training images, once; it is kept in `--judge_dir`. What it says
of the real test images stands beside every result, and all of it goes into metrics.json next to the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

import checkpoint
import datasets
from cli import (
    CallError,
    command_line,
    device_name,
    keep_large_buffers,
    number,
    pick_amp,
    pick_device,
    run_script,
    values_from_call,
    whole,
)
from datasets import ImageSet, to_float
from ddpm import DDPM
from inpainting import MASKS, METHODS, mask_named
from judging import classify, trusted_judge
from utils import write_json

AT_ONCE = 30  # samples of each class that are drawn together
COMPLETED_AT_ONCE = 100  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, help="a model_epoch*.pt or checkpoint.pt of this suite")
    add("--data_dir", type=Path, default=Path("./data"), help="folder of the data sets")
    add("--judge_dir", type=Path, default=Path("./log/judges"), help="where judges are kept")
    add("--g_weight", type=number(-1, 1e6), nargs="+", default=[0, 1, 3], metavar="W", help="guidance weights (0 1 3)")
    add("--n_samples", type=whole(1), default=30, help="samples of each class (30)")
    add("--inpaint", type=whole(1), metavar="N", help="instead of samples judge completions of the first N test images")
    add("--mask", choices=MASKS, default="bottom", help="what --inpaint hides (bottom)")
    add("--seed", type=whole(0), default=0, help="decides the samples (0)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--raw", action="store_true", help="of a checkpoint.pt: the weights themselves, not their moving average")
    add("--out", type=Path, help="where the results go (metrics.json beside the model)")
    args = parser.parse_args()

    device = pick_device(args.device)
    keep_large_buffers()
    ddpm, content = checkpoint.load_model(args.model, device, pick_amp("auto", device), args.raw)
    out = args.out or args.model.parent / "metrics.json"
    before = read_list(out)  # now, so that a file that cannot be added to is found before the work is done

    name, shape = checkpoint.data_of(ddpm, content)
    n_classes = len(content["class_names"])
    with values_from_call():
        train_set = datasets.load(name, args.data_dir, train=True, **shape).to(device)
        test_set = datasets.load(name, args.data_dir, train=False, **shape).to(device)
    judge_name = "judge_{name}_{n_classes}x{im_height}x{im_channels}.pt".format(name=name, **shape)
    judge, judge_accuracy = trusted_judge(args.judge_dir / judge_name, train_set, test_set)
    print(f"judge: {judge_accuracy:.2%} of {len(test_set):,} real test images", flush=True)

    measured = {
        "command": command_line(),
        "device": device_name(device),
        "model": args.model.name,
        "epoch": content["epoch"],
        "weights": "raw" if args.raw or not content["arguments"].get("ema") else "moving average",
        "sampler": f"ddpm, {ddpm.n_timesteps} steps, seed {args.seed}",
        "judge_accuracy_on_real_test_images": judge_accuracy,
    }
    if args.inpaint:
        half_judge_file = args.judge_dir / f"{args.mask}_hidden_{judge_name}"
        measured.update(judge_completions(ddpm, judge, half_judge_file, train_set, test_set, args))
    else:
        measured.update(judge_samples(ddpm, judge, n_classes, args))
    write_json(out, before + [measured])
    print(f"added to {out}")


def judge_samples(ddpm: DDPM, judge: nn.Module, n_classes: int, args: argparse.Namespace) -> dict[str, Any]:
    """For each guidance weight the share of samples in which the judge sees the class asked for."""
    results = []
    for w in args.g_weight:
        generator = torch.Generator(ddpm.device).manual_seed(args.seed)
        right = []
        for rows in torch.ones(args.n_samples).split(AT_ONCE):
            y, _ = ddpm.sample(len(rows), None, n_classes, w, generator=generator, record=False)
            right += (classify(judge, y) == torch.arange(n_classes, device=ddpm.device).repeat(len(rows))).tolist()
        share = sum(right) / len(right)
        results.append({"guidance_weight": w, "judge_accuracy": share})
        print(f"w = {w:g}: {share:.1%} of {len(right)} samples show the class asked for", flush=True)
    return {"samples_per_weight": args.n_samples * n_classes, "results": results}


def judge_completions(
    ddpm: DDPM,
    judge: nn.Module,
    half_judge_file: Path,
    train_set: ImageSet,
    test_set: ImageSet,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Hide a part of the first test images and let each method of `DDPM.complete_image` complete them, without a class.

    Measured: the share of completions in which the judge sees the true class, and how far the known pixels end from
    what they were. For comparison: what the judge says of the whole images, and what one says that was trained to see
    nothing but the visible part (what can be known of the class from there).
    """
    test_set = dataclasses.replace(
        test_set, images=test_set.images[: args.inpaint], labels=test_set.labels[: args.inpaint]
    )
    y, labels = to_float(test_set.images), test_set.labels
    height, width = y.shape[2:]
    mask = mask_named(args.mask, height, width, torch.Generator().manual_seed(args.seed)).to(y.device)
    visible = [
        dataclasses.replace(images, images=images.images * mask.to(torch.uint8)) for images in (train_set, test_set)
    ]
    _, half_judge_accuracy = trusted_judge(half_judge_file, *visible)
    whole_accuracy = (classify(judge, y) == labels).float().mean().item()
    print(f"{args.mask} hidden, {len(y)} test images: the judge is right on {whole_accuracy:.1%} of the whole ones; "
          f"a judge of visible parts on {half_judge_accuracy:.1%}", flush=True)  # fmt: skip

    results = []
    for method in METHODS:
        generator = torch.Generator(ddpm.device).manual_seed(args.seed)
        began = time.perf_counter()
        found = torch.cat([
            ddpm.complete_image(part, mask, method=method, generator=generator) for part in y.split(COMPLETED_AT_ONCE)
        ])  # fmt: skip
        seconds = time.perf_counter() - began
        true_class = (classify(judge, found) == labels).float().mean().item()
        off = ((found - y).abs() * mask).sum().item() / mask.expand_as(y).sum().item()
        results.append({"method": method, "true_class": true_class, "known_error": off, "seconds": seconds})
        print(
            f"{method}: {true_class:.1%} show the true class; known pixels off by {off:.4f}; {seconds:.0f} s",
            flush=True,
        )
    return {
        "completions": f"the first {len(y)} test images, {args.mask} hidden, no class given",
        "judge_accuracy_on_the_whole_images": whole_accuracy,
        "accuracy_of_a_judge_that_sees_the_visible_part": half_judge_accuracy,
        "results": results,
    }


def read_list(file: Path) -> list:
    """The measurements already in `file`: new ones are added, none is lost."""
    if not file.exists():
        return []
    try:
        measured = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise CallError(f"{file} is damaged: move it away, or choose another --out") from None
    if not isinstance(measured, list):
        raise CallError(f"{file} holds something else than this script writes: choose another --out")
    return measured


if __name__ == "__main__":
    run_script(main)
