"""What the settings of a folder of plates may be: everything is looked at, and every guess says why."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt
from scipy import ndimage
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops_table
from skimage.segmentation import clear_border

from cytoclr.config import SingleCellSettings, check_settings
from cytoclr.data.columns import MECHANISM_FIELDS, WELL_FIELDS, is_field
from cytoclr.data.files import read_any_table, read_header, read_texts
from cytoclr.data.images import ImageAbout, ends_in_mask, read_about, read_field
from cytoclr.data.profiles import is_image_table
from cytoclr.data.readers.images import compile_template, find_files, find_repeats, find_templates
from cytoclr.data.readers.single_cell import is_export
from cytoclr.data.sources import RealScreenSettings, Source, open_screen
from cytoclr.errors import CytoclrError, DataError, list_some
from cytoclr.tables import LOCATIONS, PATH_PREFIX, PLANE_PREFIX, is_control, sort_naturally

__all__ = ["Guess", "Line", "find_dna_channel", "guess_settings", "measure_blobs", "write_config"]

logger = logging.getLogger(__name__)

#: Fields that are opened, spread over the folder.
NUM_SAMPLES = 6
#: A crop is so many diameters of a nucleus wide, rounded up to a multiple of 8 px.
CROP_PER_NUCLEUS = 2.2
#: From so many fields a plate on, a function of the light can be estimated from them.
FIELDS_FOR_ILLUMINATION = 100

_DNA = re.compile(r"dna|dapi|hoechst|nuc|draq|h2b|sytox", re.IGNORECASE)
_UNTREATED = re.compile(
    r"dmso.*|(neg(ative)?[ _-]?)?(control|ctrl|con)|untreated|no[ _-]?treatment|vehicle|mock|water|pbs|media|medium",
    re.IGNORECASE,
)
#: What others call a column of the plate map, without prefix and punctuation.
_THEIR_WORDS = {
    "plate": ("platebarcode", "barcode", "assayplatebarcode", "plateid", "platename", "platemapname"),
    "well": ("wellposition", "wellid", "wellname", "position", "destinationwell"),
    "compound": ("pertiname", "compoundname", "treatment", "drug", "cpd", "perturbation", "broadsample", "compoundid"),
    "concentration": ("concentrationum", "conc", "concum", "dose", "doseum", "micromolar"),
    "batch": ("experiment", "run", "week"),
}
#: How people name files who wrote the names themselves; the first that fits most files is taken.
_PATTERNS = (
    "{plate}/{well}_s{site}_{channel}",
    "{plate}/{well}_{site}_{channel}",
    "{plate}_{well}_s{site}_{channel}",
    "{plate}_{well}_{site}_{channel}",
    "{well}_s{site}_{channel}",
    "{well}_{site}_{channel}",
    "{plate}/{well}_s{site}",
    "{plate}_{well}_s{site}",
    "{well}_s{site}",
)
#: Where the Cell Painting Gallery has its LoadData tables: source/workspace/load_data_csv/batch/plate.
_TABLES_OF_GALLERY = "load_data_csv"
_SUFFIX = re.compile(r"(\.ome)?\.\w+$", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """A setting: its value, and why it is guessed (``""``: it is known); or, without a value, what is to be filled in.

    `todo` is what the user should do about it.
    """

    section: str
    key: str
    value: Any = None
    why: str = ""
    todo: str = ""


@dataclass(frozen=True)
class Guess:
    """The settings of a folder, line by line, and what should be looked at."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Listing:
    """What lies in the first floors of a folder."""

    folder: Path
    tables: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    crops: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Sample:
    """What was seen in some fields: of each channel, round objects; of all, headers and the largest value."""

    shares: Mapping[str, float]
    diameters_px: Mapping[str, float]
    about: ImageAbout
    largest: int
    num_images: int


