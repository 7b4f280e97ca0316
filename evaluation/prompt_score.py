"""Do samples show what their prompts ask for? Measured in the space of the encoder, over the guidance weight.

The vector of a sample is CLIP's own; for an encoder of attributes, which cannot look at pictures, it is that of a network
(networks/regressor.py) trained to tell the attributes of the real training images. The score of a prompt is the mean
cosine of its samples' vectors and its own. With CLIP, 100 times that is the CLIP score (Hessel et al. 2021,
arXiv:2104.08718).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.console import CallError, Progress, values_from_call
from common.files import check_writable, free_names
from datasets.clip import Clip
from datasets.context import LAYOUTS, ContextSet, encode_prompts, load_images, root_of, with_context
from datasets.encoders import Attributes, Encoder, beside, columns_of
from ddpm import DDPM
from evaluation.comparison import Model
from evaluation.prompts import encoder_of
from evaluation.record import Record
from evaluation.reference import AT_ONCE, draw_in_parts
from figures.curves import new_figure, plain_axes, write_figure
from figures.grids import to_unit
from networks.regressor import Regressor
from training import checkpoint

EPOCHS, BATCH, RATE = 40, 32, 3e-3  # of the regressor
Look = Callable[[Tensor], Tensor]  # images in [-1, 1], float [N, C, H, W] -> vectors float32 [N, D], on the CPU


def measure_prompts(ddpm: DDPM, content: dict[str, Any], args: argparse.Namespace, about: dict[str, Any]) -> None:
    """Samples of each prompt at each guidance weight: scores, and ratings of attributes, to metrics.json and a figure."""
    encoder = encoder_of(Model(args.source, ddpm, content, ddpm), args.clip_weights)
    vectors = encode_prompts(encoder, args.prompts)  # [K, D]; first, since a prompt may be refused
    look, by = look_of(encoder, ddpm, content, args)
    record = Record(args.record, **about, measured="prompts", vectors_by=by)
    ratings, scores = [], []
    n = args.n_samples or 30
    for w in args.g_weight or [0, 1, 3, 7]:
        samples = torch.cat([y.cpu() for y in draw_in_parts(ddpm, n, vectors.shape[1], w, args.seed, vectors)])
        seen = look(samples).view(n, len(vectors), -1)  # [n, K, D]
        # [k, j]: the samples of prompt k, and prompt j
        cosines = torch.einsum("nkd,jd->kj", F.normalize(seen, dim=2), F.normalize(vectors)) / n
        for k, prompt in enumerate(args.prompts):
            others = [cosines[k, j].item() for j in range(len(vectors)) if j != k]
            result = {"guidance_weight": w, "prompt": prompt, "n_images": n, "score": cosines[k, k].item()}
            result["score_with_other_prompts"] = sum(others) / len(others) if others else None
            scores.append(result)
            record.add(result)
            print(f"w = {w:g}, {prompt}: score {result['score']:.3f}", flush=True)
        if isinstance(encoder, Attributes):
            ratings += compare_ends(encoder, args.prompts, seen.mean(0), w, n)
    with free_names(args.out, f"prompt_score_{args.source.stem}") as paths:
        score_figure(paths[0], scores, ratings, f"{args.source.name}, {n} samples of each prompt")
    if ratings:
        record = Record(args.record, **about, measured="ratings", vectors_by=by)
        for rating in ratings:
            record.add(rating)
            print(
                f"w = {rating['guidance_weight']:g}, {rating['attribute']}: {rating['rating_low']:.1f} and "
                f"{rating['rating_high']:.1f}, {rating['share_of_real']:.0%} of the difference of real quarters",
                flush=True,
            )
    print(paths[0], flush=True)


def look_of(encoder: Encoder, ddpm: DDPM, content: dict[str, Any], args: argparse.Namespace) -> tuple[Look, str]:
    """The function that computes vectors of samples, and its name."""
    if isinstance(encoder, Clip):
        clip = encoder

        def look(y: Tensor) -> Tensor:
            pixels = to_unit(y)
            return torch.cat([clip.encode_pixels(part).cpu() for part in pixels.split(AT_ONCE)])

        return look, encoder.name
    assert isinstance(encoder, Attributes)
    name, which = checkpoint.data_of(ddpm, content)
    if name not in LAYOUTS:
        raise CallError(f"the model was trained on {name}, which has no attributes")
    splits = [load_images(name, args.data_dir, train, which["im_height"]) for train in (True, False)]
    table = Path(str(content["arguments"].get("attributes") or ""))
    encoder.table = columns_of(table if table.is_file() else beside(root_of(name, args.data_dir)), encoder.names)
    sets = [
        with_context(images, files, encoder, args.data_dir, train).to(ddpm.device)
        for train, (images, files) in zip((True, False), splits)
    ]
    network, correlations = load_or_train(args.judge_dir, sets[0], sets[1])
    told = ", ".join(f"{name} {r:.2f}" for name, r in zip(encoder.names, correlations))
    print(f"regressor: correlation with the ratings of {len(sets[1])} held-out images: {told}", flush=True)
    return lambda y: predict(network, y), f"a regressor; correlation on {len(sets[1])} held-out images: {told}"


# ------------------------------------------------------------------------------------------------ the regressor


def load_or_train(folder: Path, train_set: ContextSet, test_set: ContextSet) -> tuple[Regressor, list[float]]:
    """The regressor of these images and vectors, from its file in `folder` or trained now, and for each attribute the
    correlation of prediction and truth on the test images."""
    _, channels, height, _ = train_set.images.shape
    with values_from_call():
        network = Regressor(channels, height, train_set.context.shape[1]).to(train_set.device)
    held = [train_set.images.cpu().numpy(), train_set.context.cpu().numpy()]
    key = hashlib.sha256(json.dumps([EPOCHS, BATCH, RATE]).encode() + b"".join(a.tobytes() for a in held)).hexdigest()
    file = folder / f"regressor_{train_set.name}_{height}px_{key[:12]}.pt"
    if file.exists():
        checkpoint.load_weights(network, checkpoint.load(file, "model")["model"], file)
    else:
        check_writable(file)
        train(network, train_set)
        checkpoint.save(file, {"model": network.state_dict()})
    y, c = test_set.batch(torch.arange(len(test_set)))
    both = torch.stack([predict(network, y), c.cpu()]).permute(2, 0, 1)  # [D, 2, N]
    return network, [torch.corrcoef(pair)[0, 1].item() for pair in both]


def train(network: Regressor, train_set: ContextSet) -> None:
    """Mean squared error; images are mirrored and shifted at random. One-cycle learning rate."""
    batch = min(BATCH, len(train_set))
    steps = EPOCHS * (len(train_set) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    generator = torch.Generator().manual_seed(0)
    network.train()
    with Progress(steps, "steps of the regressor") as progress:
        for _ in range(EPOCHS):
            for index in torch.randperm(len(train_set), generator=generator).split(batch):
                if len(index) < batch:
                    continue
                flip = torch.rand(batch, generator=generator) < 0.5
                shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
                y, c = train_set.batch(index, flip.to(train_set.device))
                loss = F.mse_loss(network(y.roll(shift, (2, 3))), c * c.shape[1] ** 0.5)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
                progress.advance(1)
    network.eval()


@torch.inference_mode()
def predict(network: Regressor, y: Tensor) -> Tensor:
    """The regressor's vectors of images, each averaged with that of the mirror image, on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    parts = [(network(part) + network(part.flip(3))).cpu() / 2 for part in y.to(device).split(AT_ONCE)]
    seen = torch.cat(parts)
    return (seen / seen.shape[1] ** 0.5).clone()


