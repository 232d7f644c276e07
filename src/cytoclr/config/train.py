"""Settings of training."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cytoclr.config.augment import AugmentSettings
from cytoclr.config.screens import SingleCellSettings
from cytoclr.config.section import FilePath, Fraction, Positive, Section, read_list

__all__ = ["HOW_FAST", "LoggerName", "ProbeSettings", "SamplerName", "TrainSettings"]

#: How an epoch's cells are drawn; see `cytoclr.learn.order.EpochOrder`.
SamplerName = Literal["random", "balanced", "batch-balanced", "within-batch"]
#: Who else is told how training goes.
LoggerName = Literal["tensorboard", "wandb", "mlflow"]
#: Settings that decide how fast training is and who is told, but not its result.
HOW_FAST = ("num_workers", "preload", "devices", "nodes", "compile", "loggers")


class ProbeSettings(Section):
    """A classifier of treatments, fitted on embeddings while training goes on: is it learning anything?"""

    every_n_epochs: int = Field(0, ge=0, description="nought: never")
    classifier: Literal["random-forest", "linear"] = "random-forest"
    test_fraction: float = Field(0.3, gt=0.0, lt=1.0, description="share of wells held out")
    screen: SingleCellSettings | None = Field(None, description="other crops to probe on; null: the training's")


class TrainSettings(Section):
    """SimCLR training."""

    backbone: str = Field("small-cnn", description="small-cnn, seed-cnn or any timm model: resnet18, resnet50 …")
    pretrained: bool = Field(False, description="begin with timm's ImageNet weights (needs the network once)")
    fine_tune_from: FilePath | None = Field(None, description="a model folder or checkpoint to begin from")
    fine_tune_channels: dict[str, str] = Field(
        {}, description="where that model's channels have other names: {its name: the screen's name}"
    )
    view_size_px: int = Field(64, ge=16, description="height and width of what the encoder sees")
    transform: Literal["sqrt", "linear"] = Field("sqrt", description="of intensities 0..1, before anything else")
    projection_hidden: Positive = 256
    projection_dim: Positive = 128
    temperature: float = Field(0.1, gt=0.0)
    similarity: Literal["cosine", "dot"] = "cosine"
    loss: Literal["nt-xent", "supcon", "spc", "vicreg"] = Field(
        "nt-xent", description="supcon and spc see treatments; vicreg has no negatives"
    )
    positives: Literal["views", "cross-well", "cross-plate"] = Field(
        "views",
        description="of nt-xent: views of the cell; or also cells of its treatment in other wells, or on other plates",
    )
    negatives: Literal["all", "other-wells", "other-compounds"] = Field(
        "all", description="of nt-xent: which cells are pushed apart"
    )
    minibatch_size: int = Field(256, ge=2)
    epochs: Positive = 16
    optimizer: Literal["adam", "adamw", "lars", "sgd"] = "adamw"
    learning_rate: float = Field(4e-3, gt=0.0)
    weight_decay: float = Field(1e-4, ge=0.0)
    warmup_epochs: float = Field(1.0, ge=0.0)
    sampler: SamplerName = Field(
        "random",
        description="balanced, batch-balanced: treatments, batches equally often; within-batch: each minibatch of one",
    )
    validation_fraction: Fraction = Field(0.05, description="share of wells never trained on")
    validate_every_n_epochs: Positive = 1
    checkpoint_every_n_epochs: Positive = 10
    log_every_n_steps: Positive = 10
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    devices: Positive = Field(1, description="processes: GPUs, or with device cpu as many processes")
    nodes: Positive = Field(1, description="machines, on each of which srun or torchrun starts devices processes")
    chunk_size: Positive | None = Field(
        None,
        description="cells of a minibatch, on all devices, whose activations are held at once; null: all of them",
    )
    sync_norm: bool = Field(True, description="statistics of normalisation over all devices")
    compile: bool = Field(False, description="the backbone, by torch.compile: needs a C++ compiler, and a minute")
    loggers: Annotated[tuple[LoggerName, ...], BeforeValidator(read_list)] = Field(
        ("tensorboard",), description="beside metrics.jsonl; wandb and mlflow need their packages"
    )
    num_workers: int = Field(0, ge=0, description="loader processes; nought suits memory-mapped crops")
    preload: bool = Field(False, description="hold all crops in memory")
    augment: AugmentSettings = AugmentSettings()
    probe: ProbeSettings = ProbeSettings()
