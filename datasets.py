"""Image data sets as one uint8 tensor plus labels, kept on the training device.

    train_set = load("mnist", "data", train=True).to("cuda")
    y, c = train_set.batch(torch.randint(len(train_set), (128,)))   # images in [-1, 1], one-hot classes

A small data set fits on the device whole, so a batch is one indexing operation: no loader, no worker processes.

"mnist"     handwritten digits, read by torchvision from <data_dir>/MNIST/raw, downloaded when absent.
"rendered"  digits drawn from matplotlib's own fonts, bent and stretched at random: the same format as MNIST and no
            download, for a first try, for tests, and for machines without network. Kept in <data_dir>/rendered_digits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import shutil
import socket
import struct
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Polygon
from matplotlib.textpath import TextPath
from torch import Tensor

try:
    from torchvision.datasets import MNIST
except RuntimeError as error:  # such as "operator torchvision::nms does not exist"
    raise SystemExit(
        f"torch {torch.__version__} and torchvision are not of one build ({str(error).splitlines()[0]}): "
        "install both anew, by `pip install --force-reinstall torch torchvision`"
    ) from None

DIGITS = [str(digit) for digit in range(10)]


class DataError(RuntimeError):
    """Data are missing or damaged. The message is one line: what is wrong, and what to do about it."""


# ---- Pixel values and classes ----------------------------------------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """Pixels for the network: uint8 0..255, any shape -> float32 in [-1, 1]. The only place that converts this way."""
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(x: Tensor) -> Tensor:
    """Inverse of `to_float`: float, any shape -> uint8 0..255. Values outside [-1, 1] are clamped."""
    return ((x.to(torch.float32).clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Labels int64 [N] -> float32 [N, n_classes]. Raises RuntimeError for a label outside 0..n_classes - 1."""
    rows = torch.zeros(len(labels), n_classes, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1.0)  # unlike F.one_hot this does not make a GPU wait


# ---- The data set in memory ------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class ImageSet:
    """Labelled images in memory.

    images: uint8 [N, C, H, W]; labels: int64 [N], values 0..n_classes - 1; class_names: one per class;
    name: what `load` was asked for; device: where `batch` puts its result.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    name: str
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its batches on `device`.

        The images move there too, unless they would take more than half of a GPU's free memory, which the network
        needs. They then stay in main memory and each batch is pinned and copied over (what indexing takes out of a
        pinned tensor is not pinned itself); the caller sees no difference.
        """
        device = torch.device(device)
        arrives = device.type == "cuda" and self.images.device.type != "cuda"
        if arrives and self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:  # [0]: free bytes
            return dataclasses.replace(self, device=device)
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device), device=device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and classes at `index`, int64 [B], on the device that was given to `to`.

        Returns y, float32 [B, C, H, W] in [-1, 1], and c, one-hot float32 [B, n_classes].
        Raises IndexError or RuntimeError for an index outside 0..N - 1 (on a GPU: a device-side assertion).
        """
        device = self.device
        index = index.to(self.images.device)
        images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        if device.type == "cuda" and images.device.type == "cpu":
            images, labels = images.pin_memory(), labels.pin_memory()  # only pinned memory is copied asynchronously
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        return to_float(images), one_hot(labels, self.n_classes)


def load(
    name: str,
    data_dir: str | os.PathLike,
    train: bool,
    *,
    n_classes: int = 10,
    im_height: int = 28,
    im_channels: int = 1,
    limit: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Read (or download, or render) a data set: its training split or its test split.

    n_classes: keep the first so many classes. im_height: side length in pixels; another than the data's own resizes
    once, here. im_channels: 3 repeats grey images. limit: keep the first so many images (of the kept classes).
    seed: which rendered digits; the other sets ignore it.
    Raises ValueError for an argument that the data cannot satisfy, DataError for missing or damaged data.
    """
    if name not in SOURCES:
        raise ValueError(f"dataset = {name!r} is unknown; choose one of: {', '.join(sorted(SOURCES))}")
    for argument, value in (("n_classes", n_classes), ("im_height", im_height), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} = {value}: must be at least 1")

    images, labels, class_names = SOURCES[name](Path(data_dir).expanduser().absolute(), train, seed)
    if n_classes > len(class_names):
        raise ValueError(f"n_classes = {n_classes}: {name} has only {len(class_names)} classes")
    channels = [1, 3] if images.shape[1] == 1 else [images.shape[1]]  # grey can be repeated
    if im_channels not in channels:
        raise ValueError(f"im_channels = {im_channels}: {name} gives {' or '.join(map(str, channels))}")

    keep = (labels < n_classes).nonzero()[:limit, 0]
    images, labels = images[keep], labels[keep]
    if images.shape[2:] != (im_height, im_height):
        sizing = {"size": (im_height, im_height), "mode": "bilinear", "antialias": True}
        chunks = images.split(4096)  # because floats take four times the memory
        images = torch.cat([to_uint8(F.interpolate(to_float(chunk), **sizing)) for chunk in chunks])
    if images.shape[1] < im_channels:
        images = images.repeat(1, im_channels, 1, 1)
    return ImageSet(images, labels, class_names[:n_classes], name)