# ------------------------------------------------------------------------------------------------ ratings, figure


def compare_ends(encoder: Attributes, prompts: Sequence[str], seen: Tensor, w: float, n: int) -> list[dict[str, Any]]:
    """For each attribute with a prompt for its high end and one for its low end: the mean ratings of both prompts' samples,
    and their difference as a share of that between the highest and the lowest quarter of the real training images.

    Prompts that ask for more than one attribute do not count.

    seen: the mean vector of each prompt's samples, [K, D].
    """
    values = seen.double() * encoder.dimension**0.5 * encoder.std + encoder.mean  # in the table's own units
    asked: dict[int, dict[int, int]] = {}
    for i, prompt in enumerate(prompts):
        meaning = encoder.meaning(prompt) if " + " not in prompt and "*" not in prompt else {}
        if len(meaning) == 1:
            ((k, sign),) = meaning.items()
            asked.setdefault(k, {})[sign] = i
    found = []
    for k, ends in asked.items():
        if len(ends) == 2:
            low, high = (values[ends[sign], k].item() for sign in (-1, 1))
            real = (encoder.high[k] - encoder.low[k]).item()
            found.append(
                {
                    **{"attribute": encoder.names[k], "guidance_weight": w, "n_images": 2 * n},
                    **{"rating_low": low, "rating_high": high, "difference": high - low},
                    **{"difference_of_real_quarters": real, "share_of_real": (high - low) / real},
                }
            )
    return found


def score_figure(path: Path, scores: list[dict[str, Any]], ratings: list[dict[str, Any]], title: str) -> None:
    """Write the scores over w, a line for each prompt, dashed with the other prompts; and the differences of ratings."""
    figure = new_figure(12 if ratings else 7, 4.4)
    panels = figure.subplots(1, 2 if ratings else 1, squeeze=False)[0]
    for prompt in dict.fromkeys(row["prompt"] for row in scores):
        rows = [row for row in scores if row["prompt"] == prompt]
        w = [row["guidance_weight"] for row in rows]
        (line,) = panels[0].plot(w, [row["score"] for row in rows], marker="o", markersize=4, label=prompt)
        others = [np.nan if (v := row["score_with_other_prompts"]) is None else v for row in rows]
        panels[0].plot(w, others, linestyle="--", linewidth=1, color=line.get_color())
    panels[0].set_title("Cosine with the own prompt (dashed: with the others)", fontsize=11)
    if ratings:
        for attribute in dict.fromkeys(row["attribute"] for row in ratings):
            rows = [row for row in ratings if row["attribute"] == attribute]
            share = [row["share_of_real"] for row in rows]
            panels[1].plot([row["guidance_weight"] for row in rows], share, marker="o", markersize=4, label=attribute)
        panels[1].axhline(1, color="#888888", linewidth=1)
        panels[1].set_ylim(bottom=min(0, *(row["share_of_real"] for row in ratings)))
        panels[1].set_title("Difference of the two ends, real quarters = 1", fontsize=11)
    for axes in panels:
        axes.set_xlabel("guidance weight w")
        axes.legend(frameon=False, fontsize=8)
        plain_axes(axes)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.tight_layout()
    write_figure(path, figure)
