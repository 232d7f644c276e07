"""What is measured beside the scores: each figure with its cases and with chance, or why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cytoclr.report.wording import format_count, format_interval, format_mean, format_percent, name_features
from cytoclr.tables import TRAINED

__all__ = [
    "CLASSIFIERS",
    "MEASURES",
    "Figure",
    "Measure",
    "MeasureRow",
    "NuisanceRow",
    "ProbeRow",
    "describe_geometry",
    "explain_measures",
    "list_measures",
    "list_nuisance",
    "list_probes",
]

#: A probe is shown for each of them, in this order.
HELD_OUT = ("well", "plate", "batch", "compound")
CLASSIFIERS = {"random-forest": "Random forest", "logistic": "Logistic regression", "knn": "20 nearest cells"}


@dataclass(frozen=True)
class Figure:
    """A share or a mean, from 0 to 1.

    Attributes
    ----------
    value, text
        As measured, and as printed; None and empty where there is none.
    cases
        On how many it rests, in words.
    more
        What else is to be told, in words.
    chance, p95
        What is to be expected of profiles that know nothing: the mean, and the 95th percentile.
    interval
        95 %.
    missing
        Why there is none.
    """

    value: float | None = None
    text: str = ""
    cases: str = ""
    more: str = ""
    chance: float | None = None
    p95: float | None = None
    interval: Sequence[float] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Measure:
    """A column: its key in ``scores.json``, its heading, what kind of number it is, and both in short."""

    key: str
    name: str
    kind: str
    short: str


MEASURES = (
    Measure("activity", "Replicates against controls", "mAP", "Replicates, mAP"),
    Measure("replicating", "Percent replicating", "of treatments", "Percent replicating"),
    Measure("matching", "Percent matching", "of treatments", "Percent matching"),
    Measure("consistency", "Mechanisms", "mAP", "Mechanisms, mAP"),
)


@dataclass(frozen=True)
class MeasureRow:
    """All measures of one kind of features, in the order of `MEASURES`."""

    features: str
    name: str
    figures: tuple[Figure, ...]

    @property
    def missing(self) -> str:
        """Why there is no figure at all, if the reason is one."""
        reasons = {figure.missing for figure in self.figures}
        return reasons.pop() if len(reasons) == 1 else ""


def list_measures(scores: Mapping[str, Any]) -> list[MeasureRow]:
    """Put the measures of the trained encoder and of its baselines in the order they are shown."""
    found = {TRAINED: scores, **(scores.get("baselines") or {})}
    rows = []
    for features, of in found.items():
        figures = tuple(_read_measure(measure.key, of, scores) for measure in MEASURES)
        rows.append(MeasureRow(features, name_features(features), figures))
    return rows


def _read_measure(key: str, of: Mapping[str, Any], scores: Mapping[str, Any]) -> Figure:
    # cosine and correlation, by which all four are measured, are of no use to tables of a single feature
    if of.get("metric") is not None:
        return Figure(missing="a single number has no direction to compare")
    measured = of.get(key)
    return Figure(missing=_say_missing(key, scores)) if measured is None else _FIGURES[key](measured)


def _say_missing(key: str, scores: Mapping[str, Any]) -> str:
    if key == "activity":
        return "no treatment has both replicates and untreated wells on its plates"
    if key == "replicating":
        return "no treatment has replicates to compare"
    if "reason" in scores:
        return "no mechanism is known"
    if (scores.get("protocol") or {}).get("level") == "well":
        return "the protocol asks wells, not treatments"
    return "no mechanism has compounds enough"


def _show_precision(of: Mapping[str, Any], verdict: str, noun: str) -> Figure:
    return Figure(
        of["map"],
        format_mean(of["map"]),
        cases=f"{format_count(of[verdict])} of {format_count(of['total'])} {noun} {verdict}",
        more=f"{format_mean(of['interval'][0])}–{format_mean(of['interval'][1])}",
        chance=of["chance"],
        interval=of["interval"],
    )


def _show_share(of: Mapping[str, Any], count: str) -> Figure:
    cases = f"{format_count(of[count])} of {format_count(of['total'])} treatments"
    return Figure(
        of["share"],
        format_percent(of["share"]),
        cases=cases,
        more=format_interval(of["interval"]),
        chance=of["chance"],
        interval=of["interval"],
    )


_FIGURES: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    "activity": lambda of: _show_precision(of, "active", "treatments"),
    "replicating": lambda of: _show_share(of, "replicating"),
    "matching": lambda of: _show_share(of, "matching"),
    "consistency": lambda of: _show_precision(of, "consistent", "mechanisms"),
}


def explain_measures(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Explain each measure in a sentence or two."""
    activity = (
        "Do the wells of a treatment find each other before the untreated wells of their plates? 1 is always; a "
        "treatment is active if its ranking is unlikely by chance (corrected p < 0.05)."
    )
    of = scores.get("activity")
    if of is not None and of["reachable"] < of["total"]:
        activity += (
            f" With so few replicates or untreated wells on a plate, even a perfect ranking may come by chance: "
            f"{format_count(of['total'] - of['reachable'])} of {format_count(of['total'])} treatments could not be "
            "active whatever they did. Look at their mAP."
        )
    sentences = (
        activity,
        "Treatments whose wells are more alike than 95 % of sets of wells of different treatments are. By chance 5 %.",
        "Treatments more alike to the other compounds of their mechanism than to 95 % of sets of as many compounds of "
        "other mechanisms. By chance 5 % or less.",
        "Do the treatments of a mechanism find each other, other compounds only, before those of other mechanisms? 1 "
        "is always; a mechanism is consistent if that is unlikely by chance (corrected p < 0.05).",
    )
    return [
        (measure.name, sentence.replace(" %", "\N{NO-BREAK SPACE}%"))
        for measure, sentence in zip(MEASURES, sentences, strict=True)
    ]


