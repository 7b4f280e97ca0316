"""Do the files of a log folder fit one another? Numbers that stand in two places must be equal in both."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

import numpy as np

from common.files import finite
from reporting import known
from reporting.checks import Check
from reporting.log_files import MODEL, model_name
from reporting.model_file import ModelFile, read_model
from reporting.reader import printable
from reporting.run import ADJUSTABLE, FREE

HAND_IN = 12e6  # bytes: a model larger than that need not be handed in
ROUNDING = 6e-5  # train.log has losses with 4 decimals
# Images per second that one thread of a CPU could train at most, of a U-Net with 32 features on 28 x 28 pixels. Measured on
# server chips: 60 to 170.
FASTEST = 2500
LINE = r"^(epoch|step) (\d{1,12})/\d{1,12}  train loss (\d+\.\d+)  (?:val loss (\d+\.\d+)  )?(\d+) images/s"
TIME = r"  (?:(\d{1,6}) h )?(?:(\d{1,2}) min)?(?: ?(\d{1,2}) s)?(?:  |$)"  # of a row, after that
# Arguments that the command may spell in another way.
PATHS = {"prompts", "encoder", "attributes", "clip_weights", "log_dir", "data_dir", "load_path", "judge_dir", "resume"}


def check_arguments(check: Check) -> None:
    """config.json: are the arguments those of the command, and the classes those of the data set?"""
    settings, config = check.settings, check.settings.config
    arguments, asked = config["arguments"], config["arguments"].get("dataset")
    if asked is not None and str(asked) != settings.dataset:
        check.say("problem", "config.json", f"asks for the data set {printable(asked, 40)} and has {settings.dataset}")
    if type(config.get("seed")) is int and config["seed"] != settings.seed:
        check.say(
            "problem", "config.json", f"has seed {_brief(config['seed'])} and, among the arguments, {settings.seed}"
        )
    names = known.CLASSES.get(settings.dataset) if settings.kind == "classes" else None
    if names and not set(settings.class_names) <= set(names):
        level = "note" if settings.dataset.startswith("cifar") else "problem"  # a folder of images may name them freely
        check.say(level, "config.json", f"its classes are not those of {settings.dataset}")
    n_test = known.SIZES.get(settings.dataset, (0, 0))[1]
    data = config["dataset"]
    if n_test and data.get("val_images") not in (None, min(known.VALIDATION, n_test)):
        level = "problem" if data.get("train_images") == known.SIZES[settings.dataset][0] else "note"
        text = f"its {settings.dataset} is not the published one, which has {n_test:,} test images"
        check.say(level, "config.json", text)
    resumed = config.get("resumed") or [{}]
    command = resumed[-1].get("command") or config.get("command")
    for name, words in _options(str(command)[:10_000]).items():
        value = arguments.get(name)
        values = value if isinstance(value, list) else [value]
        plain = all(type(item) in (int, float, str) for item in values)
        told = name in arguments and name not in PATHS and words != ["all"]  # train_toy.py --network all
        if told and plain and not _same(values, words):
            check.say(
                "problem", "config.json", f"{name} is {_brief(value)}, but the command has {' '.join(words)[:60]!r}"
            )


def _options(command: str) -> dict[str, list[str]]:
    """The options of a command line with their values: {"n_epochs": ["3"]}."""
    options: dict[str, list[str]] = {}
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    values: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = options[name] = [value] if equals else []
        elif values is not None:
            values.append(word)
    return {name: values for name, values in options.items() if values}


def _same(values: list[Any], words: list[str]) -> bool:
    pairs = [(finite(value), finite(word), value, word) for value, word in zip(values, words)]
    return len(values) == len(words) and all(a == b if a is not None else v == word for a, b, v, word in pairs)


def _brief(value: Any) -> str:
    """A value as text, if it is short: that of a stranger may be a list that holds itself, or a number without end."""
    if isinstance(value, list) and all(type(item) in (int, float, str) for item in value[:20]):
        return printable(value[:20], 80)
    return printable(value, 40) if type(value) in (int, float, str, bool, type(None)) else f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------ metrics.csv


def check_counts(check: Check) -> None:
    """metrics.csv: do steps, epochs, images and seconds fit one another, and the machine?"""
    arguments, settings, name = check.settings.config["arguments"], check.settings, "metrics.csv"
    n, batch = (finite(x) for x in (settings.config["dataset"].get("train_images"), arguments.get("batch_size")))
    if not n or not batch or n < 1 or batch < 1 or not check.rows:
        return
    batch = min(batch, n)
    per_epoch, before = int(n // batch), 0.0
    fastest = _fastest(check)
    for row in check.rows:
        mark = f"{settings.unit} {row[settings.unit]}"
        epoch, step, speed, seconds = (
            finite(row.get(key)) for key in ("epoch", "step", "images_per_second", "seconds")
        )
        if epoch is not None and step is not None:
            expected = epoch * per_epoch if settings.unit == "epoch" else step
            if step != expected or (settings.unit == "step" and epoch != step // per_epoch):
                text = f"{n:,.0f} images in batches of {batch:.0f} are {per_epoch:,} steps of an epoch"
                check.say("problem", name, f"{mark} stands at step {step:.0f} and epoch {epoch:.0f}, but {text}")
                return
            if speed and seconds is not None and (step - before) * batch / speed > 1.05 * seconds + 0.05:
                images = f"{(step - before) * batch:,.0f} images at {speed:,.0f} images/s"
                check.say("problem", name, f"{mark}: {images} take longer than {seconds:.4g} seconds")
                return
            before = step
        if speed and fastest and speed > fastest:
            text = f"{speed:,.0f} images/s are more than this CPU can train: {fastest:,.0f} at the most"
            check.say("problem", name, f"{mark}: {text}")
            return


def check_losses(check: Check) -> None:
    """metrics.csv: is the loss the mean of its quarters, does no row stand twice, is the learning rate the one asked for?"""
    name, settings, before = "metrics.csv", check.settings, 0.0
    seen: dict[Any, str] = {}
    arguments, n_images = settings.config["arguments"], settings.config["dataset"].get("train_images")
    batch = min(finite(arguments.get("batch_size")) or 1.0, finite(n_images) or math.inf)
    share = np.bincount(np.arange(settings.T) * 4 // settings.T, minlength=4) / settings.T  # of the t in each quarter
    for row in check.rows:
        mark, step = f"{settings.unit} {row[settings.unit]}", finite(row.get("step"))
        numbers = [finite(row.get(key)) for key in ("train_loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4")]
        if step is not None and None not in numbers:
            loss, quarters = numbers[0], np.array(numbers[1:], dtype=float)
            mean = float(quarters @ share)
            # Chance decides how many of the n drawn t fall into each quarter.
            n = max(1.0, step - before) * batch
            allowed = 6 * float(np.sqrt(np.maximum((quarters - mean) ** 2 @ share, 0) / n)) + 1e-4 * abs(mean)
            if abs(loss - mean) > allowed:  # type: ignore[operator]
                text = f"{mark}: the training loss is {loss:.4g}, but the mean of its quarters is {mean:.4g}"
                check.say("problem", name, text)
                return
        key = (row["train_loss"], row.get("seconds"))
        if finite(key[1]) and key in seen:
            check.say("problem", name, f"{mark} has the loss and the seconds of {seen[key]}")
            return
        seen[key], before = mark, step or 0.0
    asked, rate = finite(arguments.get("l_rate")), finite(check.rows[-1].get("learning_rate")) if check.rows else None
    constant = arguments.get("l_rate_schedule", "constant") == "constant"
    if asked and rate is not None and (rate > asked * 1.001 or (constant and rate < asked * 0.999)):
        check.say("problem", name, f"has a learning rate of {rate:.4g}, where config.json says {asked:.4g}")


def _fastest(check: Check) -> float | None:
    """Images per second that a U-Net can train at most, on a CPU; None for other networks and devices."""
    settings, config = check.settings, check.settings.config
    spec = config.get("spec")
    network = spec.get("network_arguments", {}) if isinstance(spec, dict) else {}
    width = finite(network.get("n_features", network.get("dim"))) if isinstance(network, dict) else None
    threads = re.fullmatch(r"cpu \(.*?(\d{1,4}) threads\)", str(config.get("device"))[:200])
    if not threads or not width or config.get("resumed"):
        return None
    return FASTEST * int(threads[1]) * (32 / width) ** 2 * (28 / settings.height) ** 2


def check_log(check: Check) -> None:
    """train.log: does it tell the same losses as metrics.csv?"""
    settings, name = check.settings, "train.log"
    text = check.use(check.folder.text, name) if name in check.folder.files and check.rows else None
    if text is None:
        return
    lines = re.finditer(LINE + f"(?:{TIME})?", text, re.MULTILINE)
    logged = {int(line[2]): line for line in lines if line[1] == settings.unit}
    if not logged:
        check.say("note", name, f"has no line for any {settings.unit}")
        return
    other, missing = [], []
    for row in check.rows:
        mark = int(float(row[settings.unit]))
        line = logged.get(mark)
        if line is None:
            missing.append(mark)
            continue
        pairs = [(row["train_loss"], line[3], ROUNDING), (row.get("images_per_second"), line[5], 1)]
        pairs += [(row.get("val_loss"), line[4], ROUNDING)] if line[4] else []
        if any((a := finite(in_csv)) is not None and abs(a - float(there)) > most for in_csv, there, most in pairs):
            other.append(f"{settings.unit} {mark}: train loss {row['train_loss']} there, {line[3]} here")
        took, hours, minutes, secs = finite(row.get("seconds")), *(int(part or 0) for part in line.groups()[5:])
        if took is not None and any(line.groups()[5:]):
            logged_time = 3600 * hours + 60 * minutes + secs
            if abs(took - logged_time) > (31 if hours else 1):
                other.append(f"{settings.unit} {mark}: {took:.4g} seconds there, {logged_time} here")
    interrupted = len(settings.config.get("resumed") or []) + (not check.finished)  # each may cost a line
    if other:
        check.say("problem", name, f"contradicts metrics.csv in {len(other)} rows, such as {other[0]}")
    elif len(missing) > interrupted:
        check.say(
            "problem",
            name,
            f"has no lines for {len(missing)} rows of metrics.csv, the first: {settings.unit} {missing[0]}",
        )
    else:
        check.say("ok", name, "has the losses of metrics.csv")


# ------------------------------------------------------------------------------------------------ models


def check_model_files(check: Check) -> None:
    """Did the run leave the models that it should? Are they its own, and of the epoch or step in their names?"""
    settings, files = check.settings, check.folder.files
    last = model_name(settings.unit, settings.last)
    if check.finished:
        n_bytes = 4 * (finite(settings.config.get("n_parameters")) or 0)
        large = n_bytes > HAND_IN
        why = f"is missing ({n_bytes / 1e6:.0f} MB: too large to hand in)" if large else "is missing"
        check.there(last, "note" if large else "problem", why)
    for mark in settings.due(min(check.done, settings.last)):
        name = model_name(settings.unit, mark)
        if name != last:
            check.there(name, "note")
    models = sorted((name for name in files if MODEL.fullmatch(name)), key=lambda name: (len(name), name))
    if "checkpoint.pt" in files and (models or settings.kind != "points"):
        models.append("checkpoint.pt")
    for name in models:
        model = check.use(lambda name: _read(check, name), name)
        if model is not None:
            wrong = _wrong_model(check, name, model)
            check.models[name] = model
            check.say("problem" if wrong else "ok", name, wrong or f"{model.n_parameters:,} parameters, of this run")


def _read(check: Check, name: str) -> ModelFile:
    with check.folder.open(name) as file:
        return read_model(file)


def _wrong_model(check: Check, name: str, model: ModelFile) -> str | None:
    """What is wrong with a model file, in words; None if nothing is."""
    settings, content, config = check.settings, model.content, check.settings.config
    mark = MODEL.fullmatch(name)
    if content.get("spec") != config.get("spec", content.get("spec")):
        return "is of another network or schedule than config.json says"
    if settings.kind == "classes" and content.get("class_names") != list(settings.class_names):
        return "knows other classes than config.json says"
    if mark and content.get(mark["unit"]) != int(mark["number"]):
        return f"holds {mark['unit']} {_brief(content.get(mark['unit']))}"
    n_parameters = config.get("n_parameters")
    if type(n_parameters) is int and n_parameters != model.n_parameters:
        return f"has {model.n_parameters:,} parameters, where config.json says {n_parameters:,}"
    arguments, asked = content.get("arguments"), config["arguments"]
    if not isinstance(arguments, dict):
        return "does not say with which arguments it was trained"
    may_change = FREE | ADJUSTABLE if config.get("resumed") else {"resume"}
    other = [key for key in asked if key in arguments and key not in may_change and arguments[key] != asked[key]]
    if other:
        there = _brief(arguments[other[0]])
        return f"was trained with {other[0]} {there}, where config.json says {_brief(asked[other[0]])}"
    row = next((row for row in check.rows if mark and finite(row.get(mark["unit"])) == int(mark["number"])), None)
    if row and finite(row.get("step")) is not None and content.get("step", finite(row["step"])) != finite(row["step"]):
        return f"holds step {_brief(content.get('step'))}, where metrics.csv has {row['step']}"
    twin = next((other for other, m in check.models.items() if m.digest and m.digest == model.digest), None)
    if mark and twin:
        return f"has the weights of {twin}"
    return _wrong_checkpoint(check, model) if name == "checkpoint.pt" else None


def _wrong_checkpoint(check: Check, model: ModelFile) -> str | None:
    """checkpoint.pt against metrics.csv and the last model."""
    unit, step, history = check.settings.unit, model.content.get("step"), model.content.get("history")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        return "has no history of the losses"
    by_mark = {finite(row.get(unit)): row for row in history}
    for row in check.rows:
        there = by_mark.get(finite(row[unit]), {})
        for key in ("train_loss", "val_loss", "seconds"):
            a, b = finite(there.get(key)), finite(row.get(key))
            if a is not None and b is not None and abs(a - b) > 1e-5 * abs(a):
                return f"contradicts metrics.csv: {key} of {unit} {row[unit]} is {a:.6g} here, {row[key]} there"
    if check.finished and check.rows and len(history) != len(check.rows):
        return f"has {len(history)} rows of losses, and metrics.csv {len(check.rows)}"
    last = check.models.get(model_name(unit, check.settings.last))
    if last and last.content.get("step") == step and model.digest and last.digest != model.digest:
        return f"has other weights than {model_name(unit, check.settings.last)}, of the same step"
    return None


# ------------------------------------------------------------------------------------------------ metrics.json, report.html


def check_measured(check: Check) -> None:
    """metrics.json: are shares between 0 and 1 and of whole images, and is a sum the sum of its terms?"""
    name = "metrics.json"
    entries = check.use(check.folder.json, name) if name in check.folder.files else None
    if entries is None:
        return
    try:
        results = [{**entry, **row} for entry in entries[:1000] for row in entry["results"][:1000]]
        wrong = next(filter(None, map(_wrong_result, results)), None)
    except (KeyError, TypeError, AttributeError):
        wrong = "holds something else than the suite writes"
    check.say(
        "problem" if wrong else "ok",
        name,
        wrong or f"{len(results)} results, claimed by the hand-in and not measured here",
    )


def _wrong_result(row: dict[str, Any]) -> str | None:
    for key in ("judge_accuracy", "precision", "recall", "true_class", "on_permitted_squares"):
        share = finite(row.get(key))
        if share is not None and not 0 <= share <= 1 + 1e-6:
            return f"{key} is {share:.6g}, which is not between 0 and 1"
    share, n = finite(row.get("judge_accuracy")), finite(row.get("n_images", row.get("samples_per_weight")))
    if share is not None and n and n < 1e6 and abs(share * n - round(share * n)) > 0.02:
        return f"judge_accuracy is {share:.6g}, but no number of right answers among {n:.0f} images gives that"
    bits = [finite(row.get(key)) for key in ("bits_per_dim", "decoder", "steps", "prior")]
    if None not in bits and abs(bits[0] - sum(bits[1:])) > 0.01 * abs(bits[0]):  # type: ignore[arg-type, operator]
        return f"bits_per_dim is {bits[0]:.4g}, and its three terms add up to {sum(bits[1:]):.4g}"  # type: ignore[arg-type]
    return None


# All that reporting/html.py writes: every "<" begins one of these tags, with quoted attributes.
TAGS = (
    "html|head|meta|title|style|body|main|header|h1|h2|h3|p|dl|dt|dd|div|section|"
    "nav|a|figure|img|figcaption|b|span|input|label|pre|br|table|thead|tbody|tr|th|td"
)
TAG = re.compile(rf'</?({TAGS})((?: [a-z-]+(?:="[^"<>]*")?)*) ?/?>')
ATTRIBUTE = re.compile(r' ([a-z-]+)(?:="([^"]*)")?')
STYLE = re.compile(r"<style>([^<]*)</style>")
CLAIM = re.compile(r"(training|validation) loss, (?:epoch|step) (\d{1,12})</dt><dd>([\d.e+-]{1,20})</dd>")


def _unknown_on(page: str) -> str:
    """The first thing on a page that reporting/html.py would not write, in words; "" if there is none."""
    page = page.replace("<!DOCTYPE html>", "", 1)
    for part in page.split("<")[1:]:
        tag = TAG.match("<" + part)
        if tag is None:
            return f"an element {printable(re.split('[ />]', part, maxsplit=1)[0], 20)}"
        for name, value in ATTRIBUTE.findall(tag[2]):
            away = name in ("src", "href") and not value.startswith(("./", "#"))
            policy = name == "http-equiv" and value != "Content-Security-Policy"
            if name.startswith("on") or away or policy or (name == "style" and "url" in value.lower()):
                return f"an attribute {printable(name, 20)} that it should not have"
    if any("@import" in style.lower() or "url(" in style.lower() or "\\" in style for style in STYLE.findall(page)):
        return "a style that loads something"
    return "" if "content=\"default-src 'none'; " in page and "script-src" not in page else "no policy against scripts"


def check_page(check: Check) -> None:
    """report.html: no script, nothing from elsewhere, and the losses of metrics.csv."""
    name = "report.html"
    text = check.use(check.folder.text, name) if name in check.folder.files else None
    if text is None:
        return
    wrong, advice = _unknown_on(text), "do not open it; python report.py FOLDER writes it anew"
    rows = {finite(row.get(check.settings.unit)): row for row in check.rows}
    for what, mark, claimed in [] if wrong else CLAIM.findall(text):
        there = finite(rows.get(float(mark), {}).get({"training": "train_loss"}.get(what, "val_loss")))
        if rows and (there is None or abs((finite(claimed) or 0) - there) > 2e-3 * abs(there)):
            wrong = f"a {what} loss of {claimed} at {check.settings.unit} {mark}, which metrics.csv does not have"
    check.say("problem" if wrong else "ok", name, f"has {wrong}: {advice}" if wrong else "has no script")