def guess_settings(folder: Path, *, metadata: Path | None, mechanisms: Path | None) -> Guess:
    """Look at a folder of plates, and guess the settings: its kind, names, channels, cells.

    Parameters
    ----------
    folder
        The plates' folder: images under names that a microscope gives or under an image table of BBBC021's shape,
        CellProfiler's LoadData table, OME-Zarr plates, a DeepProfiler project, or ready crops.
    metadata
        The plate map: CSV or Parquet.
    mechanisms
        Table of compounds and their mechanisms.

    Returns
    -------
    Guess
        `write_config` turns it into a file that `cytoclr.config.read_settings` takes.

    Raises
    ------
    DataError
        There is no such folder, or nothing in it is known (NAME001); a table that is given cannot be read.

    Notes
    -----
    Opens `NUM_SAMPLES` fields, evenly spread. The channel of DNA is known by its name, else it is the one whose
    bright objects are roundest (`measure_blobs`).
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder of the plates.", code="IMG001")
    listing = _list_shallow(folder)
    lines = _recognise(listing)
    if not any(line.key == "locations" for line in lines):
        lines += _find_locations(listing)
    notes: list[str] = []
    if metadata is not None:
        lines += _guess_plate_map(metadata)
    source = _open(lines, folder, notes)
    reader = next(line.value for line in lines if line.key == "reader")
    if source is not None:
        lines += _guess_batches(source, lines)
        controls = _guess_controls(source, metadata)
        lines += controls
        if not is_control(source.rows).any() and not any(line.key == "controls" and line.value for line in controls):
            todo = "name screen.controls, then plate-zscore"
            lines.append(Line("profile", "normalise", "none", "no well is known to be untreated", todo))
        if source.is_ready_crops:
            lines += _guess_ready(source, reader)
        else:
            lines += _guess_fields(source, reader, notes)
    if metadata is None and reader in ("images", "ome-zarr", "scportrait") and source is not None:
        lines.append(Line("screen", "metadata", todo="the plate map: plate, well, compound, concentration (µM)"))
    if mechanisms is not None:
        lines.append(Line("evaluate", "mechanisms", str(mechanisms.absolute())))
    else:
        wanted = Line("evaluate", "mechanisms", todo="a table of compound, concentration, mechanism, for scores")
        lines += _find_mechanisms(listing) or [wanted]
    return Guess(tuple(lines), tuple(notes))


def write_config(guess: Guess) -> str:
    """Write a guess as YAML with comments, which `cytoclr.config.read_settings` takes."""
    texts = [
        "# Written by cytoclr init. What is marked guessed may be wrong: look at it. All settings:",
        "# docs/reference/settings.md. Then: cytoclr check, cytoclr run.",
        *(f"# Note: {note}" for note in guess.notes),
    ]
    for section in dict.fromkeys(line.section for line in guess.lines):
        lines = [line for line in guess.lines if line.section == section]
        texts.append("")
        # a section of which nothing is known is a comment too
        texts.append(f"{section}:" if any(line.value is not None for line in lines) else f"# {section}:")
        texts += [_write_line(line) for line in lines]
    return "\n".join(texts) + "\n"


def _write_line(line: Line) -> str:
    if line.value is None:
        return f"  # TODO: {line.key}: {line.todo}"
    remarks = [f"guessed: {line.why}" if line.why else "", f"TODO: {line.todo}" if line.todo else ""]
    comment = "; ".join(remark for remark in remarks if remark).replace("\n", " ")
    return f"  {line.key}: {_write_value(line.value)}{f'  # {comment}' if comment else ''}"


def _write_value(value: Any) -> str:
    """Write a value on one line; texts that YAML could take for something else, or that it cannot hold, as JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_write_value(key)}: {_write_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_write_value, value)) + "]"
    words = ("null", "true", "false")
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in words:
        return value
    return json.dumps(value, ensure_ascii=False)


