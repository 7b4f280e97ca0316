"""The table of speeds in docs/speed.md, from a file that `benchmark.py --json` wrote."""

from __future__ import annotations

from statistics import median
from typing import Any

COLUMNS = [
    "",
    "parameters",
    "MFLOP",
    "training, images/s",
    "ratio",
    "of peak",
    "MB",
    "sampling, images/s",
    "ratio",
    "MB",
]


def speed_table(found: dict[str, Any]) -> str:
    """Three lines on the circumstances, and a Markdown table with a row for each side.

    A rate is the median over the rounds, a ratio (to `plain`) the median of the ratios within the rounds.
    """
    rounds, n, n_sampled = found["seconds"], found["batch_size"], found["n_sampled"]
    product = 2 * found["matrix"] ** 3  # FLOPs
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, facts in found["sides"].items():
        dtype, flops = facts["dtype"], facts["forward_flops"]
        title = " ".join(filter(None, (name, facts["version"], dtype)))
        cells = [title, f"{facts['parameters']:,}", f"{flops / 1e6:.0f}"]
        work = 3 * flops * n / product  # a step in products of matrices: backward is twice forward
        of_peak = median(work * times[dtype]["product"] / times[name]["step"] for times in rounds)
        for what, images, also in (("step", n, [f"{of_peak:.0%}"]), ("sample", n_sampled, [])):
            rate = median(images / times[name][what] for times in rounds)
            ratio = median(times["plain"][what] / times[name][what] for times in rounds)
            peak = facts["peak_bytes"][what]
            cells += [f"{rate:.3g}", f"{ratio:.2f}", *also, f"{peak / 1e6:,.0f}" if peak else ""]
        lines.append(f"| {' | '.join(cells)} |")
    peaks = []
    for dtype in sorted({facts["dtype"] for facts in found["sides"].values()}):
        rate = median(product / times[dtype]["product"] for times in rounds)
        peaks.append(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}")
    about = [
        f"{found['machine']}; load {found['load']}; {found['clock']}, median of {len(rounds)} rounds.",
        f"Training: batch {n}. Sampling: {n_sampled} images in {found['sampling_steps']} steps.",
        f"Peak: {', '.join(peaks)}, in products of {found['matrix']} x {found['matrix']} matrices.",
    ]
    return "\n".join([*about, "", *lines])
