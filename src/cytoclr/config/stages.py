"""Settings of the stages: one model for each, and the whole of them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from cytoclr.config.screens import ScreenSettings, VirtualSettings
from cytoclr.config.section import FilePath, IncreasingPercents, Positive, Section, read_list
from cytoclr.config.train import TrainSettings

__all__ = [
    "BaselineSettings",
    "ClusterSettings",
    "CropSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "Flag",
    "LabelsSeen",
    "MaskSettings",
    "Normalisation",
    "ProfileSettings",
    "ProtocolChanges",
    "ProtocolName",
    "ReportSettings",
    "SelectBy",
    "SelectSettings",
    "Settings",
]


def _check_where(where: str) -> str:
    if where not in {"here", "threads", "processes", "slurm"} and "://" not in where:
        raise PydanticCustomError(
            "where", "expected here, threads, processes, slurm, or a Dask scheduler's address, as tcp://host:8786"
        )
    return where


class ClusterSettings(Section):
    """Where crops are cut; the result is the same wherever that is."""

    where: Annotated[str, AfterValidator(_check_where)] = Field(
        "here",
        description="here (one after the other), threads, processes, slurm, or the address of a Dask scheduler: "
        "tcp://host:8786",
    )
    workers: Positive | None = Field(None, description="threads, processes or SLURM jobs; null: one a core, or one job")
    memory_gb: float = Field(4.0, gt=0.0, description="of each process or job")
    slurm_queue: str | None = Field(None, description="SLURM's partition")
    slurm_account: str | None = None
    slurm_walltime: str = Field("04:00:00", description="of each job, h:min:s")


class MaskSettings(Section):
    """Label masks: one image a site, nought outside cells, a cell's number inside."""

    folder: FilePath = Field(description="all masks lie under it")
    template: str = Field(description="how they are named, as {plate}/{well}_s{site}_mask.tif; see reader images")


#: What may be wrong with a crop.
Flag = Literal["empty", "out-of-focus", "saturated", "padded"]


class CropSettings(Section):
    """From fields to crops."""

    size_px: Annotated[int, Field(ge=8)] | None = Field(
        None, description="height and width of a crop; null: 64, or the size of ready crops"
    )
    locations: FilePath | None = Field(
        None,
        description="cell centres: a table (CSV, Parquet, CellProfiler's SQLite) or a folder of them; "
        "null: the masks', else nuclei are found",
    )
    masks: MaskSettings | None = Field(None, description="label masks of the cells, of any segmenter")
    apply_masks: bool = Field(False, description="set pixels outside a crop's own cell to nought")
    nuclei_channel: str | None = Field(
        None, description="channel in which nuclei are found; null: that named as a DNA stain, else the first"
    )
    nucleus_diameter_px: float = Field(24.0, gt=2.0, description="typical; decides smoothing, splitting and sizes")
    border: Literal["drop", "pad"] = Field(
        "drop", description="crops that cross the field's border: left out and listed, or filled up with background"
    )
    illumination: Literal["given", "plate", "none"] = Field(
        "given",
        description="uneven light is divided out: by the screen's own functions where it names them, by a function "
        "estimated for each plate and channel, or not at all",
    )
    intensity: Literal["plate-percentile", "full-range", "fixed", "field-percentile", "crop-percentile"] = Field(
        "plate-percentile",
        description="what becomes 0 and 1: two percentiles of the plate, the camera's range, crop.ranges, two "
        "percentiles of the field or of the crop itself",
    )
    percentiles: IncreasingPercents = Field((1.0, 99.9), description="of the pixels, per channel")
    ranges: dict[str, tuple[float, float]] = Field(
        {}, description="of intensity fixed: what becomes 0 and 1 in each channel, as {DNA: [100, 4000]}"
    )
    bits: Literal["keep", 8] = Field(
        "keep", description="keep the camera's numbers, or store 0..1 as 0..255: half the space, coarser"
    )
    drop: Annotated[tuple[Flag, ...], BeforeValidator(read_list)] = Field(
        (), description="leave flagged crops out, as [empty, out-of-focus]; all are listed"
    )
    overlays: int = Field(6, ge=0, description="fields drawn with their cells, to judge the locations by")
    skip_missing: bool = Field(False, description="leave out, count and list sites with missing files")


SelectBy = Literal["last", "replicate-map", "rank", "batch", "nscb"]


class SelectSettings(Section):
    """Which epoch's encoder embeds: the last, or the best by a measure over the kept checkpoints."""

    by: SelectBy = Field(
        "last",
        description="replicate-map, rank, batch know no mechanism; nscb does, and the report says so",
    )
    measure_epochs: bool = Field(
        False, description="measure every kept epoch also where by is last: shows what hindsight would have given"
    )


class EmbedSettings(Section):
    """From crops to embeddings."""

    model: FilePath | None = Field(
        None, description="a model folder or checkpoint made elsewhere: nothing is trained; null: the run's own"
    )
    model_channels: dict[str, str] = Field(
        {}, description="where that model's channels have other names: {its name: the screen's name}"
    )
    minibatch_size: Positive = 256
    precision: Literal["32", "bf16"] = "32"
    rotations: Literal[1, 2, 4, 8] = Field(
        1, description="views of a crop that are averaged: half turn, quarter turns, and with 8 their mirrors too"
    )
    recalibrate: Literal["none", "plate-controls"] = Field(
        "none", description="plate-controls: statistics of batch norms are estimated anew on each plate's controls"
    )
    imagenet: str | None = Field(
        None, description="a timm model, as resnet18: its ImageNet weights embed too, as a baseline"
    )
    imagenet_weights: FilePath | None = Field(
        None, description="a .safetensors file of them; null: timm's, fetched once"
    )