def _list_shallow(folder: Path, depth: int = 8) -> _Listing:
    """List tables, folders and scPortrait's files in the first floors; nothing inside an OME-Zarr."""
    listing = _Listing(folder)
    for path, is_folder in _walk(folder, depth):
        if is_folder:
            listing.folders.append(path)
        elif path.name.lower().endswith((".csv", ".csv.gz", ".parquet")):
            listing.tables.append(path)
        elif path.name.lower().endswith(".h5sc"):
            listing.crops.append(path)
    return listing


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    with os.scandir(folder) as entries:
        ordered = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in ordered:
        is_folder = entry.is_dir()
        yield Path(entry.path), is_folder
        if is_folder and entry.name == _TABLES_OF_GALLERY:
            yield from _walk(Path(entry.path), 3)
        elif is_folder and depth > 1 and not entry.name.endswith(".zarr"):
            yield from _walk(Path(entry.path), depth - 1)


def _recognise(listing: _Listing) -> list[Line]:
    """Tell the kind of screen, and where its parts are: the first that is there, tables before names."""
    kinds: tuple[Callable[[_Listing], list[Line]], ...] = (
        _find_ready_crops,
        _find_project,
        _find_image_table,
        _find_loaddata,
        _find_ome_zarr,
        _find_h5sc,
        _find_names,
    )
    for find in kinds:
        lines = find(listing)
        if lines:
            return lines
    names = find_files(listing.folder)
    found = (
        f"{len(names):,} image files, first: {list_some(names, 3)}" if names else "no image file (.tif, .tiff, .png)"
    )
    raise DataError(
        f"{listing.folder}: no kind of screen that is known. Found {found}. Expected names of a known microscope, a "
        "LoadData or image table, OME-Zarr plates, a DeepProfiler project or ready crops; else write the names' "
        "pattern as screen.template, as '{plate}/{well}_s{site}_w{channel}.tif'.",
        code="NAME001",
    )


def _place(key: str, path: Path, why: str = "") -> Line:
    return Line("screen", key, path.absolute().as_posix(), why)


def _reader(name: str, why: str) -> Line:
    return Line("screen", "reader", name, why)


def _find_ready_crops(listing: _Listing) -> list[Line]:
    for table in listing.tables:
        header = read_header(table)
        if is_export(header) or {"Image_Name", "Class_Name"} <= set(header):
            names = read_texts(table)["Image_Name"].head(100).str.removesuffix(".png") + ".png"
            folders = [table.parent, *(path for path in listing.folders if path.parent == table.parent)]
            images = max(folders, key=lambda path: sum((path / name).is_file() for name in names))
            known = ("Key", "Target") if is_export(header) else ("Image_Name", "Class_Name")
            why = f"{table.name}: its columns are {' and '.join(known)}"
            return [_reader("single-cell", why), _place("table", table), _place("images", images)]
    return []


def _find_project(listing: _Listing) -> list[Line]:
    for table in listing.tables:
        if table.as_posix().endswith("inputs/metadata/index.csv"):
            found = [_reader("deepprofiler", "it has inputs/metadata/index.csv"), _place("folder", table.parents[2])]
            centres = table.parents[1] / "locations"
            if centres.is_dir():
                found.append(Line("crop", "locations", centres.absolute().as_posix(), "the project has them"))
            return found
    return []


def _find_image_table(listing: _Listing) -> list[Line]:
    for table in listing.tables:
        if table.suffix == ".parquet" or not is_image_table(table):
            continue
        texts = read_texts(table)
        first = next(name for name in texts.columns if name.startswith("Image_FileName_"))
        channel = first.removeprefix("Image_FileName_")
        if f"Image_PathName_{channel}" not in texts:
            continue
        names = {str(inside): set(of_folder) for inside, of_folder in texts.groupby(f"Image_PathName_{channel}")[first]}
        folders = list(dict.fromkeys([table.parent, listing.folder, *listing.folders]))
        counts = {path: _count_images(path, names) for path in folders}
        images = max(folders, key=lambda path: sum(counts[path].values()))
        number = sum(counts[images].values())
        why = f"{number:,} of {texts[first].nunique():,} images of {channel} lie there"
        known = _reader("bbbc021", f"{table.name} has columns Image_FileName_")
        if number:
            lines = [known, _place("image_table", table), _place("images", images, why)]
            return [*lines, *_list_plates(texts, channel, counts[images])]
        remark = Line("screen", "images", listing.folder.absolute().as_posix(), why, "the folder of its images")
        return [known, _place("image_table", table), remark]
    return []


