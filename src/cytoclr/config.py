"""Settings: one frozen model per stage, and a strict reader of ``config.yaml`` that names the place of every error."""

import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, no_type_check

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from cytoclr.errors import SettingsError
from cytoclr.seed_config import convert_seed_config, is_seed_config

__all__ = [
    "NUISANCES",
    "AugmentSettings",
    "BaselineSettings",
    "Bbbc021Settings",
    "CropSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "LabelsSeen",
    "Normalisation",
    "Nuisance",
    "ProbeSettings",
    "ProfileSettings",
    "ProtocolChanges",
    "ProtocolName",
    "ReportSettings",
    "ScreenSettings",
    "SelectBy",
    "SelectSettings",
    "Settings",
    "SingleCellSettings",
    "TrainSettings",
    "VirtualSettings",
    "check_settings",
    "dump_settings",
    "parse_text",
    "parse_yaml",
    "read_settings",
]

logger = logging.getLogger(__name__)


@no_type_check  # ValidationInfo cannot be checked at run time, as the tests do
def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    return Path(folder / path.expanduser()).resolve()


#: A path; in a config file it is relative to that file's folder.
FilePath = Annotated[Path, AfterValidator(_resolve)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]
Positive = Annotated[int, Field(ge=1)]


def _check_pattern(pattern: str) -> str:
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise PydanticCustomError("pattern", "not a regular expression ({why})", {"why": str(error)}) from None
    if num_groups == 0:
        raise PydanticCustomError("pattern", "expected a group, as in '^(.*)$', which makes each plate a batch")
    return pattern