Normalisation = Literal[
    "none",
    "plate-zscore",
    "plate-mad",
    "plate-percentile",
    "batch-centre",
    "combat",
    "whitening",
    "whitening-pca",
    "whitening-zca-cor",
    "tvn",
    "broad-notebook",
]


def _split_names(value: object) -> object:
    """Read ``plate-mad, whitening`` as two names."""
    names = value.split(",") if isinstance(value, str) else value
    return (
        tuple(name.strip() if isinstance(name, str) else name for name in names) if isinstance(names, list) else names
    )


class ProfileSettings(Section):
    """From embeddings to profiles of sites, wells and treatments."""

    aggregate: Literal["mean", "median"] = "mean"
    normalise: Annotated[tuple[Normalisation, ...], BeforeValidator(_split_names), Field(min_length=1)] = Field(
        ("plate-zscore",), description="one, or several in their order: plate-mad, whitening"
    )
    regularisation: Annotated[float, Field(gt=0.0)] | Literal["ledoit-wolf"] = Field(
        0.3, description="whitenings, tvn: added to eigenvalues, × their mean; ledoit-wolf: estimated"
    )
    min_cells_per_well: Positive = Field(
        1, description="wells with fewer are flagged and take no part in fits, treatments and scores"
    )


#: What a model has been told of the wells it embeds, from nothing to the answer itself.
LabelsSeen = Literal["none", "plates", "treatments", "mechanisms"]
ProtocolName = Literal["treatment-mean", "strict", "ljosa-2013", "broad-notebook", "umm", "ws-dino", "unidino"]


class ProtocolChanges(Section):
    """A protocol of one's own: what differs from the one named; its name then says so. Null: as it is there."""

    level: Literal["treatment", "well"] | None = Field(None, description="what asks and answers")
    within_plates: Literal["mean", "median"] | None = Field(None, description="of a plate's wells, beforehand")
    aggregate: Literal["mean", "median"] | None = Field(None, description="of wells (or plates) to treatments")
    unit_wells: bool | None = Field(None, description="scale each well to length one before it is aggregated")
    metric: Literal["cosine", "pearson", "euclidean"] | None = None
    neighbours: Positive | None = Field(None, description="how many vote")
    shared_batches: Literal["exclude", "recompute", "joined", "median", "same-mechanism"] | None = None
    single_batch_mechanisms: Literal["drop", "drop-queries", "keep"] | None = None
    positive_controls: Literal["keep", "drop", "first-batch"] | None = None


class BaselineSettings(Section):
    """Another table of profiles of the same wells, to be normalised and scored like the run's own."""

    table: FilePath
    labels_seen: LabelsSeen = Field("none", description="what its model was told")


def _read_path(value: object) -> object:
    """A path alone is a baseline too."""
    return {"table": value} if isinstance(value, str) else value


#: What profiles and baselines of a run are called; tables that are scored beside need other names.
RESERVED = ("trained", "untrained", "intensities", "imagenet", "cell-count")


def _check_name(name: str) -> str:
    if name in RESERVED or not name.strip():
        names = {"names": ", ".join(RESERVED)}
        raise PydanticCustomError("reserved", "expected a name of its own, not one of {names}", names)
    return name


BaselineName = Annotated[str, AfterValidator(_check_name)]
Baseline = Annotated[BaselineSettings, BeforeValidator(_read_path)]


class EvaluateSettings(Section):
    """Scores against known mechanisms, and measures that need none."""

    mechanisms: FilePath | None = Field(None, description="table: compound, concentration, mechanism")
    protocol: ProtocolName = "treatment-mean"
    protocol_changes: ProtocolChanges = ProtocolChanges()
    bootstraps: int = Field(2000, ge=100)
    permutations: int = Field(1000, ge=100)
    probe: bool = Field(True, description="can classifiers read the mechanism of a single cell?")
    baselines: dict[BaselineName, Baseline] = Field(
        {}, description="tables of wells to score beside, as {cellprofiler: wells.csv}; each by its name"
    )


class ReportSettings(Section):
    """What the report shows."""

    title: str = "Cell profiles"
    cells_per_profile: int = Field(8, ge=1, le=32, description="crops shown with each well and treatment")
    pictures: int = Field(1600, ge=1, description="cells whose pictures are in the page, at most: some 3 kB each")
    map_cells: int = Field(2000, ge=0, description="cells on the map of cells, if more than have pictures")
    neighbours: int = Field(12, ge=2, description="t-SNE perplexity and UMAP neighbours, at most")


class Settings(Section):
    """All settings of a run; the defaults are the demo: a virtual screen and an encoder for a laptop."""

    seed: int = Field(0, ge=0, description="decides everything random but the virtual screen itself")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    screen: ScreenSettings = VirtualSettings()
    crop: CropSettings = CropSettings()
    cluster: ClusterSettings = ClusterSettings()
    train: TrainSettings = TrainSettings()
    select: SelectSettings = SelectSettings()
    embed: EmbedSettings = EmbedSettings()
    profile: ProfileSettings = ProfileSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
