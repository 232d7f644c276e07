"""Settings of the screen: one model for each reader."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from cytoclr.config.section import BatchPattern, FileOrUrl, FilePath, Positive, Section, Tokens

__all__ = [
    "NUISANCES",
    "Bbbc021Settings",
    "DeepProfilerSettings",
    "ImagesSettings",
    "LoadDataSettings",
    "Nuisance",
    "OmeZarrSettings",
    "PlateSettings",
    "ScPortraitSettings",
    "ScreenSettings",
    "SingleCellSettings",
    "VirtualSettings",
]

#: What differs between the plates of a virtual screen and should not matter.
Nuisance = Literal["illumination", "stain", "background", "focus", "noise", "density", "position", "offset", "passage"]
NUISANCES: tuple[Nuisance, ...] = get_args(Nuisance)


class VirtualSettings(Section):
    """The virtual screen: a simulator of plates with planted mechanisms (`cytoclr.data.virtual`).

    ::

        mechanism   a direction among the traits of a cell ┐
        compound    a small deviation of its own           ├─ × effect × Hill(dose) ─→ shift of the traits ┐
        dose        a concentration                        ┘                                               ├─→ cells
        batch, plate, place on the plate, well             ─── × nuisance ───────────→ conditions          ┘

    A compound lives in one batch, a mechanism's compounds in several: it can be recognised in another batch. A
    plate holds every dose of its batch's compounds once, and the controls.
    """

    reader: Literal["virtual"] = "virtual"
    screen_seed: int = Field(0, ge=0, description="decides everything random in the simulated screen")
    num_mechanisms: int = Field(8, ge=2, le=12)
    compounds_per_mechanism: int = Field(6, ge=2)
    doses: int = Field(2, ge=1, description="concentrations of each compound")
    num_batches: int = Field(4, ge=2)
    plates_per_batch: Positive = Field(2, description="replicates: each treatment is once on every plate of its batch")
    control_wells: Positive = Field(6, description="untreated wells on each plate")
    positive_control_wells: Positive = Field(2, description="wells of the positive control on each plate")
    sites_per_well: Positive = 1
    field_size_px: int = Field(512, ge=128)
    cells_per_site: int = Field(50, ge=4, description="mean number of cells in an untreated field")
    effect: float = Field(1.0, ge=0.0, description="size of what the compounds do; nought: nothing")
    nuisance: float = Field(1.0, ge=0.0, description="strength of batch, plate and position effects; nought: none")
    nuisances: tuple[Nuisance, ...] = Field(NUISANCES, description="which of those effects there are")


BitDepth = Annotated[int, Field(ge=8, le=16)] | None


class Bbbc021Settings(Section):
    """The public set BBBC021: its official image table, and its TIFF fields."""

    reader: Literal["bbbc021"]
    image_table: FilePath = Field(description="BBBC021_v1_image.csv, or the same gzipped")
    images: FilePath = Field(description="folder that holds the plates' folders of TIFF files")
    plates: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="these plates only; null: all"
    )
    controls: tuple[str, ...] = Field(("DMSO",), description="compounds of the untreated wells")
    positive_controls: tuple[str, ...] = Field(("taxol",), description="compounds that are on every plate")
    batch_pattern: BatchPattern = Field(
        r"^([^_]+)_", description="its first group, found in a plate's name, is the batch"
    )
    pixel_size_um: float | None = Field(None, gt=0.0)
    stains: dict[str, str] = Field({}, description="what colours each channel, as {DAPI: DAPI, Actin: phalloidin}")
    bit_depth: BitDepth = Field(None, description="of the camera; null: as stored")


class PlateSettings(Section):
    """What readers of plates have in common."""

    metadata: FilePath | None = Field(
        None, description="plate map: compound and concentration of every well; null: what the screen itself says"
    )
    columns: dict[str, str] = Field(
        {}, description="the plate map's own names: {compound: pert_iname, concentration: dose_um}"
    )
    plates: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="these plates only; null: all"
    )
    channels: Tokens | None = Field(
        None,
        description="each channel's name, and what stands for it in the files: {DNA: w1, Actin: w2}; in this order; "
        "null: all, under their own names",
    )
    stains: dict[str, str] = Field({}, description="what colours each channel, as {DNA: Hoechst 33342}")
    controls: tuple[str, ...] = Field(("DMSO",), description="compounds of the untreated wells")
    positive_controls: tuple[str, ...] = Field((), description="compounds that are on every plate")
    batch_pattern: BatchPattern = Field(
        r"^(.*)$", description="its first group, found in a plate's name, is the batch; a column of the map comes first"
    )
    pixel_size_um: float | None = Field(None, gt=0.0, description="null: as the images say, if they do")
    bit_depth: BitDepth = Field(None, description="of the camera; null: as stored")


class ImagesSettings(PlateSettings):
    """A folder of images whose names say plate, well, site and channel."""

    reader: Literal["images"]
    folder: FilePath = Field(description="all images lie under it")
    template: str = Field(
        description="how files are named: imagexpress, opera-phenix, cellvoyager, cytation, incell, a pattern as "
        "{plate}/{well}_s{site}_w{channel}.tif, or a regular expression with such groups"
    )
    plate: str | None = Field(None, description="the plate's name, where the template has none")
    keep: Tokens = Field({}, description="of several planes, times or the like this one: {plane: 3}")


class LoadDataSettings(PlateSettings):
    """CellProfiler's LoadData table (CSV or Parquet), also JUMP's and the Cell Painting Gallery's."""

    reader: Literal["loaddata"]
    table: FileOrUrl = Field(
        description="load_data.csv, load_data_with_illum.csv or .parquet; a file, a URL, or several: "
        "plates/**/load_data.csv"
    )
    images: FileOrUrl | None = Field(
        None, description="where the images lie, if not where the table says: its paths are looked for under this"
    )


