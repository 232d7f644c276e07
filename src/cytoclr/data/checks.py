"""What `cytoclr check` finds before hours are spent: wrong tables, images, locations, channels, too little space."""

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from cytoclr.config import Settings
from cytoclr.data.findings import NUM_EXAMPLES, Checked, Finding, Severity, name_sites, sort_findings, tell_refusal
from cytoclr.data.illumination import MIN_FIELDS
from cytoclr.data.judge import judge_centres, judge_images, judge_locations, judge_nuclei, judge_sizes
from cytoclr.data.locations import Locations, read_locations, split_locations
from cytoclr.data.masks import find_masks
from cytoclr.data.ranges import IntensityRule
from cytoclr.data.remote import is_url
from cytoclr.data.sampling import Glance, choose_sample, glance_at_crop, glance_at_site
from cytoclr.data.screen import read_mechanisms
from cytoclr.data.sources import RealScreenSettings, Source, open_screen
from cytoclr.data.stage import DEFAULT_SIZE_PX, choose_nuclei_channel
from cytoclr.errors import CODES, CytoclrError, DataError, MachineError, SettingsError, list_some
from cytoclr.mechanisms import join_mechanisms
from cytoclr.progress import Progress, Silent
from cytoclr.storage import read_json
from cytoclr.tables import MECHANISM, SITE, TREATMENT, WELL, is_control, sort_naturally, treatment_names

__all__ = ["Checked", "Finding", "check_controls", "check_screen", "check_source"]

_Result = TypeVar("_Result")

#: Sites that are looked at, and those of remote screens, which are fetched whole.
NUM_SITES, NUM_REMOTE = 48, 4
#: Sites of the sample in which nuclei are looked for: that takes far longer than to read them.
NUM_NUCLEI = 16
#: A plate with fewer untreated wells tells little of them.
FEW_CONTROLS = 3
_WITH_CODE = re.compile(r"^(?P<sentence>.*\S)\s*\((?P<code>[A-Z]+\d{3})\)$", re.DOTALL)


def check_screen(
    settings: Settings,
    *,
    screen: RealScreenSettings,
    locations: Path | None,
    mechanisms: Path | None,
    folder: Path,
    every: bool = False,
    sample: int = NUM_SITES,
    progress: Progress | None = None,
) -> Checked:
    """Look for all that would go wrong, or make no sense, with a screen: its tables, then some of its images.

    Parameters
    ----------
    settings
        Of the run; `screen`, `locations` and `mechanisms` are those it will read.
    folder
        The run folder, whose disk must hold the crops; it need not be there.
    every
        Look at all images, not at a sample.
    sample
        Sites looked at, spread over all plates; of remote screens four at most.
    progress
        Told of every site.

    Returns
    -------
    Checked
        Nothing is raised for what is wrong with the data: a reader's refusal is a finding, and ends only the checks
        that need what it would have read.

    Notes
    -----
    48 sites of BBBC021's size take some 5 s. Identical images are found only among those looked at.
    """
    findings, opened = _listen(lambda: _open(settings, screen))
    if opened is None:
        found, _ = _listen(lambda: None if mechanisms is None else read_mechanisms(mechanisms))
        return Checked(sort_findings([*findings, *found]))
    source, refused = opened
    if len(source.left_out):
        findings.append(_tell_missing(source, refused, settings))
    more, centres = _listen(lambda: _read_centres(source, locations), fallback="LOC001")
    masked = source
    if settings.crop.masks is not None and not source.is_ready_crops:
        masks = settings.crop.masks
        refusals, rows = _listen(
            lambda: find_masks(
                source.rows, masks.folder, template=masks.template, skip_missing=settings.crop.skip_missing
            ),
            fallback="LOC007",
        )
        more += refusals
        masked = source if rows is None else Source(rows, source.left_out, source.channels)
    checked = check_source(
        settings,
        masked,
        screen=screen,
        locations=centres,
        finds_nuclei=locations is None and settings.crop.masks is None,
        mechanisms=mechanisms,
        folder=folder,
        every=every,
        sample=sample,
        progress=progress,
    )
    return Checked(
        sort_findings([*findings, *more, *checked.findings]),
        checked.num_looked_at,
        checked.num_rows,
        checked.num_plates,
        checked.unit,
    )


