"""Numbers and settings in the words of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cytoclr.config import LabelsSeen, Normalisation, SelectBy
from cytoclr.tables import TRAINED

__all__ = [
    "LABELS_SEEN",
    "NORMALISATIONS",
    "ScoreRow",
    "Stamp",
    "describe_normalisation",
    "describe_protocol",
    "describe_selection",
    "describe_training",
    "format_count",
    "format_interval",
    "format_mean",
    "format_percent",
    "list_scores",
    "list_stamps",
    "name_features",
    "name_units",
    "say_verdict",
]

Score = Mapping[str, Any]

#: What each normalisation does, as a clause.
NORMALISATIONS: dict[Normalisation, str] = {
    "none": "profiles are left as they are",
    "plate-zscore": "each plate is centred and scaled on its own untreated wells (mean and standard deviation)",
    "plate-mad": "each plate is centred and scaled on its own untreated wells (median and median absolute deviation)",
    "plate-percentile": "each plate is stretched so that its untreated wells lie from 0 to 1 (1st and 99th percentile)",
    "batch-centre": "each batch is centred on its untreated wells",
    "combat": "each batch is shifted and scaled so that the untreated wells of all batches agree (ComBat)",
    "whitening": "profiles are whitened on the untreated wells of all plates, so that the ways in which untreated "
    "wells differ count for little",
    "whitening-pca": "profiles are whitened on the untreated wells of all plates (principal components), so that the "
    "ways in which untreated wells differ count for little",
    "whitening-zca-cor": "features are brought to one scale, then whitened on the untreated wells of all plates, so "
    "that the ways in which untreated wells differ count for little",
    "tvn": "profiles are whitened on the untreated wells of all plates, and the untreated wells of every batch are "
    "aligned with those of all (typical variation normalisation)",
    "broad-notebook": "profiles are whitened on the untreated wells of all plates, and those of every batch aligned "
    "with all, as in the notebooks behind several published figures",
}
#: Our own features, within a sentence; tables that a user named keep their names.
FEATURES = {
    TRAINED: "trained encoder",
    "untrained": "untrained encoder",
    "imagenet": "ImageNet encoder",
    "intensities": "channel intensities",
    "cell-count": "cell count",
}
LABELS_SEEN: dict[LabelsSeen, str] = {
    "none": "none: it was told nothing of plates, treatments or mechanisms",
    "plates": "plates: it was told which wells stand on the same plate or in the same batch",
    "treatments": "treatments: it was taught to tell them apart",
    "mechanisms": "mechanisms: it was told what the scores ask for",
}
LEAKS: tuple[LabelsSeen, ...] = ("treatments", "mechanisms")
_METRICS = {
    "cosine": "cosine similarity",
    "pearson": "correlation (Pearson)",
    "euclidean": "distance (Euclidean)",
}
#: Which neighbours NSCB does not admit, where a neighbour lies in several batches.
_SHARED_BATCHES = {
    "exclude": "For NSCB, a neighbour may share no batch.",
    "recompute": "For NSCB, a neighbour’s profile is made of its wells in other batches alone.",
    "joined": "For NSCB, only neighbours that lie in exactly the same batches are ruled out.",
    "median": "For NSCB, only neighbours whose plates have the same median batch are ruled out.",
    "same-mechanism": "For NSCB, only neighbours that share a batch and the mechanism are ruled out, so a right "
    "answer must come from another batch, and a wrong one need not.",
}
_SINGLE_BATCH = {
    "drop": "Mechanisms that lie in one batch are left out of NSCB.",
    "drop-queries": "Mechanisms that lie in one batch are not asked in NSCB, but may be found.",
    "keep": "Mechanisms that lie in one batch stay in NSCB, though no other batch could answer for them.",
}
_POSITIVE_CONTROLS = {
    "drop": "Positive controls take no part.",
    "first-batch": "Of positive controls, the wells of their first batch alone take part.",
}
_RULES: dict[SelectBy, str] = {
    "replicate-map": "the highest mAP of replicates against controls",
    "rank": "the highest effective rank",
    "batch": "the batch least told from untreated wells",
    "nscb": "the highest NSCB",
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


def format_mean(value: float) -> str:
    """Write a mean with two decimals and a true minus.

    >>> format_mean(-0.264)
    '−0.26'
    """
    return f"{value:.2f}".replace("-", "−")


@dataclass(frozen=True)
class ScoreRow:
    """The two scores of one kind of features, None where a score could not be had; and what its model was told."""

    features: str
    name: str
    nsc: Score | None
    nscb: Score | None
    told: str | None = None


def list_scores(scores: Mapping[str, Any]) -> list[ScoreRow]:
    """Put the trained encoder's scores and its baselines' in the order they are shown."""
    found = {TRAINED: scores, **(scores.get("baselines") or {})}
    return [
        ScoreRow(features, name_features(features), of.get("nsc"), of.get("nscb"), _find_leak(of))
        for features, of in found.items()
        if of and of.get("nsc")
    ]


def _find_leak(of: Mapping[str, Any]) -> str | None:
    told = of.get("labels_seen")
    return str(told) if told in LEAKS else None


def name_features(features: str) -> str:
    """Name what profiles are made of.

    >>> name_features("cell-count"), name_features("efficientnet, fine-tuned")
    ('Cell count', 'efficientnet, fine-tuned')
    """
    words = FEATURES.get(features)
    return features if words is None else words[0].upper() + words[1:]


def name_units(scores: Mapping[str, Any]) -> str:
    """Say what asks and answers: treatments, or wells."""
    return "wells" if (scores.get("protocol") or {}).get("level") == "well" else "treatments"


@dataclass(frozen=True)
class Stamp:
    """Why the scores are not those of an honest examination: in a word or two, and in a sentence."""

    title: str
    text: str


def list_stamps(scores: Mapping[str, Any]) -> list[Stamp]:
    """List what must stand beside the scores wherever they are read."""
    stamps = []
    if _find_leak(scores) == "treatments":
        stamps.append(
            Stamp(
                "Told the treatments",
                "This model was taught to tell these treatments apart. Do not rank it against models told nothing.",
            )
        )
    if _find_leak(scores) == "mechanisms":
        stamps.append(
            Stamp("Told the mechanisms", "This model has seen the answers that the scores ask for: they test nothing.")
        )
    if (selection := scores.get("selection")) and selection["uses_mechanisms"]:
        stamps.append(
            Stamp(
                "Chosen by its score",
                f"Epoch {selection['selected']} was chosen by {selection['by'].upper()} on these very mechanisms: "
                "the scores are those of a fit, not of a test.",
            )
        )
    return stamps


def say_verdict(scores: Mapping[str, Any]) -> list[str]:
    """Say what the headline score means, and whether it is told apart from the baselines."""
    score, name = (scores.get("nscb"), "nscb") if scores.get("nscb") else (scores.get("nsc"), "nsc")
    if not score:
        return [scores.get("reason") or "No mechanisms were given, so there is nothing to score against."]
    sentences = [
        f"For {score['correct']} of {score['total']} {name_units(scores)} ({format_percent(score['score'])}) "
        f"{_say_right(scores.get('protocol') or {}, name)} ({name.upper()})."
    ]
    if score.get("chance"):
        sentences.append(_compare_with_chance(score["chance"]))
    told = [c for c in scores.get("comparisons") or [] if c["a"] == TRAINED and c["score"] == name]
    sentences += [_compare(comparison, scores) for comparison in told]
    if told and (leak := _find_leak(scores)):
        sentences.append(f"All these comparisons leak: this model was told {leak}.")
    return sentences


def _say_right(protocol: Mapping[str, Any], score: str) -> str:
    """Say what it is to be right, as ``the most similar profile of another compound has the same mechanism``."""
    neighbours = protocol.get("neighbours", 1)
    other = "another compound" if neighbours == 1 else "other compounds"
    where = f"of {other}"
    if score == "nscb" and protocol.get("shared_batches", "exclude") in ("exclude", "recompute"):
        where += " in another batch" if neighbours == 1 else " in other batches"
    elif score == "nscb":
        where = f"that the protocol admits of {other}"
    if neighbours == 1:
        return f"the most similar profile {where} has the same mechanism"
    return f"the {neighbours} most similar profiles {where} vote for the same mechanism"


def _compare_with_chance(chance: Mapping[str, float]) -> str:
    mean = format_percent(chance["mean"])
    if chance["p_value"] < 0.05:
        return f"With mechanisms dealt out at random it is {mean} (p = {chance['p_value']:.2g})."
    return f"With mechanisms dealt out at random it is {mean}: this score is not told apart from chance."


def _compare(comparison: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Rank the two only where the comparison does; and say if it leaks."""
    name = comparison["b"]
    other = f"the {FEATURES[name]}" if name in FEATURES else name
    gain, (low, high) = comparison["gain"], comparison["interval"]
    about = f"95\N{NO-BREAK SPACE}% interval {_points(low)} to {_points(high)}, p = {comparison['p_value']:.2g}"
    if comparison["verdict"] == "undecided":
        sentence = f"It is not told apart from {other}: {_points(gain)} points, {about}."
    else:
        direction = "above" if comparison["verdict"] == "a" else "below"
        sentence = f"It is {100 * abs(gain):.0f} points {direction} {other} ({about})."
    if comparison["leaks"] and (leak := _find_leak(scores["baselines"][name])):
        sentence += f" This comparison leaks: the other was told {leak}."
    return sentence


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f}".replace("-", "−")


