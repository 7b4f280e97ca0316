"""The standard FID, by the package clean-fid."""

from __future__ import annotations

import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from common.console import Progress, RunError, one_line
from common.files import atomic_write

INCEPTION = "inception-2015-12-05.pt"  # the name that clean-fid gives the weights
AT_ONCE = 64  # images


def fid_by_cleanfid(real: Tensor, weights_dir: Path, device: torch.device) -> Callable[[Tensor], float]:
    """The FID as the package clean-fid measures it (Parmar et al. 2022, arXiv:2104.11222), its mode "clean".

        fid = fid_by_cleanfid(train_set.images, Path("data"), device)      # the features of the real images, once
        fid(samples)

    Images: uint8 [N, C, H, W]; grey ones become RGB. The weights of Inception v3 are read from
    weights_dir/inception-2015-12-05.pt, and are downloaded there once. RunError if the package or the weights are missing.
    """
    try:
        import cleanfid.fid
    except ImportError as error:
        reason = one_line(error)
        raise RunError(f"the FID needs clean-fid ({reason}): pip install -r requirements-fid.txt") from None
    model = _inception(weights_dir, device)
    real_features = _features(real, model, device)
    return lambda fake: float(cleanfid.fid.fid_from_feats(real_features, _features(fake, model, device)))


def _features(images: Tensor, model: Callable[[Tensor], Tensor], device: torch.device) -> np.ndarray:
    """Features [N, D] of images that are resized to 299 x 299 as clean-fid does it."""
    from cleanfid.fid import get_batch_features
    from cleanfid.resize import build_resizer

    resize, found = build_resizer("clean"), []
    with ThreadPoolExecutor() as pool, Progress(len(images), "images for the FID") as progress:
        for part in images.split(AT_ONCE):
            pixels = part.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
            resized = np.stack(list(pool.map(resize, pixels)))  # Pillow resizes in parallel: it releases Python's lock
            found.append(get_batch_features(torch.from_numpy(resized).permute(0, 3, 1, 2), model, device))
            progress.advance(len(part))
    return np.concatenate(found)


def _inception(folder: Path, device: torch.device) -> Any:
    """Inception v3 with the weights of the FID, from `folder`, downloaded into it if they are not there."""
    from cleanfid.downloads_helper import inception_url
    from cleanfid.inception_torchscript import InceptionV3W

    file = folder / INCEPTION
    try:
        if not file.is_file():  # clean-fid's own download would leave half a file behind if it is interrupted
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