def check_source(
    settings: Settings,
    source: Source,
    *,
    screen: RealScreenSettings,
    locations: Locations | None,
    finds_nuclei: bool,
    mechanisms: Path | None,
    folder: Path,
    every: bool = False,
    sample: int = NUM_SITES,
    progress: Progress | None = None,
) -> Checked:
    """Check a screen whose tables are read and whose files are found. See `check_screen`.

    Parameters
    ----------
    source
        Its rows, with the column ``Mask`` if there are masks.
    locations
        Where its cells are; None: not told.
    finds_nuclei
        Nuclei will be looked for.
    """
    rows = source.rows
    unit: Literal["sites", "cells"] = "cells" if source.is_ready_crops else "sites"
    findings = [*_check_wells(settings, screen, rows), *_check_mechanisms(rows, mechanisms)]
    channels = _check_channels(settings, screen, source.channels)
    findings += channels
    if settings.crop.illumination == "plate":
        findings += _check_light(rows)
    is_remote = any(is_url(path) for path in source.list_files())
    chosen = rows if every else choose_sample(rows, min(sample, NUM_REMOTE) if is_remote else sample)
    if is_remote and len(chosen) < len(rows):
        message = f"images are remote: {len(chosen):,} of {len(rows):,} {unit} are fetched and looked at."
        findings.append(Finding("NET001", "note", message, fix="`--every` looks at all of them."))
    wanted = settings.crop.nuclei_channel
    nuclei_channel = wanted if wanted in source.channels else choose_nuclei_channel(source.channels, screen.stains)
    glances = _look(
        settings,
        screen,
        source,
        chosen,
        locations,
        progress or Silent(),
        nuclei_channel=nuclei_channel if finds_nuclei else None,
        crop_channel=nuclei_channel,
    )
    findings += judge_images(glances, bit_depth=screen.bit_depth, pixel_size_um=screen.pixel_size_um)
    shapes = {glance.place: glance.shape for glance in glances if glance.planes}
    size_px = _choose_size(settings, source, list(shapes.values()))
    if not source.is_ready_crops:
        findings += judge_sizes(list(shapes.items()), settings.crop, size_px=size_px)
        if locations is not None:
            findings += judge_centres(glances, channel=nuclei_channel)
            findings += judge_locations(rows, locations, shapes, size_px, pads=settings.crop.border == "pad")
        if finds_nuclei:
            findings += judge_nuclei(
                glances,
                channel=nuclei_channel,
                diameter_px=settings.crop.nucleus_diameter_px,
                size_px=size_px,
            )
    findings += _check_disk(settings, source, locations, glances, size_px, folder)
    return Checked(sort_findings(findings), len(chosen), len(rows), rows["Metadata_Plate"].nunique(), unit)


def check_controls(rows: pd.DataFrame, *, controls: Sequence[str], normalise: Sequence[str]) -> None:
    """Refuse a screen without untreated wells where profiles are normalised on them.

    Raises
    ------
    DataError
        META009.
    """
    if set(normalise) == {"none"} or is_control(rows).any():
        return
    raise DataError(
        f"no well is untreated ({', '.join(controls)}), but profile.normalise {', '.join(normalise)} is "
        f"fitted on such wells. Found: {list_some(sorted(rows['Metadata_Compound'].unique()))}. "
        "Name them in screen.controls, or set profile.normalise to none.",
        code="META009",
    )


# How refusals and warnings of others become findings.


def _listen(work: Callable[[], _Result], fallback: str = "META001") -> tuple[list[Finding], _Result | None]:
    """Do something; its refusal, and what it logs with a code, are findings. What else it logs is heard afterwards."""
    ours = logging.getLogger("cytoclr")
    heard = _Ear()
    before = ours.propagate
    ours.addHandler(heard)
    ours.propagate = False
    findings, result = [], None
    try:
        result = work()
    except CytoclrError as error:
        findings = [tell_refusal(error, fallback)]
    finally:
        ours.removeHandler(heard)
        ours.propagate = before
    for record in heard.records:
        match = _WITH_CODE.match(record.getMessage())
        if match is not None and match["code"] in CODES:
            severity: Severity = "warning" if record.levelno >= logging.WARNING else "note"
            findings.append(Finding(match["code"], severity, match["sentence"]))
        else:
            logging.getLogger(record.name).handle(record)
    return findings, result


