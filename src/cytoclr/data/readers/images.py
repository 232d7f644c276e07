"""A folder of images whose names say plate, well, site and channel, whichever microscope wrote them."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from cytoclr.data.images import read_channel_names
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.data.selection import select_plates
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.tables import PATH_PREFIX, PLANE_PREFIX, SITE, WELL, sort_naturally

__all__ = [
    "IMAGE_SUFFIXES",
    "TEMPLATES",
    "Fit",
    "compile_template",
    "find_files",
    "find_repeats",
    "find_templates",
    "read_images",
]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".tif", ".tiff", ".png")

_GUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_WELL = r"(?P<well>[a-z]{1,2}\d{1,2})"
#: How microscopes name files: regular expressions for the path below the folder, with slashes, in any case.
TEMPLATES = {
    # MetaXpress: PLATE/2015-07-31/4014/TimePoint_1/ZStep_1/NAME_A01_s1_w1<GUID>.TIF, most of which may be absent;
    # BBBC021's files are so named. A GUID begins right behind the channel's number. NAME is as short as can be: what
    # follows it first is the well, or s1 would be taken for one.
    "imagexpress": (
        r"(?:(?:.*/)?(?!TimePoint_\d+/|ZStep_\d+/|\d{4}-\d\d-\d\d/)(?<!\d{4}-\d\d-\d\d/)(?P<plate>[^/]+)/)?"
        r"(?:(?P<date>\d{4}-\d\d-\d\d)/(?P<measurement>\d+)/)?(?:TimePoint_(?P<time>\d+)/)?(?:ZStep_(?P<plane>\d+)/)?"
        rf"(?:[^/]*?_)??{_WELL}(?:_s(?P<site>\d+))?_(?P<channel>w\d+)(?:_z(?P<z>\d+))?(?:{_GUID})?\.tiff?"
    ),
    # Harmony: PLATE__2020-11-05T19_51_35-Measurement 1/Images/r01c02f03p01-ch1sk1fk1fl1.tiff; row, column, field,
    # plane, channel, and three kinds of time.
    "opera-phenix": (
        r"(?:(?:.*/)?(?!Images/)(?P<plate>[^/]+?)(?:__(?P<measurement>\d{4}-\d\d-\d\d[^/]*))?/)?(?:Images/)?"
        r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<plane>\d+)-(?P<channel>ch\d+)"
        r"sk(?P<time>\d+)(?:fk(?P<kinetics>\d+)fl(?P<flim>\d+))?\.tiff?"
    ),
    # CV7000 and CV8000: PLATE/NAME_A01_T0001F001L01A01Z01C01.tif; time, field, time line, action, plane, channel.
    # NAME may be the make of the plate, so the folder tells the plate.
    "cellvoyager": (
        rf"(?:(?:.*/)?(?P<plate>[^/]+)/)?(?:(?P<name>[^/]*)_)?{_WELL}_T(?P<time>\d+)F(?P<site>\d+)"
        r"L(?P<line>\d+)A(?P<action>\d+)Z(?P<plane>\d+)(?P<channel>C\d+)\.tiff?"
    ),
    # Gen5: A1_01_2_3_GFP_001.tif; well, read step, number of the channel, site, stain, time.
    "cytation": (
        rf"(?:(?:.*/)?(?P<plate>[^/]+)/)?{_WELL}_(?P<step>-?\d+)_(?P<channel>\d+)_(?P<site>\d+)(?:Z(?P<plane>\d+))?"
        r"_(?P<stain>[^/]+)_(?P<time>\d+)\.tiff?"
    ),
    # IN Cell Analyzer: PLATE/A - 01(fld 1 wv DAPI - DAPI z 1).tif; excitation and emission.
    "incell": (
        r"(?:(?:.*/)?(?P<plate>[^/]+)/)?(?P<row>[a-z]{1,2}) - (?P<column>\d+)\((?:fld (?P<site>\d+) )?"
        r"wv (?P<channel>[^()]+?)(?: z (?P<plane>\d+))?(?: tm (?P<time>\d+))?\)\.tiff?"
    ),
}
#: What a placeholder of a pattern stands for; any other word: a number, or what lies between its neighbours.
_PLACEHOLDERS = {"well": r"[a-z]{1,2}[-_ ]{0,3}\d{1,3}", "row": r"[a-z]{1,2}|\d+", "column": r"\d+"}
_ANY_WORD = r"\d+|[^/]+?"
#: Column of what stands for the channel in a name: the stain, else its number.
_CALLED = "called"
#: Folders that microscopes make inside a plate's own.
_INNER_FOLDERS = re.compile(r"images|timepoint_\d+|zstep_\d+", re.IGNORECASE)
_THUMBNAIL = re.compile(r"_thumb", re.IGNORECASE)
#: Groups of a template that tell the place; the others tell several images of one place apart.
_PLACES = ("plate", "well", "row", "column", "site")


class Fit(NamedTuple):
    """How many of a folder's image files are named by a template."""

    template: str
    num_fitting: int
    num_files: int