def describe_normalisation(normalisation: str | None) -> str:
    """Say in words what was done to the profiles, step by step.

    >>> describe_normalisation("none")
    'Profiles are left as they are.'
    >>> describe_normalisation("batch-centre, my own")
    'First, each batch is centred on its untreated wells. Then, profiles are normalised by my own.'
    """
    if not normalisation:
        return ""
    known = {str(name): clause for name, clause in NORMALISATIONS.items()}
    steps = [known.get(name, f"profiles are normalised by {name}") for name in normalisation.split(", ")]
    if len(steps) == 1:
        return steps[0][0].upper() + steps[0][1:] + "."
    return " ".join(f"{'Then' if number else 'First'}, {step}." for number, step in enumerate(steps))


def describe_protocol(scores: Mapping[str, Any]) -> list[str]:
    """Say in words how the scores came about."""
    protocol = scores.get("protocol") or {}
    if not scores.get("nsc"):
        return []
    sentences = [_describe_profile(protocol), *_describe_neighbours(protocol)]
    if (same := scores.get("nsc_on_nscb_treatments")) and scores.get("drop") is not None:
        sentences.append(
            f"On the {name_units(scores)} of NSCB, NSC is {same['correct']} of {same['total']} "
            f"({format_percent(same['score'])}); "
            f"the drop to NSCB is {100 * scores['drop']:.1f} points.".replace("-", "−")
        )
    sentences.append(
        "Intervals are 95\N{NO-BREAK SPACE}% by bootstrap over compounds; chance deals the mechanisms out over the "
        "compounds at random."
    )
    return sentences