class _Ear(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _open(settings: Settings, screen: RealScreenSettings) -> tuple[Source, CytoclrError | None]:
    """Open the screen; where files are missing, without them, and with the refusal that the stage would give."""
    if settings.crop.skip_missing:
        return open_screen(screen, skip_missing=True), None
    try:
        return open_screen(screen, skip_missing=False), None
    except DataError as error:
        return open_screen(screen, skip_missing=True), error


def _tell_missing(source: Source, refused: CytoclrError | None, settings: Settings) -> Finding:
    missing, number = source.left_out, len(source.left_out) + len(source.rows)
    names = name_sites(missing)
    examples = tuple(f"{name}: {reason}" for name, reason in zip(names, missing["reason"], strict=False))
    if refused is not None:
        code = refused.code or "IMG001"
        return Finding(code, "error", str(refused), examples, len(missing), error=refused)
    what = "cells" if source.is_ready_crops else "sites"
    lacking = missing["reason"].str.startswith("no image file")
    if not lacking.any():
        message = f"{len(missing):,} of {number:,} {what} are left out: {list_some(list(missing['reason'].unique()))}."
        return Finding("META003", "note", message, examples, len(missing))
    message = f"{len(missing):,} of {number:,} {what} are left out."
    return Finding("IMG001", "warning", message, examples, len(missing), "Look for their files, if they should count.")


def _read_centres(source: Source, path: Path | None) -> Locations | None:
    if path is None or source.is_ready_crops:
        return None
    return split_locations(read_locations(path, sites=source.rows), source.rows, str(path))


# What the tables say.


def _check_light(rows: pd.DataFrame) -> Iterator[Finding]:
    counts = rows.groupby("Metadata_Plate").size()
    few = counts[counts < MIN_FIELDS]
    if len(few):
        yield Finding(
            "IMG014",
            "warning",
            f"{len(few):,} of {len(counts):,} plates have fewer than {MIN_FIELDS} fields: their light cannot be "
            "estimated well, and correcting it may be worse than not.",
            tuple(f"{plate}: {count}" for plate, count in few.head(NUM_EXAMPLES).items()),
            len(few),
            "Set crop.illumination to none, or bring functions that were measured.",
        )


def _check_wells(settings: Settings, screen: RealScreenSettings, rows: pd.DataFrame) -> Iterator[Finding]:
    normalise = settings.profile.normalise
    wells = rows.drop_duplicates(WELL)
    try:
        check_controls(rows, controls=screen.controls, normalise=normalise)
        if set(normalise) != {"none"}:
            yield from _check_plates(wells, normalise)
    except DataError as error:
        yield tell_refusal(error)
    batches = wells["Metadata_Batch"].unique()
    if len(batches) == 1:
        yield Finding(
            "META011",
            "note",
            f"there is one batch, {batches[0]} ({wells['Metadata_Plate'].nunique():,} plate(s)): NSCB, which asks for "
            "neighbours in other batches, cannot be scored.",
            fix="If there are several, say so: screen.batch_pattern, or a column of the plate map.",
        )
    treated = wells[~is_control(wells)]
    counts = treated.groupby(TREATMENT, sort=True).size()
    single = counts[counts == 1].reset_index()[TREATMENT]
    if len(single) and set(treated["Metadata_Compound"]) != {"unknown"}:
        yield Finding(
            "META014",
            "note",
            f"{len(single):,} of {len(counts):,} treatments have a single well: how well replicates agree cannot be "
            "told of them.",
            tuple(treatment_names(single.head(NUM_EXAMPLES))),
            len(single),
        )


def _check_plates(wells: pd.DataFrame, normalise: Sequence[str]) -> Iterator[Finding]:
    plates = sort_naturally(wells["Metadata_Plate"])
    counts = wells[is_control(wells)].groupby("Metadata_Plate").size()
    few = {plate: int(counts.get(plate, 0)) for plate in plates if counts.get(plate, 0) < FEW_CONTROLS}
    if not few:
        return
    refused = [plate for plate, number in few.items() if number < 2]
    by_plate = any(name.startswith("plate-") for name in normalise)
    message = f"{len(few):,} of {len(plates):,} plates have fewer than {FEW_CONTROLS} untreated wells."
    if refused and by_plate:
        message += f" profile.normalise {', '.join(normalise)} needs 2 on each, and will refuse."
    yield Finding(
        "META010",
        "warning",
        message,
        tuple(f"{plate}: {number}" for plate, number in list(few.items())[:NUM_EXAMPLES]),
        len(few),
        "Name all untreated compounds in screen.controls; or set profile.normalise to whitening or none.",
    )


def _check_mechanisms(rows: pd.DataFrame, path: Path | None) -> list[Finding]:
    if path is None:
        return []
    findings, table = _listen(lambda: read_mechanisms(path))
    return findings if table is None else [*findings, *_compare_mechanisms(rows, table, path)]


def _compare_mechanisms(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> Iterator[Finding]:
    theirs = table.drop_duplicates("Metadata_Compound").assign(
        Metadata_Concentration=lambda told: told["Metadata_Concentration"].fillna(0)
    )
    treated = rows.loc[~is_control(rows), TREATMENT].drop_duplicates().reset_index(drop=True)
    joined = join_mechanisms(treated, table)
    unknown = joined[joined[MECHANISM].isna()]
    there = set(rows["Metadata_Compound"])
    elsewhere = [name for name in dict.fromkeys(table["Metadata_Compound"]) if name not in there]
    if len(treated) and len(unknown) == len(joined):
        yield Finding(
            "META012",
            "error",
            f"{path}: none of the {len(joined):,} treatments of the screen has a mechanism. The screen has "
            f"{list_some(list(treatment_names(joined)), 3)}; the table "
            f"{list_some(list(treatment_names(theirs)), 3)}. "
            "Expected the same compounds and concentrations (µM).",
            tuple(treatment_names(unknown.head(NUM_EXAMPLES))),
            len(unknown),
            "Correct the names, or leave evaluate.mechanisms out.",
        )
        return
    if len(unknown):
        yield Finding(
            "META012",
            "note",
            f"{len(unknown):,} of {len(joined):,} treatments have no mechanism in {path}: they are profiled, and not "
            "scored.",
            tuple(treatment_names(unknown.head(NUM_EXAMPLES))),
            len(unknown),
        )
    if elsewhere:
        number = table["Metadata_Compound"].nunique()
        yield Finding(
            "META012",
            "note",
            f"{len(elsewhere):,} of {number:,} compounds of {path} are not in the screen.",
            tuple(elsewhere[:NUM_EXAMPLES]),
            len(elsewhere),
        )


def _check_channels(settings: Settings, screen: RealScreenSettings, channels: tuple[str, ...]) -> list[Finding]:
    crop, known = settings.crop, ", ".join(channels)
    findings = []
    if crop.nuclei_channel is not None and crop.nuclei_channel not in channels:
        message = f"crop.nuclei_channel is {crop.nuclei_channel!r}; the screen has {known}."
        findings.append(tell_refusal(SettingsError(message, code="CHAN002")))
    unknown = [name for name in screen.stains if name not in channels]
    if unknown:
        message = f"screen.stains names {', '.join(unknown)}; the screen has {known}."
        findings.append(tell_refusal(SettingsError(message, code="CHAN002")))
    try:
        IntensityRule(crop.intensity, crop.percentiles, crop.ranges).check_channels(channels)
    except SettingsError as error:
        findings.append(tell_refusal(error, "CHAN002"))
    train, embed = settings.train, settings.embed
    findings += _compare_model(train.fine_tune_from, train.fine_tune_channels, channels, "train.fine_tune_channels")
    findings += _compare_model(embed.model, embed.model_channels, channels, "embed.model_channels")
    return findings


def _compare_model(
    source: Path | None, renamed: Mapping[str, str], channels: tuple[str, ...], setting: str
) -> Iterator[Finding]:
    """Compare with the channels of a model to go on from or to embed with, which its model.json tells."""
    if source is None:
        return
    told = next((path for path in _list_descriptions(source) if path.is_file()), None)
    if told is None:
        if source.is_file():
            return  # a checkpoint on its own: only training can open it
        message = f"{source}: no model there. Expected a folder with model.json, or a .ckpt file."
        yield tell_refusal(SettingsError(message, code="CHAN003"))
        return
    try:
        names = tuple(map(str, read_json(told)["channels"]))
    except (CytoclrError, KeyError, TypeError) as error:
        yield Finding("CHAN003", "error", f"{told}: does not tell the model's channels ({error}).", fix="Train again.")
        return
    unknown = [name for name in renamed if name not in names]
    if unknown:
        message = (
            f"{setting} names {', '.join(unknown)}; the model {source} has {', '.join(names)}. Expected "
            "{the model's name: the screen's name}."
        )
        yield tell_refusal(SettingsError(message, code="CHAN002"))
    elif tuple(renamed.get(name, name) for name in names) != channels:
        yield tell_refusal(
            DataError(
                f"{source}: the model was trained on the channels {', '.join(names)}; the screen has "
                f"{', '.join(channels)}. Expected the same names in the same order: choose them so (screen.channels), "
                f"or where only names differ say so ({setting}).",
                code="CHAN001",
            )
        )


def _list_descriptions(source: Path) -> list[Path]:
    """Name the files that may describe a model folder, or the model that a checkpoint lies in."""
    if source.is_dir():
        return [source / "model.json"]
    return [folder / "model.json" for folder in source.parents[:2]] if source.is_file() else []


# What the images say.


def _look(
    settings: Settings,
    screen: RealScreenSettings,
    source: Source,
    chosen: pd.DataFrame,
    locations: Locations | None,
    progress: Progress,
    *,
    nuclei_channel: str | None,
    crop_channel: str,
) -> list[Glance]:
    crop = settings.crop
    with_nuclei = set(np.linspace(0, len(chosen) - 1, min(NUM_NUCLEI, len(chosen))).round().astype(int).tolist())
    glances = []
    progress.start("check", len(chosen), "cells" if source.is_ready_crops else "sites")
    for number, record in enumerate(chosen.to_dict("records")):
        row = {str(name): value for name, value in record.items()}
        if source.is_ready_crops:
            glance = glance_at_crop(row, source.channels, size_px=crop.size_px, bit_depth=screen.bit_depth)
        else:
            glance = glance_at_site(
                row,
                source.channels,
                bit_depth=screen.bit_depth,
                with_light=crop.illumination == "given",
                nuclei_channel=nuclei_channel if number in with_nuclei else None,
                nucleus_diameter_px=crop.nucleus_diameter_px,
                centres=None if locations is None else locations.of((row[SITE[0]], row[SITE[1]], row[SITE[2]])),
                crop_channel=crop_channel,
            )
        glances.append(glance)
        progress.advance()
    progress.finish()
    return glances


def _choose_size(settings: Settings, source: Source, shapes: Sequence[tuple[int, int]]) -> int:
    if settings.crop.size_px is not None:
        return settings.crop.size_px
    return shapes[0][0] if source.is_ready_crops and shapes else DEFAULT_SIZE_PX


def _check_disk(
    settings: Settings,
    source: Source,
    locations: Locations | None,
    glances: Sequence[Glance],
    size_px: int,
    folder: Path,
) -> Iterator[Finding]:
    """Estimate what the crops will take."""
    seen = [glance for glance in glances if glance.planes]
    number, how = _count_cells(source, locations, seen)
    if number is None or not seen:
        return
    pixel = 1 if settings.crop.bits == 8 else np.dtype(seen[0].dtype).itemsize
    needed = number * len(source.channels) * size_px**2 * pixel
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    said = f"{number:,} crops ({how}) will take some {_tell_bytes(needed)}; {_tell_bytes(free)} are free at {place}."
    if needed < free:
        yield Finding("DISK001", "note", said)
        return
    fix = "Free space, choose another --out, a smaller crop.size_px, or crop.bits: 8."
    yield Finding("DISK001", "error", said, fix=fix, error=MachineError(f"{said} {fix}", code="DISK001"))


def _count_cells(source: Source, locations: Locations | None, seen: Sequence[Glance]) -> tuple[int | None, str]:
    if source.is_ready_crops:
        return len(source.rows), "as there are"
    if locations is not None:
        return len(locations), "as there are locations"
    counts = [glance.num_nuclei for glance in seen if glance.num_nuclei is not None]
    if not counts:
        return None, ""
    mean = float(np.mean(counts))
    return round(mean * len(source.rows)), f"{mean:.0f} a site as in the {len(counts)} looked at"


def _tell_bytes(number: int | float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
