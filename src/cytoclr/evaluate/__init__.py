"""How well profiles match mechanisms, said honestly: scores with their protocol, cases, interval and chance."""

from cytoclr.evaluate.evaluation import Evaluation, evaluate
from cytoclr.evaluate.intervals import bootstrap_difference, bootstrap_score, compute_chance, permute_mechanisms
from cytoclr.evaluate.matching import match_treatments
from cytoclr.evaluate.probes import probe_mechanisms
from cytoclr.evaluate.protocols import PROTOCOLS, Protocol
from cytoclr.evaluate.scoring import Matched, score_nsc, score_nscb, summarise
from cytoclr.evaluate.treatments import AnnotatedTreatments, annotate_treatments

__all__ = [
    "PROTOCOLS",
    "AnnotatedTreatments",
    "Evaluation",
    "Matched",
    "Protocol",
    "annotate_treatments",
    "bootstrap_difference",
    "bootstrap_score",
    "compute_chance",
    "evaluate",
    "match_treatments",
    "permute_mechanisms",
    "probe_mechanisms",
    "score_nsc",
    "score_nscb",
    "summarise",
]