def compile_template(template: str) -> "re.Pattern[str]":
    r"""Turn a template into a regular expression for whole paths below a folder, with slashes, in any case.

    Parameters
    ----------
    template
        One of `TEMPLATES` by name; a pattern, in which ``{plate}``, ``{well}`` (or ``{row}`` and ``{column}``),
        ``{site}``, ``{channel}``, ``{stain}``, ``{plane}``, ``{time}`` or any other word in braces is what is looked
        for, and ``*`` any run of characters but a slash; or a regular expression with such named groups. Patterns and
        expressions may begin at any folder.

    Raises
    ------
    SettingsError
        The template is none of these, or has no well (NAME007).

    Examples
    --------
    >>> compile_template("{plate}/{well}_s{site}_w{channel}.tif").fullmatch("week1/P1/b02_s1_w3.TIF")["channel"]
    '3'
    >>> compile_template("{plate}.tif")
    Traceback (most recent call last):
    cytoclr.errors.SettingsError: template '{plate}.tif': it does not tell the well. Expected {well}, or {row} and ...
    """
    expression = TEMPLATES.get(template)
    if expression is None and "(?P<" in template:
        groups = re.sub(r"\(\?P([<=])(\w+)", lambda match: f"(?P{match[1]}{match[2].lower()}", template)
        expression = rf"(?:.*/)?(?:{groups})"
    elif expression is None and "{" in template:
        expression = _translate_pattern(template)
    elif expression is None:
        raise SettingsError(
            f"template {template!r} is not known. Expected one of {', '.join(TEMPLATES)}, or a pattern as "
            "'{plate}/{well}_s{site}_w{channel}.tif', or a regular expression with groups as (?P<well>...).",
            code="NAME007",
        )
    try:
        compiled = re.compile(expression, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"template {template!r}: not a regular expression ({error}).", code="NAME007") from None
    words = compiled.groupindex
    if "well" not in words and not {"row", "column"} <= set(words):
        raise SettingsError(
            f"template {template!r}: it does not tell the well. Expected {{well}}, or {{row}} and {{column}}.",
            code="NAME007",
        )
    return compiled


def _translate_pattern(template: str) -> str:
    pieces = []
    seen: set[str] = set()
    for piece in re.split(r"(\{\w+\}|\*)", template.replace("\\", "/").lstrip("/")):
        word = piece[1:-1].lower() if piece.startswith("{") and piece.endswith("}") else ""
        if piece == "*":
            pieces.append("[^/]*")
        elif not word:
            pieces.append(re.escape(piece))
        elif word in seen:
            pieces.append(f"(?P={word})")
        else:
            seen.add(word)
            pieces.append(f"(?P<{word}>{_PLACEHOLDERS.get(word, _ANY_WORD)})")
    return f"(?:.*/)?{''.join(pieces)}"