@dataclass(frozen=True)
class NuisanceRow:
    """How well the batch or the plate can be told, before and after normalisation."""

    key: str
    name: str
    asked: str
    before: Figure
    after: Figure


def list_nuisance(scores: Mapping[str, Any]) -> list[NuisanceRow]:
    """Put what is told of batch and plate in the order it is shown; nothing if nothing was measured."""
    nuisance = scores.get("nuisance")
    if not nuisance:
        return []
    rows = []
    for key in ("batch", "plate"):
        before, after = ((nuisance.get(when) or {}).get(key) for when in ("before", "after"))
        asked = {"plate": "of wells on plates not seen", "well": "of other wells of the same plates"}
        held_out = next((of["held_out"] for of in (after, before) if of), "")
        lacking = f"fewer than two {'batches' if key == 'batch' else 'plates'} with untreated wells enough"
        unknown = "the profiles before normalisation were not given" if nuisance.get("before") is None else lacking
        rows.append(
            NuisanceRow(
                key,
                key.capitalize(),
                asked.get(held_out, ""),
                _show_nuisance(before, key, unknown),
                _show_nuisance(after, key, lacking),
            )
        )
    return rows


def _show_nuisance(of: Mapping[str, Any] | None, key: str, missing: str) -> Figure:
    if of is None:
        return Figure(missing=missing)
    kinds = "batches" if key == "batch" else "plates"
    return Figure(
        of["balanced_accuracy"],
        format_percent(of["balanced_accuracy"]),
        cases=f"{format_count(of['num_wells'])} wells of {of['num_classes']} {kinds}",
        more=f"chance {format_percent(of['chance'])}",
        chance=of["chance"],
        p95=of["p95"],
    )


@dataclass(frozen=True)
class ProbeRow:
    """How well each of `CLASSIFIERS` names the mechanism of single cells of wells, plates … that it has not seen."""

    held_out: str
    cases: str
    figures: tuple[Figure, ...]


def list_probes(scores: Mapping[str, Any]) -> list[ProbeRow]:
    """Put the probes in the order they are shown; nothing if there is none.

    What could not be held out (a screen of one batch) has a row that says so.
    """
    probes = {(of["held_out"], of["classifier"]): of for of in scores.get("probes") or []}
    if not probes:
        return []
    rows = []
    for held_out in HELD_OUT:
        name = f"{held_out.capitalize()}s" if held_out != "batch" else "Batches"
        found = [probes.get((held_out, classifier)) for classifier in CLASSIFIERS]
        missing = Figure(missing=f"no two mechanisms have {name.lower()} enough")
        figures = tuple(missing if of is None else _show_probe(of) for of in found)
        rows.append(ProbeRow(name, _count_held_out(next(filter(None, found), None)), figures))
    return rows


def _count_held_out(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return ""
    num_groups = probe["num_groups_train"] + probe["num_groups_test"]
    return f"{format_count(probe['num_groups_test'])} of {format_count(num_groups)} held out"


def _show_probe(of: Mapping[str, Any]) -> Figure:
    accuracy = of["balanced_accuracy"]
    return Figure(accuracy, format_percent(accuracy), f"chance {format_percent(of['chance'])}", chance=of["chance"])


def describe_geometry(scores: Mapping[str, Any]) -> str:
    """Say in one sentence how many directions the profiles fill."""
    of = scores.get("geometry")
    if of is None:
        return "How many directions the profiles fill was not measured."
    wells = f"The profiles of {format_count(of['num_wells'])} wells"
    if of["effective_rank"] is None:
        return f"{wells} are all the same: the encoder has collapsed."
    return (
        f"{wells} spread over {of['effective_rank']:.1f} independent directions (their effective rank, of "
        f"{format_count(of['num_features'])} features); those of an encoder that has collapsed would be near 1."
    )
