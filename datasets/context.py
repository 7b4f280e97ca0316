"""Images with a context vector each, from an encoder; vectors are computed once and kept beside the images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from common.console import CallError, Progress, one_line
from common.files import atomic_write
from datasets.celeba import list_celeba
from datasets.encoders import Attributes, Encoder
from datasets.image_folder import cache_file, list_split, load_files
from datasets.image_set import ImageSet

AT_ONCE = 256  # images that an encoder gets
LAYOUTS = {
    "celeba": ("celeba", list_celeba),
    "folder": ("", list_split),
}  # data set: folder in data_dir, how to list it


@dataclasses.dataclass(eq=False)
class ContextSet(ImageSet):
    """Images whose condition is a vector, float16 [N, D], in place of their class."""

    context: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, 0))

    def to(self, device: torch.device | str) -> ContextSet:
        moved = cast(ContextSet, super().to(device))
        return dataclasses.replace(moved, context=self.context.to(moved.images.device))

    def batch(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ImageSet's, with c the context vectors, float32 [B, D]."""
        y, _ = super().batch(index, flip)
        context = self.context.index_select(0, index.to(self.context.device))
        return y, context.to(self.device, torch.float32)

    def nearest(self, vectors: Tensor, n: int) -> Tensor:
        """For each of the vectors [K, D] the n images whose context has the largest cosine with it: int64 [n * K], j-th
        nearest of vector k at k + j * K."""
        context, vectors = (torch.nn.functional.normalize(v.cpu().float()) for v in (self.context, vectors))
        return (vectors @ context.T).topk(min(n, len(self)), dim=1).indices.T.flatten()


def root_of(name: str, data_dir: Path) -> Path:
    """Where the images of a data set in LAYOUTS are."""
    return Path(os.path.expanduser(data_dir)).absolute() / LAYOUTS[name][0]


def load_images(
    name: str, data_dir: Path, train: bool, size: int, limit: int | None = None, n_workers: int = 0
) -> tuple[ImageSet, list[Path]]:
    """A split of a data set in LAYOUTS without its classes, or its first `limit` images; and the files of the images."""
    images, labels, _names, files = load_files(root_of(name, data_dir), train, size, n_workers, LAYOUTS[name][1])
    return ImageSet(images[:limit], torch.zeros_like(labels[:limit]), [name], name), files[:limit]


def with_context(image_set: ImageSet, files: list[Path], encoder: Encoder, data_dir: Path, train: bool) -> ContextSet:
    """Images (of `load_images`) with their vectors."""
    # Attributes are read at once, and the table may have changed.
    instant = isinstance(encoder, Attributes)
    context = encoder.encode_images(files).half() if instant else _cached(image_set, files, encoder, data_dir, train)
    kept = {field.name: getattr(image_set, field.name) for field in dataclasses.fields(ImageSet)}
    return ContextSet(**kept, context=context)


def _cached(image_set: ImageSet, files: list[Path], encoder: Encoder, data_dir: Path, train: bool) -> Tensor:
    """Vectors from the cache context_<split>_<encoder>.npz beside the images, or computed and written there if it is not
    of these files and this encoder. float16 [N, D]."""
    split = "train" if train else "test"
    cache = cache_file(root_of(image_set.name, data_dir), f"context_{split}_{encoder.name}.npz")
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([encoder.recipe(), states]).encode()).hexdigest()
    context = read_vectors(cache, key)
    if context is None:
        parts = []
        print(f"encoding {len(files):,} {split} images by {encoder.name} ...", flush=True)
        with Progress(len(files)) as progress:
            for i in range(0, len(files), AT_ONCE):
                parts.append(encoder.encode_images(files[i : i + AT_ONCE]).half().cpu())
                progress.advance(len(parts[-1]))
        context = torch.cat(parts)
        try:
            with atomic_write(cache) as temporary:
                np.savez(temporary, key=np.array(key), context=context.numpy())
        except OSError as error:
            print(
                f"{cache} cannot be written ({one_line(error)}): the vectors are computed again next time", flush=True
            )
    return context


def read_vectors(cache: Path, key: str) -> Tensor | None:
    """The vectors of a cache; None if it is not there, of other images or another encoder, or damaged."""
    try:
        with np.load(cache, allow_pickle=False) as archive:
            if str(archive["key"]) == key:
                return torch.from_numpy(archive["context"])
        print(f"{cache} is of other images or another encoder: encoding again", flush=True)
    except FileNotFoundError:
        pass
    except MemoryError:
        raise
    except Exception as error:
        print(f"{cache} is damaged ({one_line(error)}): encoding again", flush=True)
    return None


def encode_prompts(encoder: Encoder, prompts: list[str]) -> Tensor:
    """Context vectors of prompts, float32 [K, D]. A prompt may be a weighted mixture: "a cat*0.7 + a dog*0.3".

    Its vector is the sum of those of its parts, each times its weight (without weights they are equal and add up to 1).
    CallError for an empty prompt, a prompt that is there twice, a weight that is no number, and what cannot be shown.
    """
    if not prompts:
        raise CallError("no prompt is given")
    for prompt in prompts:
        if not prompt.isprintable():
            raise CallError(f"the prompt {prompt[:40]!r} has characters that cannot be shown")
    if len(set(prompts)) < len(prompts):
        raise CallError("a prompt is given twice")
    return torch.stack([_mixture(encoder, prompt) for prompt in prompts])


def _mixture(encoder: Encoder, prompt: str) -> Tensor:
    parts = [part.partition("*") for part in prompt.split(" + ")]
    texts = [text.strip() for text, _, _ in parts]
    if not all(texts):
        raise CallError(f"the prompt {prompt!r} is empty, or a part of it is")
    starred = [weight for _, star, weight in parts if star]
    try:
        weights = [float(weight) for weight in starred] or [1 / len(parts)] * len(parts)
    except ValueError:
        weights = []
    if len(weights) != len(parts) or not all(abs(weight) <= 1e3 for weight in weights):
        raise CallError(f"the prompt {prompt!r}: give each part a weight, as in 'old*0.7 + happy*0.3', or none")
    return (torch.tensor(weights)[:, None] * encoder.encode_texts(texts).cpu()).sum(0)