def find_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """List the files under a folder that end so, in any case, by their paths below it, with slashes, sorted.

    Hidden files and folders (``.DS_Store``, ``._A01.tif``) are no files here.

    Raises
    ------
    DataError
        There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder that holds the images.", code="IMG001")
    found: list[str] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                # a name that ends as an image is taken for a file: to ask would cost a call each on some file systems
                if entry.name.lower().endswith(suffixes) and not entry.is_dir():
                    found.append(f"{inside}{entry.name}")
                elif entry.is_dir() and not _leads_up(entry):
                    folders.append(f"{inside}{entry.name}/")
    return sorted(found)


def _leads_up(entry: "os.DirEntry[str]") -> bool:
    """Tell a link to a folder that holds it, which would never end."""
    return entry.is_symlink() and Path(entry.path).parent.resolve().is_relative_to(os.path.realpath(entry.path))


def find_templates(folder: Path) -> list[Fit]:
    """Tell which of the named templates fit the image files under a folder, the best first; none: an empty list.

    Raises
    ------
    DataError
        There is no such folder.
    """
    return _rank_templates(find_files(folder))


def _rank_templates(names: Sequence[str]) -> list[Fit]:
    num_files = sum(_THUMBNAIL.search(name) is None for name in names)
    fits = [
        Fit(template, sum(map(bool, map(compile_template(template).fullmatch, names))), num_files)
        for template in TEMPLATES
    ]
    return sorted((fit for fit in fits if fit.num_fitting), key=lambda fit: -fit.num_fitting)


def read_images(
    folder: Path,
    *,
    template: str,
    channels: Mapping[str, str] | None,
    plate: str | None,
    keep: Mapping[str, str],
    plates: Sequence[str] | None,
    skip_missing: bool,
    metadata: Path | None,
    columns: Mapping[str, str],
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the sites of a screen by the names of its image files; no image is opened, but to ask for its channels.

    Parameters
    ----------
    folder
        All images lie under it.
    template
        How they are named; see `compile_template`. Without a site, a well has one; without a channel, a file holds all
        channels of its site.
    channels
        Each channel's name here, and what stands for it in the names: ``w1``, or ``1`` for short; where a file holds
        all channels, the number of its plane from 0, or the channel's name in its OME-XML. None: all.
    plate
        The plate's name, where the names do not tell it; None: the folder's.
    keep
        Of several planes, times or other groups of the template, those that count: ``{"plane": "1"}``.
    plates
        These plates only; None: all.
    skip_missing
        Leave sites out that lack the file of a channel.
    metadata, columns, controls, positive_controls, batch_pattern
        See `cytoclr.data.screen.join_plate_map`.

    Returns
    -------
    sites
        A screen table with ``Path_<channel>`` and, where a file holds all channels, ``Plane_<channel>``.
    left_out
        One row a site that is left out, with the reason: files missing, or an empty well.

    Raises
    ------
    SettingsError
        The template is not one (NAME007); `keep` names no group of it.
    DataError
        There is no such folder; no file fits (NAME001); several files stand for one site and channel (NAME003); a
        channel (NAME004) or a plate (META008) that is asked for is not there; a site's number is none; a site lacks a
        channel and `skip_missing` is false (IMG001), or all do (NAME005); or what `join_plate_map` refuses.

    Notes
    -----
    Image files that do not fit are counted in the log (NAME002).
    """
    images = _find_images(folder, template, plate=plate, keep=keep)
    images = select_plates(images, plates, str(folder))
    if _CALLED in images:
        sites, left_out = _spread_channels(images, channels, folder, skip_missing=skip_missing)
    else:
        sites, left_out = _share_files(images, channels, folder), pd.DataFrame(columns=[*SITE, "reason"])
    sites, in_empty_wells = join_plate_map(
        sites,
        metadata,
        columns=columns,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=str(folder),
    )
    parts = [part for part in (left_out, in_empty_wells) if len(part)]
    return sites, pd.concat(parts, ignore_index=True) if parts else left_out


def find_repeats(folder: Path, *, template: str) -> dict[str, list[str]]:
    """Tell which groups of a template tell several files of one site and channel apart, and their values, sorted.

    Where there are any, `read_images` wants to be told which to keep.

    Raises
    ------
    SettingsError, DataError
        As in `read_images`.
    """
    images = _find_images(folder, template, plate=None, keep={}, report=False)
    return _find_differences(images, [*SITE, _CALLED] if _CALLED in images else SITE)


def _find_images(
    folder: Path, template: str, *, plate: str | None, keep: Mapping[str, str], report: bool = True
) -> pd.DataFrame:
    """List the images whose names fit: their places, the groups of the template, and ``path``."""
    compile_template(template)  # a wrong one is refused before a large folder is walked through
    files = _match_files(find_files(folder), template, folder, report=report)
    files = _keep_files(files, keep, template=template, folder=folder)
    return _name_places(files, plate or _name_folder(folder), folder)


