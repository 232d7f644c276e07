"""Protocols: every choice that moves a score, under a name."""

from dataclasses import asdict, dataclass
from typing import Literal

from cytoclr.evaluate.matching import Metric
from cytoclr.grouping import Statistic

__all__ = ["PROTOCOLS", "Protocol"]


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
    aggregate
        How wells become a treatment, feature by feature; every well counts the same.
    metric
        By which the nearest neighbour is found; cosine is that of the angle between two profiles, without any
        centring. Of neighbours equally near (but for rounding) the first by compound, then concentration, is taken.
    shared_batches
        NSCB of a reference that lies in several batches, of which it shares some with the query: ``exclude`` it; or
        ``recompute`` its profile from its wells in the batches that the query has no wells in.
    single_batch_mechanisms
        NSCB of a mechanism all of whose treatments lie in one and the same batch: ``drop`` leaves its treatments
        out of queries and references (no other batch could answer them), ``keep`` counts them as they fall.
    normalisation
        What the wells must have been normalised by for the protocol to deserve its name; None: anything.
    batch
        The column that tells which plates were made together.

    References
    ----------
    doi:10.1177/1087057113503553 (Ljosa et al. 2013), doi:10.1101/161422 (Ando et al. 2017).
    """

    name: str
    aggregate: Statistic = "mean"
    metric: Metric = "cosine"
    shared_batches: Literal["exclude", "recompute"] = "exclude"
    single_batch_mechanisms: Literal["drop", "keep"] = "drop"
    normalisation: str | None = None
    batch: str = "Metadata_Batch"

    def describe(self) -> dict[str, str | None]:
        """Return all choices as plain JSON values."""
        return asdict(self)


#: The protocols known by name. ``treatment-mean``, the default, is the scheme of Ando et al. 2017 with its rule for
#: treatments in several batches made explicit. ``strict`` is the same but asks references in several batches too.
#: ``broad-notebook`` follows the notebooks behind several published figures: their normalisation, median of wells.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("treatment-mean"),
        Protocol("strict", shared_batches="recompute"),
        Protocol("broad-notebook", aggregate="median", normalisation="broad-notebook"),
    )
}
