"""A training run whose condition is a context vector: its data, and its pictures, which prompts ask for."""

from __future__ import annotations

import argparse

import torch

from common.console import CallError
from common.limits import wrong_name
from datasets import clip
from datasets.clip import Clip
from datasets.context import ContextSet, encode_prompts, load_images, root_of, with_context
from datasets.encoders import Attributes, Encoder, beside
from figures.grids import plot_grid
from figures.images import N_PROCESS, process_figures
from figures.similarity import similarity_figure
from training.arguments import sampler_as_asked
from training.pictures import draw_at_each_weight
from training.trainer import Trainer

N_UNCONDITIONAL = 16  # images without context at the end


def load_sets(args: argparse.Namespace, device: torch.device) -> tuple[Encoder, torch.Tensor, ContextSet, ContextSet]:
    """The encoder that the arguments ask for, the vectors of the prompts, and the two splits with theirs, on the device.

    Without prompts in `args`, it gets those of a table of attributes.
    """
    encoder: Encoder
    if args.encoder == "clip":  # first, since it refuses more often than data, which take long to decode
        encoder = Clip(args.clip_model, args.clip_weights, device)
        vectors = encode_prompts(encoder, args.prompts)
    (train_set, files), (val_set, val_files) = (
        load_images(args.dataset, args.data_dir, train, args.im_height, limit, args.n_workers)
        for train, limit in ((True, args.limit), (False, None))
    )
    if args.encoder == "attributes":
        encoder = Attributes.of(args.attributes or beside(root_of(args.dataset, args.data_dir)), files)
        args.prompts = args.prompts or encoder.examples()
        vectors = encode_prompts(encoder, args.prompts)
    sets = [
        with_context(images, paths, encoder, args.data_dir, train).to(device)
        for images, paths, train in ((train_set, files, True), (val_set, val_files, False))
    ]
    return encoder, vectors, sets[0], sets[1]


def draw_first(run: Trainer, train_set: ContextSet, vectors: torch.Tensor, prompts: list[str]) -> None:
    """data.png, the pictures nearest to each prompt; similarity.png, how alike some pictures and the prompts are."""
    plot_grid(
        run.log_dir / "data.png",
        nearest_images(train_set, vectors, 6),
        class_names=prompts,
        title=f"{len(train_set):,} training images: the nearest to each prompt",
    )
    similarity_figure(run.log_dir / "similarity.png", train_set, vectors, prompts)
    run.watch.lap("other figures")


def nearest_images(images: ContextSet, vectors: torch.Tensor, n: int) -> torch.Tensor:
    """The n images nearest to each of the vectors [K, D], float32 [n * K, C, H, W] on the CPU, prompt-fastest."""
    return images.batch(images.nearest(vectors, n))[0].cpu()


def draw_prompt_run(
    run: Trainer, train_set: ContextSet, vectors: torch.Tensor, prompts: list[str], args: argparse.Namespace
) -> None:
    """Grids of samples with a column for each prompt, some animated, and the two processes; at the end also samples
    without context. Every weight and epoch has the same noise, that of the run's seed."""
    final, seed, report, mark = run.step == run.plan.last_step, run.seed_for_pictures, run.sampling_progress, run.mark()
    animate = final or run.step // run.plan.unit_steps % args.animate_every == 0
    real = nearest_images(train_set, vectors, args.n_samples)
    run.expect_pictures(len(args.g_weight) + 1 + final)
    sampler = sampler_as_asked(run.averaged, args.sampler, args.sample_steps, args.placement)
    draw_at_each_weight(run, sampler, vectors, args.g_weight, args.n_samples, real, prompts, animate)
    if run.missing(run.model_path().name):
        run.save_model()
    if run.missing("forward_process.png", "backward_process.png"):
        images, c = train_set.batch(torch.arange(min(N_PROCESS, len(train_set))))
        process_figures(run.log_dir, run.averaged, images, seed, c, progress=report("processes"))
    if final and run.missing("samples_unconditional.png"):
        generator = torch.Generator(run.device).manual_seed(seed)
        y, _ = sampler.sample(
            N_UNCONDITIONAL, classes=None, generator=generator, record=False, progress=report("unconditional")
        )
        plot_grid(run.log_dir / "samples_unconditional.png", y, title=f"{mark}, no context")
    run.watch.lap("other figures")


def check_call(args: argparse.Namespace) -> None:
    """CallError for a prompt that cannot stand above a column, and for options of the other encoder."""
    options = (
        {"attributes": None} if args.encoder == "clip" else {"clip_model": clip.MODEL, "clip_weights": clip.WEIGHTS}
    )
    for name, default in options.items():
        if getattr(args, name) != default:
            raise CallError(f"--{name} has no effect on --encoder {args.encoder}: leave it out")
    for prompt in args.prompts or []:
        wrong = wrong_name(prompt)
        if wrong:
            raise CallError(f"the prompt {prompt[:40]!r} {wrong}")
