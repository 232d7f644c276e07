"""Protocols: every choice that moves a score, under a name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cytoclr.evaluate.matching import Metric
from cytoclr.grouping import Statistic

__all__ = ["PROTOCOLS", "Protocol"]

SharedBatches = Literal["exclude", "recompute", "joined", "median", "same-mechanism"]


@dataclass(frozen=True)
class Protocol:
    """What exactly NSC and NSCB mean.

    NSC ("not same compound", Ljosa et al. 2013) is the share of treatments whose nearest neighbour among the
    treatments of *other compounds* has the same mechanism. NSCB ("not same compound or batch", Ando et al. 2017)
    asks for other compounds *and other batches*. A query without an admissible reference is unanswerable: named,
    and not counted in the total.

    Attributes
    ----------
    name
        Under which it is printed with each score.
    source
        Where it is defined.
    level
        What asks and answers: treatments, or single wells.
    unit_wells
        Whether each well's profile is scaled to length one before wells become a treatment.
    within_plates
        How the wells of a treatment on one plate are aggregated first, so that every plate counts the same; None: not.
    aggregate
        How wells (or plates) become a treatment, feature by feature; each counts the same.
    metric
        By which the nearest neighbour is found; cosine is that of the angle between two profiles, without any
        centring. Of neighbours equally near (but for rounding) the first by compound, then concentration, is taken.
    neighbours
        How many vote; the most frequent mechanism is predicted, of those as frequent the nearest neighbour's.
    shared_batches
        NSCB of a reference that lies in several batches, of which it shares some with the query. ``exclude`` it.
        ``recompute`` its profile from its wells in the batches that the query has no wells in. ``joined``: exclude it
        only if it lies in exactly the query's batches (their names joined, compared as one text). ``median``: exclude
        it only if the median of its plates' batches, numbered in their natural order, is the query's.
        ``same-mechanism``: exclude it only if it shares a batch and has the query's mechanism.
    single_batch_mechanisms
        NSCB of a mechanism all of whose treatments lie in one and the same batch: ``drop`` leaves its treatments
        out of queries and references (no other batch could answer them), ``drop-queries`` out of the queries alone,
        ``keep`` counts them as they fall.
    positive_controls
        Whether the wells of positive controls take part: ``keep`` all, ``drop`` all, or keep those of each treatment's
        ``first-batch`` (in their natural order) alone.
    normalisation
        What the wells must have been normalised by for the protocol to deserve its name; None: anything.
    batch
        The column that tells which plates were made together.

    References
    ----------
    doi:10.1177/1087057113503553 (Ljosa et al. 2013), doi:10.1101/161422 (Ando et al. 2017).
    """

    name: str
    source: str = ""
    level: Literal["treatment", "well"] = "treatment"
    unit_wells: bool = False
    within_plates: Statistic | None = None
    aggregate: Statistic = "mean"
    metric: Metric = "cosine"
    neighbours: int = 1
    shared_batches: SharedBatches = "exclude"
    single_batch_mechanisms: Literal["drop", "drop-queries", "keep"] = "drop"
    positive_controls: Literal["keep", "drop", "first-batch"] = "keep"
    normalisation: str | None = None
    batch: str = "Metadata_Batch"

    def describe(self) -> dict[str, str | int | bool | None]:
        """Return all choices as plain JSON values."""
        return asdict(self)

    def change(self, changes: Mapping[str, Any]) -> "Protocol":
        """Make a protocol of one's own: the same but for some choices, which its name tells.

        >>> PROTOCOLS["strict"].change({"neighbours": 3}).name
        'strict, neighbours 3'
        """
        made = {choice: value for choice, value in changes.items() if value is not None}
        if not made:
            return self
        name = ", ".join([self.name, *(f"{choice.replace('_', ' ')} {value}" for choice, value in made.items())])
        return replace(self, name=name, source="of one's own", **made)


_PROTOCOLS = (
    Protocol("treatment-mean", source="the default: Ando et al. 2017, its rule for several batches made explicit"),
    Protocol("strict", source="the same, but references in several batches are asked too", shared_batches="recompute"),
    Protocol(
        "ljosa-2013",
        source="Ljosa et al. 2013 as in CellProfiler Analyst (cpa/profiling: profile_mean, median_profiles, "
        "leave_one_out); NSCB is not defined there",
        aggregate="median",
    ),
    Protocol(
        "broad-notebook",
        source="DeepProfilerExperiments, bbbc021/profiling-evaluation.ipynb; medians of sites there, of wells here",
        aggregate="median",
        shared_batches="joined",
        normalisation="broad-notebook",
    ),
    Protocol(
        "umm",
        source="Janssens et al. 2021, Novartis/UMM-Discovery, evaluation.py",
        within_plates="mean",
        aggregate="median",
        shared_batches="median",
    ),
    Protocol(
        "ws-dino",
        source="Cross-Zamirski et al. 2022, crosszamirski/WS-DINO, Eval_BBBC021.py (NSCB)",
        within_plates="mean",
        aggregate="median",
        shared_batches="median",
    ),
    Protocol(
        "unidino",
        source="Morelli et al. 2025, Bayer-Group/uniDINO, source/eval.py (its scores of wells)",
        level="well",
        shared_batches="same-mechanism",
        positive_controls="first-batch",
    ),
)
#: The protocols known by name; docs/explanation/scores.md tells their sources and where ours depart from them.
PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}