def _count_images(folder: Path, names: Mapping[str, set[str]]) -> dict[str, int]:
    """Count the images of each folder of a table that lie in it below this one, or in the last of its parts."""
    counts = {}
    for inside, wanted in names.items():
        places = {folder / inside, folder / Path(inside).name}
        counts[inside] = len(wanted & {name for place in places for name in _list_names(place)})
    return counts


def _list_plates(texts: pd.DataFrame, channel: str, counts: Mapping[str, int]) -> list[Line]:
    """Name the plates of a table that are here, unless all are."""
    plates = texts.get(f"Image_Metadata_Plate_{channel}")
    if plates is None:
        return []
    here = plates[texts[f"Image_PathName_{channel}"].map(counts) > 0].unique()
    if len(here) == plates.nunique():
        return []
    why = f"of {plates.nunique():,} plates of the table the others have no image here"
    return [Line("screen", "plates", sort_naturally(here), why)]


def _list_names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _find_loaddata(listing: _Listing) -> list[Line]:
    tables = [
        table
        for table in listing.tables
        if any(name.startswith(("FileName_", "URL_")) for name in read_header(table))
    ]  # fmt: skip
    if not tables:
        return []
    best = min(tables, key=lambda path: ("illum" not in path.name.lower(), path.as_posix()))
    alike = [table for table in tables if table.name == best.name]
    place = best.absolute().as_posix()
    if len(alike) > 1:  # a table a plate
        place = f"{listing.folder.absolute().as_posix()}/**/{best.name}"
    others = f"{len(tables) - len(alike)} tables of other names are here too" if len(tables) > len(alike) else ""
    lines = [_reader("loaddata", f"{best.name} has columns FileName_ or URL_"), Line("screen", "table", place, others)]
    first = read_any_table(best).head(1)
    folders = [str(first[name].iloc[0]) for name in first.columns if name.startswith("PathName_") and len(first)]
    if folders and not Path(folders[0]).is_dir():
        lines.append(_place("images", listing.folder, f"the table's own folder {folders[0]} is not there"))
    if "CellCenters" in first:
        lines.append(Line("crop", "locations", best.absolute().as_posix(), "it has a column CellCenters"))
    return lines


def _find_locations(listing: _Listing) -> list[Line]:
    """Find a table of cell centres of our own shape, as `cytoclr fetch` writes it."""
    columns = {column.name for column in LOCATIONS.columns}
    return [
        Line("crop", "locations", table.absolute().as_posix(), "its columns are those of cell centres")
        for table in listing.tables
        if columns <= set(read_header(table))
    ][:1]


def _find_mechanisms(listing: _Listing) -> list[Line]:
    """Find a table of compounds and mechanisms, and of nothing that is told of wells."""
    of_wells = {word: WELL_FIELDS[word] for word in ("plate", "well")}
    return [
        Line("evaluate", "mechanisms", table.absolute().as_posix(), "its columns are compound and mechanism")
        for table in listing.tables
        for header in (read_header(table),)
        if all(any(is_field(name, {word: MECHANISM_FIELDS[word]}) for name in header) for word in MECHANISM_FIELDS)
        and not any(is_field(name, of_wells) for name in header)
    ][:1]