def _check_increasing(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise PydanticCustomError("increasing", "expected the lower percentile first")
    return pair


BatchPattern = Annotated[str, AfterValidator(_check_pattern)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


#: What differs between the plates of a virtual screen and should not matter.
Nuisance = Literal["illumination", "stain", "background", "focus", "noise", "density", "position", "offset", "passage"]
NUISANCES: tuple[Nuisance, ...] = get_args(Nuisance)


class VirtualSettings(_Section):
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


class Bbbc021Settings(_Section):
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


class SingleCellSettings(_Section):
    """Ready crops as the 2020 project kept them: one PNG a cell, the channels side by side, and a table."""

    reader: Literal["single-cell"]
    table: FilePath = Field(description="sc-metadata.csv: Image_Name, Class_Name, Target")
    images: FilePath = Field(description="folder of the PNG files")
    channels: tuple[str, ...] = Field(("DNA", "Tubulin", "Actin"), min_length=1, description="from left to right")
    controls: tuple[str, ...] = Field(("DMSO",), description="compounds of the untreated wells")
    positive_controls: tuple[str, ...] = ()
    batch_pattern: BatchPattern = Field(
        r"^([^_]+)_", description="its first group, found in a plate's name, is the batch"
    )
    pixel_size_um: float | None = Field(None, gt=0.0)


ScreenSettings = Annotated[VirtualSettings | Bbbc021Settings | SingleCellSettings, Field(discriminator="reader")]


class CropSettings(_Section):
    """From fields to crops."""

    size_px: Annotated[int, Field(ge=8)] | None = Field(
        None, description="height and width of a crop; null: 64, or the size of ready crops"
    )
    locations: FilePath | None = Field(None, description="table of cell centres; null: nuclei are found")
    nuclei_channel: str | None = Field(None, description="channel in which nuclei are found; null: the first")
    nucleus_diameter_px: float = Field(24.0, gt=2.0, description="typical; decides smoothing, splitting and sizes")
    intensity: Literal["plate-percentile", "full-range"] = Field(
        "plate-percentile",
        description="what becomes 0 and 1: two percentiles of the plate, or the type's range",
    )
    percentiles: Annotated[tuple[Percent, Percent], AfterValidator(_check_increasing)] = Field(
        (1.0, 99.9), description="of the plate's pixels, per channel"
    )
    skip_missing: bool = Field(False, description="leave out, count and list sites with missing files")


class AugmentSettings(_Section):
    """How a random view is drawn from a crop; each entry stands for a nuisance that should not matter."""

    min_scale: float = Field(0.8, gt=0.0, le=1.0, description="least share of the crop's area that a view shows")
    rotate: bool = Field(True, description="by any angle: cells have no up")
    flip: bool = True
    strength: float = Field(1.0, ge=0.0, description="multiplies gain, offset, gamma, blur and noise")
    gain: float = Field(0.5, ge=0.0, description="largest |log gain| of a channel: stain, exposure")
    offset: float = Field(0.1, ge=0.0, description="largest shift of a channel: background")
    gamma: float = Field(0.2, ge=0.0, description="largest |log gamma| of a channel")
    blur_px: float = Field(0.8, ge=0.0, description="largest s.d. of a Gaussian blur: focus")
    noise: float = Field(0.05, ge=0.0, description="largest s.d. of Gaussian noise: camera")


class ProbeSettings(_Section):
    """A classifier of treatments, fitted on embeddings while training goes on: is it learning anything?"""

    every_n_epochs: int = Field(0, ge=0, description="nought: never")
    classifier: Literal["random-forest", "linear"] = "random-forest"
    test_fraction: float = Field(0.3, gt=0.0, lt=1.0, description="share of wells held out")
    screen: SingleCellSettings | None = Field(None, description="other crops to probe on; null: the training's")


class TrainSettings(_Section):
    """SimCLR training."""

    backbone: str = Field("small-cnn", description="small-cnn, seed-cnn or any timm model: resnet18, resnet50 …")
    pretrained: bool = Field(False, description="begin with timm's ImageNet weights (needs the network once)")
    fine_tune_from: FilePath | None = Field(None, description="a model folder or checkpoint to begin from")
    view_size_px: int = Field(64, ge=16, description="height and width of what the encoder sees")
    transform: Literal["sqrt", "linear"] = Field("sqrt", description="of intensities 0..1, before anything else")
    projection_hidden: Positive = 256
    projection_dim: Positive = 128
    temperature: float = Field(0.1, gt=0.0)
    similarity: Literal["cosine", "dot"] = "cosine"
    minibatch_size: int = Field(256, ge=2)
    epochs: Positive = 16
    optimizer: Literal["adam", "adamw", "lars", "sgd"] = "adamw"
    learning_rate: float = Field(4e-3, gt=0.0)
    weight_decay: float = Field(1e-4, ge=0.0)
    warmup_epochs: float = Field(1.0, ge=0.0)
    sampler: Literal["random", "balanced"] = Field("random", description="balanced: treatments equally often")
    validation_fraction: Fraction = Field(0.05, description="share of wells never trained on")
    validate_every_n_epochs: Positive = 1
    checkpoint_every_n_epochs: Positive = 10
    log_every_n_steps: Positive = 10
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    devices: Positive = Field(1, description="processes: GPUs, or with device cpu as many processes")
    num_workers: int = Field(0, ge=0, description="loader processes; nought suits memory-mapped crops")
    preload: bool = Field(False, description="hold all crops in memory")
    augment: AugmentSettings = AugmentSettings()
    probe: ProbeSettings = ProbeSettings()


SelectBy = Literal["last", "replicate-map", "rank", "batch", "nscb"]


class SelectSettings(_Section):
    """Which epoch's encoder embeds: the last, or the best by a measure over the kept checkpoints."""

    by: SelectBy = Field(
        "last",
        description="replicate-map, rank, batch know no mechanism; nscb does, and the report says so",
    )
    measure_epochs: bool = Field(
        False, description="measure every kept epoch also where by is last: shows what hindsight would have given"
    )


class EmbedSettings(_Section):
    """From crops to embeddings."""

    minibatch_size: Positive = 256
    precision: Literal["32", "bf16"] = "32"
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


class ProfileSettings(_Section):
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


class ProtocolChanges(_Section):
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


class BaselineSettings(_Section):
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


class EvaluateSettings(_Section):
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


class ReportSettings(_Section):
    """What the report shows."""

    title: str = "Cell profiles"
    cells_per_profile: int = Field(8, ge=1, le=32, description="crops shown with each well and treatment")
    neighbours: int = Field(12, ge=2, description="t-SNE perplexity and UMAP neighbours, at most")


class Settings(_Section):
    """All settings of a run; the defaults are the demo: a virtual screen and an encoder for a laptop."""

    seed: int = Field(0, ge=0, description="decides everything random but the virtual screen itself")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    screen: ScreenSettings = VirtualSettings()
    crop: CropSettings = CropSettings()
    train: TrainSettings = TrainSettings()
    select: SelectSettings = SelectSettings()
    embed: EmbedSettings = EmbedSettings()
    profile: ProfileSettings = ProfileSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()


def read_settings(path: Path, *, changes: Mapping[str, object] | None = None) -> Settings:
    """Read a config file, ours or the 2020 project's; its relative paths are relative to its own folder.

    `changes` replaces single values: ``{"train.epochs": 3}``.

    Raises
    ------
    SettingsError
        The file is missing, is not plain YAML, has a key twice or a key that does not exist, or a value of the
        wrong type or range. The message gives file, line, key and what was expected.
    """
    value, lines = parse_yaml(path)
    if is_seed_config(value):
        value, notes = convert_seed_config(value, source=str(path), folder=path.parent)
        logger.info("%s is a config of the 2020 project. What each key became:\n  %s", path, "\n  ".join(notes))
    return check_settings(value, source=str(path), folder=path.parent, lines=lines, changes=changes)


def check_settings(
    value: object,
    *,
    source: str,
    folder: Path,
    lines: Mapping[tuple[str, ...], int] | None = None,
    changes: Mapping[str, object] | None = None,
) -> Settings:
    """Turn plain values (as from YAML) into settings; see `read_settings`. `lines` tells where each key stood."""
    places = {keys: f"{source}:{line}" for keys, line in (lines or {}).items()}
    for key, replacement in (changes or {}).items():
        value = _change(value, key.split("."), replacement)
        places[tuple(key.split("."))] = f"--set {key}"
    try:
        return Settings.model_validate_json(json.dumps(value), context={"folder": folder.absolute()})
    except pydantic.ValidationError as error:
        raise SettingsError(_explain(error, source, places)) from None


def _change(value: object, keys: Sequence[str], replacement: object) -> object:
    if not keys:
        return replacement
    section = value if isinstance(value, dict) else {}
    return {**section, keys[0]: _change(section.get(keys[0]), keys[1:], replacement)}


def dump_settings(settings: Settings) -> str:
    """Write all settings, defaults too, as YAML that `read_settings` takes back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_yaml(path: Path) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Read a YAML file strictly (`parse_text`)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file. Give the path of a config file, as config.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    return parse_text(text, source=str(path))


def parse_text(text: str, *, source: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Parse YAML strictly; return its value, and the line of every key.

    YAML 1.2's core schema: ``1e-3`` is a number, ``no`` and ``2020-01-01`` are texts. Duplicate keys, tags and
    aliases are refused.
    """
    lines: dict[tuple[str, ...], int] = {}
    try:
        for token in yaml.scan(text):
            if isinstance(token, yaml.AliasToken):
                line = token.start_mark.line + 1
                raise SettingsError(f"{source}:{line}: the alias *{token.value}. Write the value out.")
        root = yaml.compose(text, Loader=_CoreLoader)
        return ({} if root is None else _build(root, (), lines, source)), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise SettingsError(f"{place}: not YAML ({getattr(error, 'problem', error)}).") from None


class _CoreLoader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's core schema instead of 1.1's guesses."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's way to begin without 1.1's)


_CORE_SCHEMA = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
}
for _name, (_pattern, _first) in _CORE_SCHEMA.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)

