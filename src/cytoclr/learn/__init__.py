"""Floor 1: from crops to embeddings by self-supervised learning; the only floor that imports torch."""

from cytoclr.learn.embed import embed
from cytoclr.learn.model import Encoder, build_imagenet_encoder, build_untrained_encoder, load_encoder
from cytoclr.learn.probe import probe_treatments
from cytoclr.learn.train import Probe, TrainReport, train

__all__ = [
    "Encoder",
    "Probe",
    "TrainReport",
    "build_imagenet_encoder",
    "build_untrained_encoder",
    "embed",
    "load_encoder",
    "probe_treatments",
    "train",
]