def _find_ome_zarr(listing: _Listing) -> list[Line]:
    plates = [path for path in (listing.folder, *listing.folders) if path.suffix == ".zarr" and _is_plate(path)]
    if not plates:
        return []
    place = plates[0] if plates[0] == listing.folder else plates[0].parent
    return [_reader("ome-zarr", f"{plates[0].name} has the metadata of an OME-Zarr plate"), _place("folder", place)]


def _is_plate(path: Path) -> bool:
    """Tell the group of a plate, of version 0.4 (``.zattrs``) or 0.5 (``zarr.json``)."""
    for name in ("zarr.json", ".zattrs"):
        try:
            about = json.loads((path / name).read_text(encoding="utf-8"))
            if "plate" in about or "plate" in about.get("attributes", {}).get("ome", {}):
                return True
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return False


def _find_h5sc(listing: _Listing) -> list[Line]:
    if not listing.crops:
        return []
    default = "{plate}_{well}.h5sc"
    fits = sum(compile_template(default).fullmatch(path.name) is not None for path in listing.crops)
    why = f"{fits} of {len(listing.crops)} files fit"
    todo = "" if fits == len(listing.crops) else "how the files are named"
    return [
        _reader("scportrait", f"{listing.crops[0].name} is one of scPortrait's files"),
        _place("folder", listing.folder),
        Line("screen", "template", default, why, todo),
    ]