def _describe_profile(protocol: Mapping[str, Any]) -> str:
    """Say what asks, and how its profile is made."""
    name = f"Protocol “{protocol.get('name', 'not named')}”:"
    scaled = ", each scaled to length one first" if protocol.get("unit_wells") else ""
    if protocol.get("level") == "well":
        return f"{name} single wells ask and answer{scaled}."
    aggregate, within = protocol.get("aggregate", "mean"), protocol.get("within_plates")
    if within:
        return f"{name} a treatment’s profile is the {aggregate} of its plates, each the {within} of its wells{scaled}."
    return f"{name} a treatment’s profile is the {aggregate} of its wells{scaled}."


def _describe_neighbours(protocol: Mapping[str, Any]) -> list[str]:
    """Say who may answer, and how the answer is counted."""
    metric = protocol.get("metric", "cosine")
    units = "wells" if protocol.get("level") == "well" else "treatments"
    sentences = [
        f"Its nearest neighbour by {_METRICS.get(metric, metric)} is looked for among {units} of other compounds "
        "(NSC), or of other compounds and other batches (NSCB)."
    ]
    if (neighbours := protocol.get("neighbours", 1)) > 1:
        sentences.append(
            f"The {neighbours} nearest vote; of mechanisms with as many votes, that of the nearest is taken."
        )
    sentences += [
        told
        for choice, words in (
            ("shared_batches", _SHARED_BATCHES),
            ("single_batch_mechanisms", _SINGLE_BATCH),
            ("positive_controls", _POSITIVE_CONTROLS),
        )
        if (told := words.get(protocol.get(choice, "")))
    ]
    return sentences


def describe_selection(selection: Mapping[str, Any] | None) -> list[str]:
    """Say which epoch's encoder was taken, by what, and what hindsight would have given."""
    if selection is None:
        return ["The encoder of the last epoch was taken; there was no choice among epochs."]
    epoch, count, rule = selection["selected"], len(selection["epochs"]), _RULES.get(selection["by"])
    if rule is None:
        sentences = [f"The encoder of epoch {epoch}, the last, was taken, whatever the {count} measured epochs told."]
    else:
        mechanisms = "the mechanisms that the scores ask for" if selection["uses_mechanisms"] else "no mechanism"
        sentences = [
            f"The encoder of epoch {epoch} was taken: of {count} measured epochs, the one with {rule}. That rule "
            f"looks at {mechanisms}."
        ]
    gaps = [(name.upper(), gap) for name, gap in selection["oracle_gap"].items() if gap is not None]
    for name, gap in gaps:
        if gap["gap"] > 0:
            sentences.append(
                f"In hindsight, epoch {gap['epoch']} would have had the best {name}: {format_percent(gap['score'])}, "
                f"{100 * gap['gap']:.1f} points above."
            )
    if best := [name for name, gap in gaps if gap["gap"] <= 0]:
        sentences.append(f"In hindsight, no measured epoch has a higher {' or '.join(best)}.")
    if not gaps:
        sentences.append("What hindsight would have given is not known: the epochs were not scored.")
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