def _name_folder(folder: Path) -> str:
    """Name the plate that a folder holds: ``PLATE`` for ``PLATE/Images`` too."""
    place = folder.absolute()
    while _INNER_FOLDERS.fullmatch(place.name) and place.parent.name:
        place = place.parent
    return re.sub(r"__\d{4}-\d\d-\d\d.*", "", place.name) or "plate"


def _match_files(names: list[str], template: str, folder: Path, *, report: bool) -> pd.DataFrame:
    """Take the names apart: a column of texts for each group (``""``: it took no part), and ``name``."""
    pattern = compile_template(template)
    matches = list(map(pattern.fullmatch, names))
    fitting = [match for match in matches if match is not None]
    if not fitting:
        _refuse_names(names, template, folder)
    unfit = [name for name, match in zip(names, matches, strict=True) if match is None]
    if report:
        _report_unfit(unfit, len(names), template, folder)
    words = sorted(pattern.groupindex, key=lambda word: pattern.groupindex[word])
    texts = [match.group(*words) if len(words) > 1 else (match.group(*words),) for match in fitting]
    files = pd.DataFrame(texts, columns=words, dtype="str").fillna("")
    return files.assign(path=pd.Series([match.string for match in fitting], dtype="str"))


def _report_unfit(unfit: list[str], num_files: int, template: str, folder: Path) -> None:
    thumbnails = sum(_THUMBNAIL.search(name) is not None for name in unfit)
    others = [name for name in unfit if _THUMBNAIL.search(name) is None]
    if thumbnails:
        logger.info("%s: %s thumbnails are left aside.", folder, f"{thumbnails:,}")
    if others:
        logger.warning(
            "%s: %s of %s image files do not fit the template %s and are left aside: %s. (NAME002)",
            folder,
            f"{len(others):,}",
            f"{num_files:,}",
            template,
            list_some(others, 3),
        )


def _refuse_names(names: list[str], template: str, folder: Path) -> None:
    if not names:
        raise DataError(
            f"{folder}: no image file ({', '.join(IMAGE_SUFFIXES)}) in this folder or below. Correct the path.",
            code="NAME001",
        )
    others = [f"{fit.template} ({fit.num_fitting:,})" for fit in _rank_templates(names)]
    advice = f"These templates fit: {', '.join(others)}." if others else (
        "No named template fits either: write a pattern, as '{plate}/{well}_s{site}_w{channel}.tif'."
    )  # fmt: skip
    raise DataError(
        f"{folder}: none of {len(names):,} image files fits the template {template}, first: {list_some(names, 3)}. "
        f"{advice}",
        code="NAME001",
    )


def _keep_files(files: pd.DataFrame, keep: Mapping[str, str], *, template: str, folder: Path) -> pd.DataFrame:
    for word, wanted in keep.items():
        if word not in files.columns.drop("path"):
            raise SettingsError(
                f"keep: the template {template} has no {word}. Expected some of "
                f"{', '.join(files.columns.drop('path'))}."
            )
        kept = files[word].map({text: _is_same(text, wanted) for text in files[word].unique()}).astype(bool)
        if not kept.any():
            there = [text for text in sort_naturally(files[word].unique()) if text]
            raise DataError(
                f"{folder}: no file has the {word} {wanted}. Found: {list_some(there) or 'none in any name'}. "
                f"Correct screen.keep, or leave {word} out of it.",
                code="NAME001",
            )
        logger.info("%s: %s of %s files have the %s %s", folder, kept.sum(), len(files), word, wanted)
        files = files[kept].reset_index(drop=True)
    return files


def _is_same(text: str, other: str) -> bool:
    """Compare texts, or numbers: ``1`` is ``01``."""
    return text == other or (text.isdecimal() and other.isdecimal() and int(text) == int(other))


