"""CLIP (Radford et al. 2021, arXiv:2103.00020) by the package open_clip_torch, as an encoder of datasets/encoders.py.

Pictures and texts become unit vectors of one space, in which a picture lies near the texts that describe it. The package
is imported only here, and only when an encoder is made.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.console import CallError, RunError, one_line
from datasets.image_files import decode

MODEL, WEIGHTS = "ViT-B-32-quickgelu", "openai"
RANDOM = "random"  # untrained weights, the same at every start: to try everything out without a download
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # if the model names no others


class Clip:
    """A model of open_clip.

    model: one of its names. weights: one of its tags for them (downloaded once), a file, or RANDOM.
    sha256: of the weights, which must be the same if it is given.
    """

    def __init__(
        self, model: str = MODEL, weights: str = WEIGHTS, device: torch.device | str = "cpu", sha256: str | None = None
    ):
        try:
            import open_clip
        except ImportError:
            raise RunError("CLIP needs a package that is not installed: pip install -r requirements-text.txt") from None
        if model not in open_clip.list_models():
            raise CallError(
                f"open_clip has no model {model!r}; `python -c 'import open_clip; print(open_clip.list_models())'`"
            )
        tags = open_clip.list_pretrained_tags_by_model(model)
        if weights not in (RANDOM, *tags) and not Path(weights).is_file():
            known = ", ".join([RANDOM, *tags])
            raise CallError(
                f"{weights!r} is no file, and the only names of weights of {model} are {known}: --clip_weights FILE"
            )
        logging.disable(logging.CRITICAL)  # libraries log every attempt to download
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.model = open_clip.create_model(
                    model, None if weights == RANDOM else weights, pretrained_text=False
                )
            self.tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # of the network, the hub, or the file
            what = "cannot be read" if Path(weights).is_file() else "cannot be downloaded"
            raise RunError(
                f"the weights {weights!r} of {model} {what}: name a file of them by --clip_weights ({one_line(error)})"
            ) from None
        finally:
            logging.disable(logging.NOTSET)
        self.model.eval().requires_grad_(False).to(device)
        digest = hashlib.sha256()
        for value in self.model.state_dict().values():
            digest.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
        self.sha256 = digest.hexdigest()
        if sha256 not in (None, self.sha256):
            raise RunError(
                f"the weights {weights!r} of {model} are not those of the training: name their file by --clip_weights"
            )
        self.model_name, self.weights = model, weights
        self.name = f"clip-{model.replace('/', '-')}-{self.sha256[:8]}"
        size = self.model.visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.device = torch.device(device)
        self.dimension = self.encode_texts(["a picture"]).shape[1]

    def recipe(self) -> dict[str, Any]:
        weights = Path(self.weights).name[-100:]
        return {"kind": "clip", "model": self.model_name, "weights": weights, "sha256": self.sha256}

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """CallError for a text that is longer than the model reads; open_clip would cut it off."""
        most = self.model.context_length
        encode = getattr(self.tokenizer, "encode", None) or self.tokenizer.tokenizer.encode
        for text in texts:
            n = len(encode(text)) + 2  # with the marks of start and end
            if n > most:
                raise CallError(f"the prompt '{text[:40]} ...' is too long: {n} tokens, and CLIP reads {most}")
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=1).clone()

    def encode_images(self, files: Sequence[Path]) -> Tensor:
        """The square in the middle of each picture, in the model's size, resized as CLIP's authors do."""
        side, cubic = self.size, Image.Resampling.BICUBIC
        images = np.stack([decode(file, side, side, resample=cubic) for file in files])
        return self.encode_pixels(torch.from_numpy(images) / 255)

    @torch.inference_mode()
    def encode_pixels(self, images: Tensor) -> Tensor:
        """Images in [0, 1], float [N, 3, H, W] of any size -> float32 [N, D]."""
        images = images.to(self.device)
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        config = getattr(self.model.visual, "preprocess_cfg", {})
        mean, std = (
            torch.tensor(config.get(key) or default, device=self.device).view(1, 3, 1, 1)
            for key, default in (("mean", MEAN), ("std", STD))
        )
        return F.normalize(self.model.encode_image((images - mean) / std).float(), dim=1).clone()
