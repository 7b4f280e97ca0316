"""The standard FID, by the package clean-fid."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from common.console import Progress, RunError, one_line
from common.files import atomic_write

INCEPTION = "inception-2015-12-05.pt"  # the name that clean-fid gives the weights


Images = Union[Tensor, str, "os.PathLike[str]"]


def fid_by_cleanfid(
    real: Images,
    reference: str,
    feature_extractor: Callable[[Tensor], Tensor] | None = None,
    weights_dir: Path = Path("./data"),
    device: torch.device | str = "cpu",
    batch: int = 64,
) -> Callable[[Images], dict[str, Any]]:
    """The FID as the package clean-fid measures it (Parmar et al. 2022, arXiv:2104.11222), its mode "clean".

        fid = fid_by_cleanfid(train_set.images, "cifar10, training images")      # the features of these, once
        fid(samples)["fid"]

    Returns a function of generated images, whose result can be written as JSON.
    Images: uint8 [N, C, H, W] (grey is repeated), or a folder of image files. reference: which images `real` are.
    feature_extractor: float32 [B, 3, 299, 299] in 0..255 -> [B, D]; None is Inception v3, whose weights are read from
    weights_dir/inception-2015-12-05.pt and downloaded there once. With another extractor the result is no FID, and is
    not called so. RunError in one line if the package, the weights or the images are missing.
    """
    try:
        import cleanfid.fid
    except ImportError as error:
        reason = one_line(error)
        raise RunError(f"the FID needs clean-fid ({reason}): pip install -r requirements-fid.txt") from None
    official = feature_extractor is None
    model = _inception(weights_dir, device) if feature_extractor is None else feature_extractor
    real_features = _cleanfid_features(real, model, device, batch)

    def measure(fake: Images) -> dict[str, Any]:
        features = _cleanfid_features(fake, model, device, batch)
        return {
            "features": "Inception v3 (clean-fid, mode clean)"
            if official
            else "of an extractor of your own (clean-fid)",
            "reference": reference,
            "n_reference": len(real_features),
            "n_images": len(features),
            "fid" if official else "frechet_distance": float(cleanfid.fid.fid_from_feats(real_features, features)),
        }

    return measure


def _cleanfid_features(
    images: Images, model: Callable[[Tensor], Tensor], device: torch.device | str, batch: int
) -> Any:
    """Features as a numpy array [N, D], of images resized to 299 x 299 as clean-fid does it."""
    from cleanfid.fid import get_batch_features, get_folder_features
    from cleanfid.resize import build_resizer

    if not isinstance(images, Tensor):
        try:
            return get_folder_features(
                os.fspath(images), model, num_workers=0, batch_size=batch, device=device, verbose=False
            )
        except (ValueError, OSError) as error:  # ValueError: no image at all
            raise RunError(f"{images} holds no images that clean-fid can read ({one_line(error)})") from None
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are uint8 [N, C, H, W], not {images.dtype} {list(images.shape)}")
    resize, found = build_resizer("clean"), []
    with ThreadPoolExecutor() as pool, Progress(len(images), "images for the FID") as progress:
        for part in images.split(batch):
            pixels = part.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
            resized = np.stack(list(pool.map(resize, pixels)))  # Pillow resizes outside of Python's lock
            found.append(get_batch_features(torch.from_numpy(resized).permute(0, 3, 1, 2), model, device))
            progress.advance(len(part))
    return np.concatenate(found)


def _inception(folder: Path, device: torch.device | str) -> torch.nn.Module:
    """Inception v3 with the weights of the FID, from `folder`, downloaded into it if they are not there."""
    from cleanfid.downloads_helper import inception_url
    from cleanfid.inception_torchscript import InceptionV3W

    file = Path(folder) / INCEPTION
    try:
        if not file.is_file():  # clean-fid's own download would leave half a file behind when it is interrupted
            print(f"downloading {inception_url} to {file} ...", flush=True)
            with urllib.request.urlopen(inception_url, timeout=20) as response, atomic_write(file) as temporary:
                with open(temporary, "wb") as stream:
                    shutil.copyfileobj(response, stream)
        inception = InceptionV3W(str(folder), download=False)
    except (OSError, HTTPException, RuntimeError) as error:  # no network; a damaged file
        raise RunError(
            f"the FID needs the weights of Inception v3 in {file} ({one_line(error)}): download {inception_url} on a "
            "machine with network and put it there"
        ) from None
    return inception.to(device).eval()