def _find_names(listing: _Listing) -> list[Line]:
    folder = listing.folder
    fits = find_templates(folder)
    if fits and fits[0].num_fitting >= 0.5 * fits[0].num_files:
        template, num_fitting, num_files = fits[0]
    else:
        chosen = _find_pattern(find_files(folder))
        if chosen is None and not fits:
            return []
        template, num_fitting, num_files = chosen or fits[0]
    lines = [
        _reader("images", f"the files' names fit {template}"),
        _place("folder", folder),
        Line("screen", "template", template, f"{num_fitting:,} of {num_files:,} image files fit"),
    ]
    repeats = find_repeats(folder, template=template)
    kept = {word: values[len(values) // 2] if word in ("plane", "z") else values[0] for word, values in repeats.items()}
    if kept:
        found = "; ".join(f"{word}: {list_some(values)}" for word, values in repeats.items())
        lines.append(Line("screen", "keep", kept, f"there are several, {found}", "choose"))
    return lines


def _find_pattern(names: Sequence[str]) -> tuple[str, int, int] | None:
    """Try how people name files; None: nothing fits nine tenths of them."""
    suffixes = sort_naturally({match[0].lower() for match in map(_SUFFIX.search, names) if match})
    for stem in _PATTERNS:
        for suffix in suffixes:
            pattern = compile_template(f"{stem}{suffix}")
            matches = [match for match in map(pattern.fullmatch, names) if match]
            count = sum(match["site"].isdecimal() for match in matches)
            if count >= 0.9 * len(names):
                return f"{stem}{suffix}", count, len(names)
    return None


def _guess_plate_map(metadata: Path) -> list[Line]:
    """Tell the columns of the plate map that go by other names than ours."""
    header = read_header(metadata)
    if not header:
        read_any_table(metadata)  # says what is wrong with it
    lines = [_place("metadata", metadata)]
    columns, missing = {}, []
    for word, known in _THEIR_WORDS.items():
        if any(is_field(name, {word: WELL_FIELDS[word]}) for name in header):
            continue
        theirs = [name for other in known for name in header if _strip_name(name) == other]
        if theirs:
            columns[word] = theirs[0]
        elif word in ("well", "compound", "concentration"):
            missing.append(word)
    todo = f"name the columns of {' and '.join(missing)}; there are {list_some(header, 12)}" if missing else ""
    if missing == ["concentration"]:
        todo += "; without it each compound counts as one treatment"
    if not missing and columns.get("concentration", "um").lower()[-2:] != "um":
        todo = f"is {columns['concentration']} in µM?"
    if columns:
        lines.append(Line("screen", "columns", columns, "by their names", todo))
    elif todo:
        lines.append(Line("screen", "columns", todo=todo))
    return lines


def _strip_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(image_)?metadata_", "", name.lower()))


def _open(lines: Iterable[Line], folder: Path, notes: list[str]) -> Source | None:
    """Open the screen as it is guessed so far; without the plate map if that does not fit."""
    values = {line.key: line.value for line in lines if line.section == "screen" and line.value is not None}
    # whatever the plates are called, their batches are looked at next
    values["batch_pattern"] = "^(.*)$"
    without = {key: value for key, value in values.items() if key not in ("metadata", "columns")}
    for chosen in (values, without) if "metadata" in values else (values,):
        try:
            settings = check_settings({"screen": chosen}, source="the guess", folder=folder)
            screen: RealScreenSettings = settings.screen  # type: ignore[assignment]  # a guess is never virtual
            return open_screen(screen, skip_missing=True)
        except CytoclrError as error:
            if chosen is not without and "metadata" in chosen and error.code != "META002":
                raise  # a map that is given and wrong; unnamed columns are filled in by hand
            notes.append(str(error))
    return None


def _guess_batches(source: Source, lines: Sequence[Line]) -> list[Line]:
    """Find the part of the plates' names that several plates share."""
    header: list[str] = []
    for line in lines:
        if line.key == "metadata" and line.value:
            header = read_header(Path(line.value))
        if line.key == "columns" and line.value and "batch" in line.value:
            return []
    if any(is_field(name, {"batch": WELL_FIELDS["batch"]}) for name in header):
        return []
    plates = sort_naturally(source.rows["Metadata_Plate"].unique())
    todo = "batches are plates made together"
    for mark in ("_", "-", " "):
        batches = {plate.split(mark)[0] for plate in plates if mark in plate}
        if all(mark in plate for plate in plates) and 1 < len(batches) < len(plates):
            why = f"{len(plates)} plates in {len(batches)} batches: {list_some(sort_naturally(batches))}"
            return [Line("screen", "batch_pattern", f"^([^{mark}]+){mark}", why)]
    why = f"each of {len(plates)} plates is a batch" if len(plates) > 1 else "there is one plate"
    return [Line("screen", "batch_pattern", "^(.*)$", why, todo)]


def _guess_controls(source: Source, metadata: Path | None) -> list[Line]:
    rows = source.rows
    compounds = rows["Metadata_Compound"].unique()
    if set(compounds) == {"unknown"}:
        return []
    told = sort_naturally(rows.loc[rows["Metadata_control_type"] == "negcon", "Metadata_Compound"].unique())
    named = sort_naturally(name for name in compounds if _UNTREATED.fullmatch(name.strip()))
    if named:
        return [Line("screen", "controls", named, f"by name, among {len(compounds):,} compounds")]
    if told:
        return [Line("screen", "controls", told, "the plate map's control type says negcon")]
    where = "the plate map" if metadata is not None else "the screen's table"
    todo = f"the compounds of untreated wells; {where} has {list_some(list(compounds))}"
    return [Line("screen", "controls", todo=todo)]


def _guess_ready(source: Source, reader: str) -> list[Line]:
    """Tell the channels of ready crops by the shape of one; scPortrait's files name theirs."""
    if reader != "single-cell":
        return []
    first = Path(source.rows["Path_Crop"].iloc[0])
    height, width = read_about(first).shape
    with_mask = ends_in_mask(first)
    number = max(width // height - with_mask, 1)
    names = SingleCellSettings.model_fields["channels"].default
    if number != len(names):
        names = tuple(f"channel{place}" for place in range(1, number + 1))
    why = f"a crop is {width}x{height} px: {number} side by side{', and a mask' if with_mask else ''}"
    lines = [Line("screen", "channels", list(names), why, "their names, from left to right")]
    if "@" in first.name:
        lines.append(Line("crop", "intensity", "full-range", "DeepProfiler has stretched each crop by itself"))
    return lines


def _guess_fields(source: Source, reader: str, notes: list[str]) -> list[Line]:
    """Look at some fields: channels, pixels, cells, light."""
    rows = source.rows.iloc[_choose_places(len(source.rows))]
    try:
        sample = _look(rows, source.channels)
    except CytoclrError as error:
        notes.append(str(error))
        return []
    dna, why = find_dna_channel(sample.shares)
    name = dna
    lines = []
    if reader == "images":
        name = dna if _DNA.search(dna) or "DNA" in source.channels else "DNA"
        lines.append(_name_channels(source, dna, name, why))
    lines += _guess_pixels(sample, notes)
    lines.append(Line("crop", "nuclei_channel", name, why))
    lines += _guess_sizes(sample, dna, notes)
    fields = int(source.rows.groupby("Metadata_Plate").size().median())
    if fields > FIELDS_FOR_ILLUMINATION:
        lines.append(Line("crop", "illumination", "plate", f"a plate has {fields:,} fields: enough to tell the light"))
    return lines


def _name_channels(source: Source, dna: str, name: str, why: str) -> Line:
    """Name all channels with what stands for them in the files, or with their planes."""
    planes = {channel: f"{PLANE_PREFIX}{channel}" for channel in source.channels}
    channels = {
        name if channel == dna else channel: str(source.rows[plane].iloc[0]) if plane in source.rows else channel
        for channel, plane in planes.items()
    }
    todo = "" if name == dna else "name the others: {NAME: what the files say}"
    return Line("screen", "channels", channels, f"{dna} is DNA, {why}", todo)


def _choose_places(number: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, NUM_SAMPLES))})


