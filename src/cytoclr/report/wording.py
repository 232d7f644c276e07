"""Numbers and settings in the words of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "NORMALISATIONS",
    "ScoreRow",
    "describe_protocol",
    "describe_training",
    "format_count",
    "format_interval",
    "format_percent",
    "list_scores",
    "say_verdict",
]

Score = Mapping[str, Any]

NORMALISATIONS = {
    "none": "Profiles are not normalised.",
    "plate-zscore": "Each plate is centred and scaled on its own untreated wells (z-score).",
    "whitening": "Profiles are whitened on the untreated wells of all plates, so that the ways in which untreated "
    "wells differ count for little.",
    "tvn": "Typical variation normalisation: profiles are whitened on the untreated wells of all plates, and the "
    "untreated wells of every batch are aligned with those of all.",
}
FEATURES = {
    "trained": "Trained encoder",
    "untrained": "Untrained encoder",
    "intensities": "Channel intensities",
}


def format_count(value: int | float) -> str:
    """Write a whole number with commas.

    >>> format_count(8064)
    '8,064'
    """
    return f"{value:,.0f}"


def format_percent(value: float) -> str:
    """Write a share as a percentage with one decimal; the number and its sign stay on one line.

    >>> format_percent(84 / 103)
    '81.6\\xa0%'
    """
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def format_interval(interval: Sequence[float]) -> str:
    """Write an interval of shares in whole percents.

    >>> format_interval([0.712, 0.906])
    '71–91\\xa0%'
    """
    low, high = interval
    return f"{100 * low:.0f}–{100 * high:.0f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class ScoreRow:
    """The two scores of one kind of features; None where a score could not be had."""

    features: str
    name: str
    nsc: Score | None
    nscb: Score | None


def list_scores(scores: Mapping[str, Any]) -> list[ScoreRow]:
    """Put the trained encoder's scores and its baselines' in the order they are shown."""
    found = {"trained": scores, **(scores.get("baselines") or {})}
    return [
        ScoreRow(features, FEATURES.get(features, features), of.get("nsc"), of.get("nscb"))
        for features, of in found.items()
        if of and of.get("nsc")
    ]


def say_verdict(scores: Mapping[str, Any]) -> list[str]:
    """Say what the headline score means, and whether it is told apart from the baselines."""
    score, name = (scores.get("nscb"), "nscb") if scores.get("nscb") else (scores.get("nsc"), "nsc")
    if not score:
        return [scores.get("reason") or "No mechanisms were given, so there is nothing to score against."]
    where = "another compound in another batch" if name == "nscb" else "another compound"
    sentences = [
        f"For {score['correct']} of {score['total']} treatments ({format_percent(score['score'])}) the most similar "
        f"profile of {where} has the same mechanism ({name.upper()})."
    ]
    if score.get("chance"):
        sentences.append(_compare_with_chance(score["chance"]))
    told = [c for c in scores.get("comparisons") or [] if c["a"] == "trained" and c["score"] == name]
    return sentences + [_compare(comparison) for comparison in told]


def _compare_with_chance(chance: Mapping[str, float]) -> str:
    mean = format_percent(chance["mean"])
    if chance["p_value"] < 0.05:
        return f"With mechanisms dealt out at random it is {mean} (p = {chance['p_value']:.2g})."
    return f"With mechanisms dealt out at random it is {mean}: this score is not told apart from chance."


def _compare(comparison: Mapping[str, Any]) -> str:
    other = FEATURES.get(comparison["b"], comparison["b"])
    other = "the " + other[0].lower() + other[1:]
    gain, (low, high) = comparison["gain"], comparison["interval"]
    interval = f"95\N{NO-BREAK SPACE}% interval {_points(low)} to {_points(high)}"
    if low <= 0 <= high:
        return f"It is not told apart from {other}: {_points(gain)} points, {interval}."
    return f"It is {100 * abs(gain):.0f} points {'above' if gain > 0 else 'below'} {other} ({interval})."


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f}".replace("-", "−")


def describe_protocol(scores: Mapping[str, Any]) -> list[str]:
    """Say in words how the scores came about."""
    protocol = scores.get("protocol") or {}
    if not scores.get("nsc"):
        return []
    aggregate = protocol.get("aggregate", "mean")
    sentences = [
        f"Protocol “{protocol.get('name', 'not named')}”: a treatment’s profile is the {aggregate} of its wells; its "
        f"nearest neighbour by {protocol.get('metric', 'cosine')} similarity is looked for among treatments of other "
        "compounds (NSC), or of other compounds and other batches (NSCB)."
    ]
    if (same := scores.get("nsc_on_nscb_treatments")) and scores.get("drop") is not None:
        sentences.append(
            f"On the treatments of NSCB, NSC is {same['correct']} of {same['total']} "
            f"({format_percent(same['score'])}); "
            f"the drop to NSCB is {100 * scores['drop']:.1f} points.".replace("-", "−")
        )
    sentences.append(
        "Intervals are 95\N{NO-BREAK SPACE}% by bootstrap over compounds; chance deals the mechanisms out over the "
        "compounds at random."
    )
    return sentences


def describe_training(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in words how the loss went."""
    epochs = [line for line in metrics if line.get("event") != "step"]
    train = [(line["epoch"], line["train_loss"]) for line in epochs if line.get("train_loss") is not None]
    validation = [(line["epoch"], line["val_loss"]) for line in epochs if line.get("val_loss") is not None]
    sentences = []
    if train:
        sentences.append(
            f"The training loss went from {train[0][1]:.2f} to {train[-1][1]:.2f} in {_epochs(train[-1][0])}."
        )
    if validation:
        epoch, best = min(validation, key=lambda pair: pair[1])
        last_epoch, last = validation[-1]
        when = "at the end" if epoch == last_epoch else f"in epoch {epoch}"
        ended = "" if epoch == last_epoch else f" and ended at {last:.2f}"
        sentences.append(f"On wells never trained on, it was lowest {when} ({best:.2f}){ended}.")
    return sentences


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"