class OmeZarrSettings(PlateSettings):
    """OME-Zarr plates (HCS layout, version 0.4 or 0.5)."""

    reader: Literal["ome-zarr"]
    folder: FileOrUrl = Field(description="a plate (PLATE.zarr), or the folder of several; a path or a URL")


class DeepProfilerSettings(PlateSettings):
    """A DeepProfiler project: inputs/metadata/index.csv and inputs/images."""

    reader: Literal["deepprofiler"]
    folder: FilePath = Field(description="the project's folder")


class SingleCellSettings(Section):
    """Ready crops, one PNG a cell, the channels side by side: the 2020 project's, or DeepProfiler's export."""

    reader: Literal["single-cell"]
    table: FilePath = Field(description="sc-metadata.csv: Image_Name, Class_Name, Target; DeepProfiler's: Key, Target")
    images: FilePath = Field(description="folder of the PNG files")
    channels: tuple[str, ...] = Field(("DNA", "Tubulin", "Actin"), min_length=1, description="from left to right")
    controls: tuple[str, ...] = Field(("DMSO",), description="compounds of the untreated wells")
    positive_controls: tuple[str, ...] = ()
    batch_pattern: BatchPattern = Field(
        r"^([^_]+)_", description="its first group, found in a plate's name, is the batch"
    )
    pixel_size_um: float | None = Field(None, gt=0.0)
    stains: dict[str, str] = Field({}, description="what colours each channel")
    bit_depth: BitDepth = Field(None, description="of the camera; null: as stored")


class ScPortraitSettings(PlateSettings):
    """Ready crops in scPortrait's HDF5 files (.h5sc)."""

    reader: Literal["scportrait"]
    folder: FilePath = Field(description="the files lie under it")
    template: str = Field("{plate}_{well}.h5sc", description="how they are named; see reader images")


ScreenSettings = Annotated[
    VirtualSettings
    | Bbbc021Settings
    | ImagesSettings
    | LoadDataSettings
    | OmeZarrSettings
    | DeepProfilerSettings
    | SingleCellSettings
    | ScPortraitSettings,
    Field(discriminator="reader"),
]