def _look(rows: pd.DataFrame, channels: Sequence[str]) -> _Sample:
    """Open some fields."""
    shares: dict[str, list[float]] = {channel: [] for channel in channels}
    diameters: dict[str, list[float]] = {channel: [] for channel in channels}
    largest = 0
    for _, row in rows.iterrows():
        paths = {channel: str(row[f"{PATH_PREFIX}{channel}"]) for channel in channels}
        has_planes = f"{PLANE_PREFIX}{channels[0]}" in rows
        planes = {channel: int(row[f"{PLANE_PREFIX}{channel}"]) for channel in channels} if has_planes else None
        pixels = read_field(paths, planes)
        largest = max(largest, int(pixels.max()))
        for channel, plane in zip(channels, pixels, strict=True):
            share, found = measure_blobs(plane)
            shares[channel].append(share)
            diameters[channel] += found.tolist()
    return _Sample(
        shares={channel: float(np.median(values)) for channel, values in shares.items()},
        diameters_px={channel: _middle_by_area(np.asarray(values)) for channel, values in diameters.items()},
        about=read_about(str(rows.iloc[0][f"{PATH_PREFIX}{channels[0]}"])),
        largest=largest,
        num_images=len(rows) * len(channels),
    )


def measure_blobs(plane: UInt[np.ndarray, "row column"]) -> tuple[float, Float[np.ndarray, " cell"]]:
    """Measure how much of what is bright in a plane is round: nuclei are, cytoplasm and filaments are not.

    Smoothing (2 px), Otsu's threshold, holes filled; of the objects that do not touch the border, those of 50 px or
    more that are nearly convex (solidity over 0.9) and not long (eccentricity under 0.9) are round.

    Returns
    -------
    share
        The round objects' share of the bright area, 0 to 1.
    diameters_px
        Of discs of the round objects' areas.

    References
    ----------
    Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    smooth = gaussian(plane.astype(np.float32), sigma=2, preserve_range=True)
    if float(np.ptp(smooth)) <= 0:
        return 0.0, np.empty(0)
    bright = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    labels = clear_border(label(bright))
    if not labels.any():
        return 0.0, np.empty(0)
    objects = regionprops_table(labels, properties=("area", "solidity", "eccentricity"))
    is_round = (objects["area"] >= 50) & (objects["solidity"] > 0.9) & (objects["eccentricity"] < 0.9)
    areas = np.asarray(objects["area"][is_round], dtype=np.float64)
    return float(areas.sum() / bright.sum()), np.sqrt(4 * areas / np.pi)


def _middle_by_area(diameters: Float[np.ndarray, " cell"]) -> float:
    """Find the diameter that half of the objects' area lies below, so that debris counts for little; none: nought."""
    if len(diameters) == 0:
        return 0.0
    ordered = np.sort(diameters)
    below = np.cumsum(ordered**2)
    return float(ordered[np.searchsorted(below, below[-1] / 2)])