def _name_places(files: pd.DataFrame, plate: str, folder: Path) -> pd.DataFrame:
    """Add plate, well and site under our names; the channel is called by its stain where there is one."""
    plates = files["plate"].mask(files["plate"] == "", plate) if "plate" in files else plate
    if "well" in files:
        wells = files["well"]
    else:
        numbered = files["row"].str.isdecimal()
        wells = files["row"].mask(numbered, "r" + files["row"] + "c").str.cat(files["column"])
    texts = files["site"].mask(files["site"] == "", "1") if "site" in files else pd.Series("1", index=files.index)
    # more digits than eighteen are no number of a site, nor of 64 bit
    sites = texts.map({text: int(text) if text.isdecimal() and len(text) <= 18 else -1 for text in texts.unique()})
    wrong = np.flatnonzero(sites < 0)
    if len(wrong):
        raise DataError(
            f"{folder}: the site of {len(wrong):,} of {len(files):,} files is no whole number, first: "
            f"{files['path'].iloc[wrong[0]]} ({texts.iloc[wrong[0]]!r}). Expected sites to be numbered; write a "
            "template in which {site} is the number alone.",
            code="NAME007",
        )
    places = files.assign(
        Metadata_Plate=plates,
        Metadata_Well=wells.map({text: name_well(text) for text in wells.unique()}),
        Metadata_Site=sites.astype("int64"),
    )
    names = [name for name in ("stain", "channel") if name in files]
    return places.assign(**{_CALLED: places[names[0]]}) if names else places


