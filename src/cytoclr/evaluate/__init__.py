"""How well profiles match mechanisms, said honestly: scores with their protocol, cases, interval and chance."""

from cytoclr.evaluate.comparison import compare_matches, compare_runs
from cytoclr.evaluate.epochs import choose_epoch, describe_selection, measure_epoch, score_epoch
from cytoclr.evaluate.evaluation import Baseline, Evaluation, choose_protocol, evaluate, score_treatments
from cytoclr.evaluate.geometry import describe_geometry
from cytoclr.evaluate.intervals import (
    bootstrap_difference,
    bootstrap_score,
    compute_chance,
    flip_signs,
    permute_mechanisms,
)
from cytoclr.evaluate.matching import match_treatments
from cytoclr.evaluate.nuisance import predict_nuisance
from cytoclr.evaluate.precision import measure_activity, measure_consistency
from cytoclr.evaluate.probes import probe_mechanisms
from cytoclr.evaluate.protocols import PROTOCOLS, Protocol
from cytoclr.evaluate.replicates import measure_matching, measure_replicability
from cytoclr.evaluate.scoring import Matched, score_nsc, score_nscb, summarise
from cytoclr.evaluate.treatments import AnnotatedTreatments, annotate_treatments

__all__ = [
    "PROTOCOLS",
    "AnnotatedTreatments",
    "Baseline",
    "Evaluation",
    "Matched",
    "Protocol",
    "annotate_treatments",
    "bootstrap_difference",
    "bootstrap_score",
    "choose_epoch",
    "choose_protocol",
    "compare_matches",
    "compare_runs",
    "compute_chance",
    "describe_geometry",
    "describe_selection",
    "evaluate",
    "flip_signs",
    "match_treatments",
    "measure_activity",
    "measure_consistency",
    "measure_epoch",
    "measure_matching",
    "measure_replicability",
    "permute_mechanisms",
    "predict_nuisance",
    "probe_mechanisms",
    "score_epoch",
    "score_nsc",
    "score_nscb",
    "score_treatments",
    "summarise",
]