def find_dna_channel(shares: Mapping[str, float]) -> tuple[str, str]:
    """Choose the channel of DNA by its name, else by the share of what is bright in it that is round; say why.

    >>> find_dna_channel({"GFP": 0.1, "DAPI": 0.0})
    ('DAPI', 'by its name')
    >>> find_dna_channel({"w1": 0.81, "w2": 0.3})
    ('w1', 'the channel with the roundest objects (81 % of what is bright; next w2, 30 %)')
    """
    named = [channel for channel in shares if _DNA.search(channel)]
    if named:
        return named[0], "by its name"
    first, *others = sorted(shares, key=lambda channel: -shares[channel])
    following = f"; next {others[0]}, {shares[others[0]]:.0%}".replace("%", " %") if others else ""
    bright = f"{shares[first]:.0%}".replace("%", " %")
    return first, f"the channel with the roundest objects ({bright} of what is bright{following})"


def _guess_pixels(sample: _Sample, notes: list[str]) -> list[Line]:
    lines = []
    if sample.about.pixel_size_um is not None:
        size = float(f"{sample.about.pixel_size_um:.4g}")
        lines.append(Line("screen", "pixel_size_um", size, "as the images say"))
    else:
        lines.append(Line("screen", "pixel_size_um", todo="µm a pixel: the images do not tell"))
    seen = f"the largest of {sample.num_images} images is {sample.largest:,}"
    depths = [bits for bits in (10, 12, 14) if sample.largest == 2**bits - 1]
    stored = np.iinfo(sample.about.dtype).bits
    if depths and stored == 16:
        lines.append(Line("screen", "bit_depth", depths[0], seen))
    elif stored == 16 and sample.largest < 2**14:
        bits = next(bits for bits in (10, 12, 14) if sample.largest < 2**bits)
        lines.append(Line("screen", "bit_depth", todo=f"{seen}: write {bits} if the camera has no more"))
        notes.append(f"Images are stored in 16 bit, but {seen}: is the camera's depth {bits} bit?")
    return lines


def _guess_sizes(sample: _Sample, dna: str, notes: list[str]) -> list[Line]:
    """Suggest the crop by the size of nuclei."""
    diameter = sample.diameters_px[dna]
    if diameter <= 2:
        notes.append(f"No nucleus is seen in {dna}: set crop.nucleus_diameter_px and crop.size_px yourself.")
        return [Line("crop", "nucleus_diameter_px", todo="typical, in px: none was seen")]
    smallest = min(sample.about.shape)
    size = min(math.ceil(CROP_PER_NUCLEUS * diameter / 8) * 8, smallest // 8 * 8)
    return [
        Line("crop", "nucleus_diameter_px", round(diameter, 1), f"round objects in {dna}, the middle one by area"),
        Line("crop", "size_px", max(size, 8), f"{CROP_PER_NUCLEUS:g} nuclei; fields are {_write_shape(sample.about)}"),
    ]


def _write_shape(about: ImageAbout) -> str:
    return f"{about.shape[1]}x{about.shape[0]} px"
