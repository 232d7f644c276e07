"""BBBC021: the official image table, and its TIFF fields (https://bbbc.broadinstitute.org/BBBC021).

The virtual screen writes tables of the same shape, and is read by this module too.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cytoclr.data.columns import check_concentrations
from cytoclr.data.files import read_texts
from cytoclr.data.roots import Root
from cytoclr.data.screen import check_wells, describe_wells
from cytoclr.errors import DataError, list_some
from cytoclr.tables import PATH_PREFIX, SCREEN, SITE, channel_names, check_table

__all__ = ["find_images", "read_image_table"]

_FILE, _FOLDER = "Image_FileName_", "Image_PathName_"
_SITE_PATTERN = re.compile(r"_s(\d+)_w\d", re.IGNORECASE)


def read_image_table(
    path: Path,
    *,
    controls: Sequence[str] = ("DMSO",),
    positive_controls: Sequence[str] = (),
    batch_pattern: str = r"^([^_]+)_",
    plates: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read ``BBBC021_v1_image.csv``: one row a site, the files of its channels relative to the images' folder.

    Channels are named by the table's columns (``Image_FileName_<channel>``). The site's number is read from the
    file names (``_s1_w1``): the table has no column for it.

    Raises
    ------
    DataError
        A column is missing, a plate asked for is not there, a file name has no site number, a well has two
        treatments, or a site stands twice.
    """
    texts = read_texts(path)
    channels = [name.removeprefix(_FILE) for name in texts.columns if name.startswith(_FILE)]
    if not channels:
        raise DataError(
            f"{path}: no column {_FILE}<channel>. Found: {list_some(list(texts.columns), 12)}.", code="META002"
        )
    sources = {
        "Metadata_Plate": f"Image_Metadata_Plate_{channels[0]}",
        "Metadata_Well": f"Image_Metadata_Well_{channels[0]}",
        "Metadata_Compound": "Image_Metadata_Compound",
        "Metadata_Concentration": "Image_Metadata_Concentration",
    }
    needed = [*sources.values(), *(f"{_FOLDER}{channel}" for channel in channels)]
    missing = [name for name in needed if name not in texts.columns]
    if missing:
        raise DataError(
            f"{path}: lacks {', '.join(missing)}. Found: {list_some(list(texts.columns), 14)}.", code="META002"
        )
    if texts.empty:
        raise DataError(f"{path}: the image table has no rows.", code="META001")
    doses = sources["Metadata_Concentration"]
    check_concentrations(texts[doses], doses, str(path))
    screen = pd.DataFrame({ours: texts[theirs] for ours, theirs in sources.items()})
    screen["Metadata_Site"] = _read_sites(texts[f"{_FILE}{channels[0]}"], path)
    for channel in channels:
        folders = texts[f"{_FOLDER}{channel}"]
        screen[f"{PATH_PREFIX}{channel}"] = folders.mask(folders == "", ".") + "/" + texts[f"{_FILE}{channel}"]
    _check_files(screen, path)
    if plates is not None:
        absent = sorted(set(plates) - set(screen["Metadata_Plate"]))
        if absent:
            known = list_some(sorted(screen["Metadata_Plate"].unique()))
            raise DataError(f"{path}: no plate {', '.join(absent)}. Known plates: {known}.", code="META008")
        screen = screen[screen["Metadata_Plate"].isin(plates)].reset_index(drop=True)
    screen = describe_wells(
        screen,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=str(path),
    )
    screen = check_table(screen, SCREEN, str(path))
    check_wells(screen, str(path))
    return screen.sort_values(SITE, kind="stable", ignore_index=True)


def _check_files(screen: pd.DataFrame, path: Path) -> None:
    """Refuse a file that stands for two channels or two sites."""
    files = screen.filter(regex=f"^{PATH_PREFIX}").melt(ignore_index=False)
    files = files[~files["value"].str.endswith("/")]
    twice = files[files.duplicated("value", keep=False)]
    if len(twice):
        name = twice["value"].iloc[0]
        same = twice[twice["value"] == name]["variable"].str.removeprefix(PATH_PREFIX)
        places = [f"row {row + 1} {channel}" for row, channel in same.items()]
        raise DataError(
            f"{path}: the file {name} stands in {list_some(places)}. Expected one of its own for each image.",
            code="NAME003",
        )


def _read_sites(names: pd.Series, path: Path) -> list[int]:
    matches = [_SITE_PATTERN.search(name) for name in names]
    for row, match in enumerate(matches):
        if match is None:
            raise DataError(
                f"{path}: row {row + 1}: no site number in the file name {names.iloc[row]!r}. "
                "Expected '_s<site>_w<channel>'.",
                code="META003",
            )
    return [int(match.group(1)) for match in matches if match is not None]


def find_images(screen: pd.DataFrame, images: Path, *, skip_missing: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the file of every site and channel, as ``images/Week1/Week1_22123/…`` or ``images/Week1_22123/…``.

    Returns
    -------
    screen
        The sites whose files are all there; path columns are now absolute.
    left_out
        One row a site that is left out, with the reason.

    Raises
    ------
    DataError
        A file is missing and `skip_missing` is false, or a path or a link leaves the images' folder.
    """
    if not images.is_dir():
        raise DataError(
            f"{images}: no such folder. Expected the folder that holds the plates' folders of TIFF files.",
            code="IMG001",
        )
    channels = channel_names(screen)
    root = Root(images)
    found: dict[str, list[str | None]] = {
        channel: [_find_image(path, images, root) for path in screen[f"{PATH_PREFIX}{channel}"]] for channel in channels
    }
    paths = pd.DataFrame({f"{PATH_PREFIX}{channel}": values for channel, values in found.items()}, index=screen.index)
    absent = paths.isna()
    incomplete = absent.any(axis=1)
    reasons = [
        "no image file: " + ", ".join(channel for channel, gone in zip(channels, row, strict=True) if gone)
        for row in absent[incomplete].to_numpy()
    ]
    left_out = screen.loc[incomplete, SITE].assign(reason=reasons).reset_index(drop=True)
    if len(left_out) and not skip_missing:
        first = left_out.iloc[0]
        raise DataError(
            f"{len(left_out):,} of {len(screen):,} sites lack an image file, first: {first['Metadata_Plate']} "
            f"{first['Metadata_Well']} s{first['Metadata_Site']} ({first['reason'].removeprefix('no image file: ')}). "
            f"Expected under {images}. Pass --skip-missing to leave them out.",
            code="IMG001",
        )
    if len(left_out) == len(screen):
        raise DataError(
            f"None of the {len(screen):,} sites has all its image files under {images}. Correct the path.",
            code="IMG001",
        )
    return screen.assign(**paths)[~incomplete].reset_index(drop=True), left_out


def _find_image(path: str, images: Path, root: Root) -> str | None:
    relative = root.split(path)
    for folder in (images / relative.parent, images / relative.parent.name):
        if root.has_file(folder, relative.name):
            return str(folder / relative.name)
    return None
