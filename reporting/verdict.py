"""The verdict on a log folder and on a hand-in, as check_log.py prints it and the index shows it."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Callable, Optional

from reporting.checks import (
    LEVELS,
    Check,
    check_changes,
    check_config,
    check_metrics,
    check_others,
    check_strangers,
)
from reporting.consistency import (
    check_arguments,
    check_counts,
    check_log,
    check_losses,
    check_measured,
    check_model_files,
    check_page,
)
from reporting.hand_ins import DEPTH, HandIn
from reporting.log_files import model_name
from reporting.picture_checks import check_drift, check_pictures
from reporting.reader import Folder, Unreadable, printable
from reporting.template import check_template, is_template

KINDS = {
    "classes": "class-conditional run",
    "prompts": "run with prompts",
    "steps": "run without classes",
    "points": "run on points",
}
More = Optional[Callable[[Check], None]]  # checks that take longer, such as those that load a model


def check_folder(folder: Folder, more: More = None) -> Check:
    """All checks of one log folder that need no model, and `more`."""
    check = Check(folder)
    try:
        _all_checks(check, more)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        text = printable(f"{type(error).__name__}: {error}", 160)
        check.say("problem", folder.path.name, f"could not be checked to the end ({text})")
    return check


def _all_checks(check: Check, more: More) -> None:
    if is_template(check):
        check_template(check)
        check_strangers(check)
        return
    check_config(check)
    check_others(check)
    check_measured(check)
    if check.known_settings is not None:
        check.say("ok", "config.json", f"{KINDS[check.settings.kind]} on {check.settings.dataset}")
        check_changes(check)
        check_arguments(check)
        check_metrics(check)
        check_counts(check)
        check_losses(check)
        check_log(check)
        check_pictures(check)
        check_drift(check)
        check_model_files(check)
        if check.real is not None:
            check.facts["data_hash"] = hashlib.sha1(check.real[1].tobytes()).hexdigest()[:12]
        last = check.models.get(model_name(check.settings.unit, check.settings.last))
        if check.folder.files.get("metrics.json", 0) > 500:
            with contextlib.suppress(Unreadable):
                check.remember("metrics.json", check.folder.read("metrics.json"))
        check.facts["model_hash"] = last.digest[:12] if last else ""
        if more:
            more(check)
    check_page(check)
    check_strangers(check)


def check_sheet(hand_in: HandIn) -> Check:
    """What the sheet asks for besides log folders; findings on the hand-in itself."""
    check = Check(None)
    for name, reason in hand_in.unread.items():
        check.say("problem", name, reason)
    for name, reason in hand_in.skipped.items():
        check.say("note", name, f"{reason}: not looked into")
    if not hand_in.folders and not hand_in.unread:
        check.say("problem", hand_in.path.name, f"holds no log folder, in {DEPTH} levels of folders")
    if not hand_in.itself and not hand_in.unread:
        for what, names in (("scripts", hand_in.scripts), ("answers", hand_in.answers), ("README.txt", hand_in.readme)):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            check.say(
                "ok" if names else "note", what, ", ".join(sorted(names)[:3]) + more if names else "none in the hand-in"
            )
    return check


def count(check: Check) -> str:
    """'passed (2 notes)'."""
    problems, notes = (sum(finding.level == level for finding in check.findings) for level in ("problem", "note"))
    parts = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((problems, "problem"), (notes, "note")) if n]
    return ("failed" if problems else "passed") + (f" ({', '.join(parts)})" if parts else "")


def table(name: str, check: Check, quiet: bool = False, head: str | None = None) -> str:
    """The findings on one folder, a line for each: the problems first."""
    shown = [finding for level in reversed(LEVELS) for finding in check.findings if finding.level == level]
    shown = [finding for finding in shown if not quiet or finding.level != "ok"]
    lines = [f"{printable(name)}: {head or count(check)}"]
    return "\n".join(lines + [f"  {level:<8} {what}: {text}" for level, what, text in shown])


def problems(name: str, check: Check) -> list[str]:
    """A line for each problem."""
    return [f"{printable(name)}: {what}: {text}" for level, what, text in check.findings if level == "problem"]


def row(path: Path, hand_in: Path, check: Check) -> dict[str, Any]:
    """The same as a row of the table of many folders."""
    settings = check.known_settings
    texts = {
        level: "; ".join(f"{what}: {text}" for of, what, text in check.findings if of == level) for level in LEVELS
    }
    judged = [f"{key[16:]}: {value:.0%}" for key, value in check.facts.items() if key.startswith("judge_accuracy")]
    n_parameters = settings.config.get("n_parameters") if settings else None
    return {
        "folder": printable(path),
        "verdict": count(check).split(" ")[0],
        "hand_in": printable(hand_in),
        "kind": KINDS[settings.kind] if settings else "",
        "dataset": printable(settings.dataset) if settings else "",
        "seed": settings.seed if settings else "",
        "done": check.done if settings else "",
        "of": f"{settings.last} {settings.unit}s" if settings else "",
        **{key: check.facts.get(key, "") for key in ("train_loss", "val_loss", "measured_loss", "redrawn_difference")},
        "parameters": n_parameters if type(n_parameters) is int and n_parameters < 2**63 else "",
        "judge_accuracy": "; ".join(judged),
        "data_hash": check.facts.get("data_hash", ""),
        "model_hash": check.facts.get("model_hash", ""),
        "problems": texts["problem"],
        "notes": texts["note"],
    }