_SCALARS: dict[str, Any] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


def _build(node: yaml.Node, key: tuple[str, ...], lines: dict[tuple[str, ...], int], source: str) -> Any:
    """Turn a YAML node into plain values, refusing what settings never need."""
    place = f"{source}:{node.start_mark.line + 1}"
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            line = key_node.start_mark.line + 1
            if name in result:
                first = lines[(*key, name)]
                raise SettingsError(f"{source}:{line}: {name} stands twice, first in line {first}. Keep one.")
            lines[(*key, name)] = line
            result[name] = _build(value_node, (*key, name), lines, source)
        return result
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_build(item, (*key, str(i)), lines, source) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        return _SCALARS[kind](node.value)
    raise SettingsError(f"{place}: the YAML tag {node.tag}. Expected plain values without tags.")


def _explain(error: pydantic.ValidationError, source: str, places: Mapping[tuple[str, ...], str]) -> str:
    sentences = []
    for problem in error.errors():
        keys = tuple(str(part) for part in problem["loc"])
        known = tuple(part for part in keys if part not in _reader_tags() or keys[:1] != ("screen",))
        place = next((places[known[:n]] for n in range(len(known), 0, -1) if known[:n] in places), source)
        name = ".".join(known)
        if problem["type"] == "extra_forbidden":
            names = _field_names(keys)
            close = difflib.get_close_matches(keys[-1], names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names)}."
            sentences.append(f"{place}: {name} is not a setting. {hint}")
        elif problem["type"].startswith("union_tag"):
            found = problem["input"].get("reader", "nothing")
            sentences.append(f"{place}: {name}.reader: expected one of {', '.join(_reader_tags())}; found {found!r}.")
        else:
            expected = problem["msg"][0].lower() + problem["msg"][1:]
            sentences.append(f"{place}: {name or 'settings'}: {expected}; found {problem['input']!r}.")
    return "\n".join(sentences)


def _reader_tags() -> list[str]:
    models = get_args(get_args(ScreenSettings)[0])
    return [get_args(model.model_fields["reader"].annotation)[0] for model in models]


def _field_names(keys: Sequence[str]) -> list[str]:
    """Names of the settings beside the last of the keys."""
    section: type[BaseModel] = Settings
    for key in keys[:-1]:
        if key in _reader_tags():
            models = get_args(get_args(ScreenSettings)[0])
            section = next(m for m in models if get_args(m.model_fields["reader"].annotation)[0] == key)
        elif key in section.model_fields:
            annotation = section.model_fields[key].annotation
            candidates = [annotation, *get_args(annotation)]
            section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return list(section.model_fields)