def _spread_channels(
    images: pd.DataFrame, channels: Mapping[str, str] | None, folder: Path, *, skip_missing: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn one row a file into one row a site, with a path for each channel."""
    tokens = _choose_tokens(sort_naturally(images[_CALLED].unique()), channels, folder)
    images = images[images[_CALLED].isin(tokens.values())].reset_index(drop=True)
    _refuse_several(images, [*SITE, _CALLED], folder)
    places = images.groupby(SITE, sort=True)
    codes = places.ngroup().to_numpy()
    sites = images.loc[~images.duplicated(SITE), SITE].sort_values(SITE, ignore_index=True)
    paths = _absolute_paths(images["path"], folder)
    table = np.full((len(sites), len(tokens)), "", dtype=object)
    numbers = {token: number for number, token in enumerate(tokens.values())}
    table[codes, images[_CALLED].map(numbers).to_numpy()] = paths
    sites = sites.assign(
        **{f"{PATH_PREFIX}{name}": pd.Series(table[:, number], dtype="str") for number, name in enumerate(tokens)}
    )
    return _leave_out_incomplete(sites, table == "", list(tokens), folder, skip_missing=skip_missing)


def _choose_tokens(known: list[str], channels: Mapping[str, str] | None, folder: Path) -> dict[str, str]:
    """Tell each channel's token in the names: as it is written, or by its number alone."""
    if channels is None:
        return {token: token for token in known}
    numbers = {token: re.sub(r"^\D*0*(?=\d)", "", token).lower() for token in known}
    chosen = {}
    for name, wanted in channels.items():
        exact = [token for token in known if token.lower() == wanted.lower()]
        same = exact or [token for token in known if numbers[token] == re.sub(r"^\D*0*(?=\d)", "", wanted).lower()]
        if len(same) != 1:
            raise DataError(
                f"{folder}: no channel {wanted}, asked for as {name}. The names have {list_some(known, 12)}.",
                code="NAME004",
            )
        chosen[name] = same[0]
    twice = [name for name, token in chosen.items() if list(chosen.values()).count(token) > 1]
    if twice:
        raise DataError(
            f"{folder}: {' and '.join(twice)} are both {chosen[twice[0]]}. Expected each name to have a channel of "
            "its own.",
            code="NAME004",
        )
    left = [token for token in known if token not in chosen.values()]
    if left:
        logger.info("%s: the channels %s are not asked for", folder, list_some(left, 12))
    return chosen


def _refuse_several(images: pd.DataFrame, key: list[str], folder: Path) -> None:
    """Refuse two files for one place; say which group of the template tells them apart."""
    twice = images[images.duplicated(key, keep=False)]
    if twice.empty:
        return
    same = twice[(twice[key] == twice.iloc[0][key]).all(axis=1)]
    place = same.iloc[0]
    differences = _find_differences(images, key)
    if differences:
        word, values = next(iter(differences.items()))
        advice = (
            f"They differ in {', '.join(differences)}; {word} is {list_some(values)}. Choose one: "
            f'screen.keep: {{{word}: "{values[0]}"}}.'
        )
    else:
        advice = "Nothing in the template tells them apart: do they lie in folders of several plates? Add {plate}/."
    raise DataError(
        f"{folder}: {len(twice):,} of {len(images):,} files stand for the same site and channel as another, first: "
        f"{place['Metadata_Plate']} {place['Metadata_Well']} s{place['Metadata_Site']}"
        f"{' ' + str(place[_CALLED]) if _CALLED in key else ''}: {' and '.join(same['path'].iloc[:2])}. {advice}",
        code="NAME003",
    )


def _find_differences(images: pd.DataFrame, key: list[str]) -> dict[str, list[str]]:
    """Find the groups that differ between files of one place, and their values."""
    twice = images[images.duplicated(key, keep=False)]
    groups = [word for word in images.columns if word not in (*_PLACES, *key, _CALLED, "path")]
    varying = twice.groupby(key)[groups].nunique().max() if len(twice) and groups else pd.Series(dtype="int64")
    return {str(word): sort_naturally(twice[word].unique()) for word, number in varying.items() if number > 1}


def _absolute_paths(names: pd.Series, folder: Path) -> list[str]:
    root = str(folder.absolute()).rstrip("/\\")
    return [f"{root}/{name}" for name in names]


def _leave_out_incomplete(
    sites: pd.DataFrame,
    absent: Bool[np.ndarray, "site channel"],
    channels: list[str],
    folder: Path,
    *,
    skip_missing: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    incomplete = pd.Series(absent.any(axis=1), index=sites.index)
    reasons = [
        "no image file: " + ", ".join(name for name, gone in zip(channels, row, strict=True) if gone)
        for row in absent[absent.any(axis=1)]
    ]
    left_out = sites.loc[incomplete, SITE].assign(reason=reasons).reset_index(drop=True)
    if len(left_out) and (not skip_missing or len(left_out) == len(sites)):
        first = left_out.iloc[0]
        advice = "Pass --skip-missing to leave them out."
        if len(left_out) == len(sites):
            advice = "No site has all of them: name those that all have as screen.channels."
        raise DataError(
            f"{folder}: {len(left_out):,} of {len(sites):,} sites lack an image file, first: "
            f"{first['Metadata_Plate']} {first['Metadata_Well']} s{first['Metadata_Site']} "
            f"({first['reason'].removeprefix('no image file: ')}). {advice}",
            code="NAME005" if len(left_out) == len(sites) else "IMG001",
        )
    return sites[~incomplete].reset_index(drop=True), left_out


def _share_files(images: pd.DataFrame, channels: Mapping[str, str] | None, folder: Path) -> pd.DataFrame:
    """Give all channels the one file of their site, each its plane."""
    _refuse_several(images, SITE, folder)
    paths = pd.Series(_absolute_paths(images["path"], folder), index=images.index, dtype="str")
    planes = _choose_planes(channels, paths.iloc[0])
    by_channel = {f"{PATH_PREFIX}{name}": paths for name in planes}
    numbers = {f"{PLANE_PREFIX}{name}": plane for name, plane in planes.items()}
    return images[[*WELL, "Metadata_Site"]].assign(**by_channel, **numbers)


def _choose_planes(channels: Mapping[str, str] | None, path: str) -> dict[str, int]:
    if channels is not None and all(token.isdecimal() for token in channels.values()):
        return {name: int(token) for name, token in channels.items()}
    known = read_channel_names(path)
    if known is None:
        raise DataError(
            f"{path}: the template tells no channel, and the file does not name its own. Name them with their planes "
            'from 0: screen.channels: {DNA: "0", Actin: "1"}.',
            code="NAME004",
        )
    if channels is None:
        return {name: number for number, name in enumerate(known)}
    absent = [token for token in channels.values() if token not in known]
    if absent:
        raise DataError(f"{path}: no channel {', '.join(absent)}. It has {list_some(known, 12)}.", code="NAME004")
    return {name: known.index(token) for name, token in channels.items()}