# ---- MNIST -----------------------------------------------------------------------------------------------------------


def _load_mnist(data_dir: Path, train: bool, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    raw = data_dir / "MNIST" / "raw"
    files = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        _download_mnist(data_dir, missing)
    image_file, label_file = files[:2] if train else files[2:]
    try:
        _check_idx(image_file, [28, 28])
        _check_idx(label_file, [])
        data = MNIST(str(data_dir), train=train)
    except OSError as error:
        raise DataError(f"MNIST in {raw} cannot be read ({_one_line(error)}). Check the files' permissions") from error
    if len(data.data) != len(data.targets):
        raise _damaged(label_file, f"{len(data.targets):,} labels for {len(data.data):,} images")
    if data.targets.max() > 9:
        raise _damaged(label_file, f"a label is {int(data.targets.max())}")
    return data.data[:, None], data.targets, list(DIGITS)


def _check_idx(file: Path, image_shape: list[int]) -> None:
    """Raise DataError if the header or the length of an IDX file of bytes is wrong.

    Header: bytes 0, 0, 8 and the number of dimensions; then each dimension as a big-endian 32-bit integer.
    """
    n_dims = 1 + len(image_shape)
    with open(file, "rb") as stream:
        header = stream.read(4 + 4 * n_dims)
    if len(header) < 4 + 4 * n_dims or header[:4] != bytes([0, 0, 8, n_dims]):
        raise _damaged(file, "it does not begin like an MNIST file")
    n, *shape = struct.unpack(f">{n_dims}I", header[4:])
    size, expected = file.stat().st_size, len(header) + n * math.prod(shape)
    if n == 0 or shape != image_shape or size != expected:
        raise _damaged(file, f"{size:,} bytes, but its header announces {[n, *shape]}, so {expected:,}")


def _download_mnist(data_dir: Path, missing: list[Path]) -> None:
    """Let torchvision download into a scratch folder, then move the missing files into place whole.

    An interrupted download thus leaves nothing behind that a later run, or another process, takes for data.
    """
    raw = missing[0].parent
    print(f"MNIST is not in {raw}: downloading it ...", flush=True)
    timeout = socket.getdefaulttimeout()
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as scratch:
            scratch_raw = Path(scratch, "MNIST", "raw")
            scratch_raw.mkdir(parents=True)
            for packed in raw.glob("*-ubyte.gz"):  # put there by hand: torchvision then only unpacks them
                shutil.copy(packed, scratch_raw)
            socket.setdefaulttimeout(20)  # seconds; a compute node without network would wait for minutes
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                MNIST(scratch, download=True)  # its progress bars would fill a batch log
            for file in missing:
                os.replace(scratch_raw / file.name, file)
    except Exception as error:  # no network, permission or space, a wrong checksum: the advice is the same
        raise DataError(f"MNIST is not in {raw}, and downloading fails ({_one_line(error)}). {_advice(raw)}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _damaged(file: Path, why: str) -> DataError:
    return DataError(f"{file} is damaged ({why}). Delete it. {_advice(file.parent)}")


def _advice(raw: Path) -> str:
    command = f"from torchvision.datasets import MNIST; MNIST('{raw.parent.parent}', download=True)"
    remedy = f'On a machine with network, such as a login node, run: python -c "{command}"; or copy the four *-ubyte'
    return f"{remedy} files to {raw}; or use --dataset rendered, which needs no download"


def _one_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")


# ---- Rendered digits -------------------------------------------------------------------------------------------------

# Named one by one, so that the digits stay the same when matplotlib adds a font.
FACES = [
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmmi10"),
]
RENDERED_SIZES = {"train": 60_000, "test": 10_000}
RENDERED_VERSION = 1  # part of the cache file's name: raise it when the drawing changes
ATLAS_CELLS = 96  # the atlas has so many cells along a side ...
ATLAS_REACH = 1.3  # ... and covers [-reach, reach]; the longer side of a glyph covers [-1, 1]


class Atlas(NamedTuple):
    """Every digit in every face: G = n_faces * 10 glyphs, in the order face, digit. Lengths in glyph units.

    A glyph is kept as its pen line, the middle of its strokes: any pen can follow it, and it looks like handwriting.
    distance: float32 [G, 1, cells, cells], distance to the pen line;
    line: float32 [G, 128, 2], points (x, y) on it, y downwards.
    """

    distance: Tensor
    line: Tensor


def _load_rendered(data_dir: Path, train: bool, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    file = data_dir / "rendered_digits" / f"version{RENDERED_VERSION}_seed{seed}.npz"
    splits = _read_rendered(file)
    if splits is None:
        print(f"rendering {sum(RENDERED_SIZES.values()):,} digits ...", flush=True)
        splits = {}
        for number, (split, n) in enumerate(RENDERED_SIZES.items()):  # no two splits or seeds share a number
            images, labels = render_digits(n, seed=2 * seed + number)
            splits[f"{split}_images"], splits[f"{split}_labels"] = images.numpy(), labels.numpy()
        _write_rendered(file, splits)
    split = "train" if train else "test"
    return torch.from_numpy(splits[f"{split}_images"]), torch.from_numpy(splits[f"{split}_labels"]), list(DIGITS)


def _read_rendered(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays in the cache file, or None if it is absent or of no use."""
    if not os.path.isfile(file):
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:  # the format has checksums: a changed byte is an error
            splits = {key: archive[key] for key in archive.files}
        for split, n in RENDERED_SIZES.items():
            if splits[f"{split}_images"].shape != (n, 1, 28, 28) or splits[f"{split}_labels"].shape != (n,):
                raise ValueError(f"it does not hold {n:,} {split} digits")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, rendering again mends it
        print(f"{file} is damaged ({_one_line(error)}): rendering it again", flush=True)
        return None
    return splits


def _write_rendered(file: Path, splits: dict[str, np.ndarray]) -> None:
    """Write elsewhere first and rename: a reader, or a run that is killed, never meets half a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=file.parent) as scratch:
            np.savez(Path(scratch, file.name), **splits)
            os.replace(Path(scratch, file.name), file)
    except OSError as error:
        print(f"{file} cannot be written ({_one_line(error)}): the digits are rendered anew next time", flush=True)


@functools.lru_cache(maxsize=1)
def _glyph_atlas() -> Atlas:
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    glyphs = []
    for face in FACES:
        file = folder / f"{face}.ttf"
        if not file.is_file():
            raise DataError(f"{file} is missing: it is part of matplotlib, so install matplotlib again")
        font = FontProperties(fname=str(file), size=100)
        glyphs += [_trace_glyph(TextPath((0, 0), digit, prop=font).to_polygons()) for digit in DIGITS]
    return Atlas(*(torch.stack(field) for field in zip(*glyphs)))


def _trace_glyph(polygons: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The entries of an Atlas for one glyph, given as closed polygons, each float64 [P, 2], y upwards."""
    corners = np.concatenate(polygons)
    low, high = corners.min(0), corners.max(0)
    polygons = [(p - (low + high) / 2) * [2, -2] / (high - low).max() for p in polygons]
    outline = torch.from_numpy(np.concatenate([_walk(p) for p in polygons]))

    cell = 2 * ATLAS_REACH / ATLAS_CELLS
    axis = (torch.arange(ATLAS_CELLS, dtype=torch.float64) + 0.5) * cell - ATLAS_REACH  # exact: same line everywhere
    cells = torch.cartesian_prod(axis, axis).flip(1)  # [cells^2, 2] as (x, y), row by row
    within = torch.stack([torch.from_numpy(Polygon(p).contains_points(cells.numpy())) for p in polygons])
    inside = within.sum(0) % 2 == 1  # within the outer polygon but not within a hole's
    depth = torch.zeros_like(cells[:, 0])
    depth[inside] = torch.cdist(cells[inside], outline).amin(1)

    # The depth rises with slope 1 from the edges of a stroke to its middle, where it turns: the slope is near 0.
    # (From a corner, too, a ridge runs inwards, but it climbs: by 0.7 where the corner is square.)
    slope = torch.stack(torch.gradient(depth.view(ATLAS_CELLS, ATLAS_CELLS), spacing=cell)).norm(dim=0)
    line = cells[(depth > cell) & (slope.flatten() < 0.6)]
    distance = torch.cdist(cells, line).amin(1)
    distance = distance.view(1, ATLAS_CELLS, ATLAS_CELLS)
    line = line[torch.linspace(0, len(line) - 1, 128).long()]
    return distance.float(), line.float()


def _walk(polygon: np.ndarray, step: float = 0.02) -> np.ndarray:
    """Points [Q, 2] at equal steps along a closed polygon [P, 2]."""
    reached = np.concatenate([[0.0], np.linalg.norm(np.diff(polygon, axis=0), axis=1).cumsum()])
    stops = np.arange(0, reached[-1], step)
    return np.stack([np.interp(stops, reached, polygon[:, i]) for i in (0, 1)], axis=1)


def render_digits(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n digits: images uint8 [n, 1, 28, 28], white on black, and labels int64 [n].

    Shuffled; equally many of each digit if n is a multiple of 10; the same seed gives the same. Like MNIST's, a digit
    is about 20 pixels along its longer side and stands near the centre.
    """
    atlas = _glyph_atlas()
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 10)[torch.randperm(n, generator=generator)]
    images = [_draw(chunk, atlas, generator) for chunk in labels.split(1000)]
    return torch.cat(images), labels


def _draw(labels: Tensor, atlas: Atlas, generator: torch.Generator) -> Tensor:
    """Labels int64 [B] -> images uint8 [B, 1, 28, 28], each in a random face, shape and pen width."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(labels), *shape, generator=generator) * (high - low) + low

    glyph = torch.randint(len(FACES), labels.shape, generator=generator) * 10 + labels
    pen = uniform(1.5, 3.4)  # width in pixels; a wider one fills holes

    # Glyph -> image: stretch, lean, turn, then the size that fits.
    turn, lean, stretch = uniform(-0.2, 0.2), uniform(-0.3, 0.4), uniform(0.75, 1.25)
    cos, sin = turn.cos(), turn.sin()
    matrix = torch.stack([cos * stretch, -cos * lean - sin, sin * stretch, cos - sin * lean], dim=1).view(-1, 2, 2)
    line = atlas.line[glyph] @ matrix.mT  # [B, 128, 2]
    low, high = line.amin(1), line.amax(1)
    size = (uniform(18, 20) - pen) / (high - low).amax(1)  # pixels per glyph unit
    matrix = matrix * size[:, None, None]
    origin = uniform(-1.2, 1.2, 2) - (low + high) / 2 * size[:, None]  # pixels; puts the digit's middle near (0, 0)

    # For every pixel of the image, where in the glyph it looks: the inverse map plus a smooth random shift.
    pixels = torch.cartesian_prod(torch.arange(28), torch.arange(28)).flip(1) - 13.5  # [784, 2] as (x, y), row by row
    shift = torch.randn(len(labels), 2, 4, 4, generator=generator).clamp(-2, 2) * uniform(0.03, 0.18, 1, 1, 1)
    shift = F.interpolate(shift, size=(28, 28), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    where = (pixels - origin[:, None]) @ matrix.inverse().mT  # [B, 784, 2], glyph units
    where = (where.view(-1, 28, 28, 2) + shift) / ATLAS_REACH
    distance = F.grid_sample(atlas.distance[glyph], where, padding_mode="border", align_corners=False)  # [B, 1, 28, 28]

    pixel = size * stretch.sqrt()  # pixels per glyph unit, over all directions
    ink = pen.view(-1, 1, 1, 1) / 2 - distance * pixel.view(-1, 1, 1, 1) + 0.5  # edges one pixel wide
    return (ink.clamp(0, 1) * 255).round().to(torch.uint8)


# Each is called with (data_dir, train, seed) and gives images uint8 [N, C, H, W], labels int64 [N] and class names.
SOURCES: dict[str, Callable[..., tuple[Tensor, Tensor, list[str]]]] = {"mnist": _load_mnist, "rendered": _load_rendered}
