"""The training section: which curves are drawn of ``metrics.jsonl``, what each means, and by what views differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cytoclr.config import AugmentSettings
from cytoclr.report.wording import format_percent

__all__ = ["Curve", "Line", "describe_augment", "list_curves", "say_collapse", "thin_steps"]

#: Steps drawn at most: more than a screen has pixels.
MAX_STEPS = 2000
#: What the probe says of itself beside its accuracy: counts, which no axis has room for.
_PROBE_COUNTS = ("probe_treatments", "probe_left_out", "probe_cells")


@dataclass(frozen=True)
class Line:
    """One metric, as lines of one event have it; the line of steps lies faint behind that of epochs."""

    key: str
    name: str
    event: Literal["epoch", "step"] = "epoch"


@dataclass(frozen=True)
class Curve:
    """A small figure: what it is called, its lines, its axis, and what is good and bad to see in it."""

    key: str
    title: str
    sentence: str
    lines: tuple[Line, ...]
    axis: Literal["free", "from-nought", "log", "share"] = "free"


_CURVES = (
    Curve(
        "loss",
        "Loss",
        "Falls fast, then ever slower. If it rises on wells never trained on while it falls in training, the encoder "
        "learns its own wells by heart.",
        (
            Line("train_loss", "of a step", "step"),
            Line("train_loss", "training"),
            Line("val_loss", "wells never trained on"),
        ),
    ),
    Curve(
        "geometry",
        "Alignment and uniformity",
        "The lower the better, both. Alignment is 0 where the two views of a cell fall on one point; uniformity is 0 "
        "where all cells do, and falls towards −4 as they spread.",
        (Line("val_alignment", "alignment"), Line("val_uniformity", "uniformity")),
    ),
    Curve(
        "rank",
        "Effective rank",
        "How many directions are made use of. It may sink as training goes on, but 1 is a collapse: every cell looks "
        "alike.",
        (Line("embedding_rank", "embedding"), Line("projection_rank", "projection")),
        "from-nought",
    ),
    Curve(
        "gradient",
        "Gradient",
        "Its length, on a logarithmic scale. It may tremble and sink; if it climbs, or leaps by tenfold, the learning "
        "rate is too high.",
        (Line("grad_norm", "of a step", "step"), Line("grad_norm", "mean of the epoch")),
        "log",
    ),
    Curve(
        "rate",
        "Learning rate",
        "As planned: it warms up, then sinks along a cosine to nought.",
        (Line("learning_rate", "learning rate", "step"),),
        "from-nought",
    ),
    Curve(
        "speed",
        "Cells per second",
        "Level, as a rule. Where it drops, something else was using the machine, or it ran hot.",
        (Line("cells_per_s", "cells per second"),),
        "from-nought",
    ),
    Curve(
        "wait",
        "Waiting for crops",
        "Share of the time in which nothing was computed because crops were still being read. Above 10 %, set "
        "train.num_workers or train.preload.",
        (Line("wait_share", "waiting"),),
        "share",
    ),
)
_PROBE = (
    "A classifier of treatments, on wells that it has not seen. It should climb above the dot at epoch 0, the "
    "untrained encoder, and stay above chance."
)


def list_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """List the curves of which these lines hold at least one value, each with the lines it has."""
    found = [_keep_told(curve, metrics) for curve in (*_CURVES, _list_probes(metrics))]
    return [curve for curve in found if curve.lines]


def _keep_told(curve: Curve, metrics: Sequence[Mapping[str, Any]]) -> Curve:
    told = tuple(line for line in curve.lines if any(_is_told(line, of) for of in metrics))
    return Curve(curve.key, curve.title, curve.sentence, told, curve.axis)


def _is_told(line: Line, of: Mapping[str, Any]) -> bool:
    return (of.get("event") == "step") == (line.event == "step") and of.get(line.key) is not None


def _list_probes(metrics: Sequence[Mapping[str, Any]]) -> Curve:
    """Whatever the probe told, counts left out."""
    keys = dict.fromkeys(key for line in metrics for key in line if key.startswith("probe_"))
    lines = [Line(key, key.removeprefix("probe_").replace("_", " ")) for key in keys if key not in _PROBE_COUNTS]
    return Curve("probe", "Probe", _PROBE, tuple(lines), "from-nought")


def thin_steps(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keep every line but those of steps, and of these evenly so many that the page stays small."""
    steps = [place for place, line in enumerate(metrics) if line.get("event") == "step"]
    kept = {steps[i * len(steps) // MAX_STEPS] for i in range(MAX_STEPS)} if len(steps) > MAX_STEPS else set(steps)
    return [dict(line) for place, line in enumerate(metrics) if line.get("event") != "step" or place in kept]


def say_collapse(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Warn of an encoder that tells no cells apart; None where it does."""
    epochs = [line for line in metrics if line.get("event") == "epoch"]
    collapsed = [line["epoch"] for line in epochs if line.get("collapsed")]
    if not collapsed:
        return None
    if epochs[-1]["epoch"] == collapsed[-1]:
        return (
            f"The encoder collapsed in epoch {collapsed[0]} and has not come back: to it all cells look alike, and the "
            "scores say nothing. Lower train.learning_rate, strengthen train.augment, or raise train.minibatch_size."
        )
    return f"The encoder had collapsed in epoch {collapsed[0]}, and came back after epoch {collapsed[-1]}."


def describe_augment(augment: AugmentSettings) -> list[str]:
    """Say in words which nuisances views differ by, and which were left off."""
    strength, jitter = augment.strength, _often(augment.jitter_probability)
    nuisances = {
        "the way up (any angle)": augment.rotate,
        "mirror images": augment.flip,
        f"the part shown ({_percent(augment.min_scale)} to 100 % of the area)": augment.min_scale < 1.0,
        f"bending ({_percent(augment.elastic)} of the side)": augment.elastic,
        f"stain and exposure (each channel’s brightness ÷ or × up to {_factor(augment.gain * strength)}{jitter})": (
            augment.gain * augment.jitter_probability * strength
        ),
        f"background (± {_percent(augment.offset * strength)}{jitter})": (
            augment.offset * augment.jitter_probability * strength
        ),
        f"contrast (gamma ÷ or × up to {_factor(augment.gamma * strength)}{jitter})": (
            augment.gamma * augment.jitter_probability * strength
        ),
        f"focus (blur of up to {augment.blur_px * strength:.2g} px{_often(augment.blur_probability)})": (
            augment.blur_px * augment.blur_probability * strength
        ),
        f"uneven light (÷ or × up to {_factor(augment.gradient * strength)} at the border)": augment.gradient
        * strength,
        f"failed stains (a channel empty in {_percent(augment.drop)} of views)": augment.drop,
        f"cut-out (up to {_percent(augment.cut_out)} of the side)": augment.cut_out,
        f"camera noise (s.d. up to {_percent(augment.noise * strength)})": augment.noise * strength,
        f"photon noise (s.d. up to {_percent(augment.photon_noise * strength)} where it is brightest)": (
            augment.photon_noise * strength
        ),
    }
    on = [name for name, amount in nuisances.items() if amount]
    off = [name.partition(" (")[0] for name, amount in nuisances.items() if not amount]
    sentences = [f"Views differ by {', '.join(on)}." if on else "Views do not differ: nothing is augmented."]
    if off:
        sentences.append(f"Left off: {', '.join(off)}.")
    return sentences


def _percent(share: float) -> str:
    return format_percent(share).replace(".0", "")


def _factor(log_gain: float) -> str:
    return f"{math.exp(log_gain):.2f}"


def _often(probability: float) -> str:
    """Say how often, where it is not always.

    >>> _often(0.8), _often(1.0)
    (', in 80\\xa0% of views', '')
    """
    return "" if probability == 1.0 else f", in {_percent(probability)} of views"
