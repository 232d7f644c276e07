"""OME-Zarr plates (the HCS layout of versions 0.4 and 0.5): plate, wells, fields, the channels of a field in one array.

The specification: https://ngff.openmicroscopy.org, Moore et al. 2021, doi:10.1038/s41592-021-01326-w.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cytoclr.data.images import read_about
from cytoclr.data.ngff import find_channel_labels, is_zarr, read_ome_metadata
from cytoclr.data.remote import is_url, list_folder
from cytoclr.data.screen import join_plate_map, name_well
from cytoclr.data.selection import choose_channels, refuse_unless_skipped, select_plates
from cytoclr.errors import DataError, list_some
from cytoclr.tables import PATH_PREFIX, PLANE_PREFIX, SITE, WELL, sort_naturally

__all__ = ["read_ome_zarr"]


def read_ome_zarr(
    folder: str | Path,
    *,
    channels: Mapping[str, str] | None,
    plates: Sequence[str] | None,
    skip_missing: bool,
    metadata: Path | None,
    columns: Mapping[str, str],
    controls: Sequence[str],
    positive_controls: Sequence[str],
    batch_pattern: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the fields of one OME-Zarr plate, or of all in a folder; only metadata are read.

    Parameters
    ----------
    folder
        The plate's group, or a folder of such; a path or a URL (``s3://`` is asked without credentials).
    channels
        Each channel's name here, and its label in the fields' metadata (``omero``); of fields that have none,
        ``channel_0`` and so on. None: all, in the order in which they are stored.
    plates
        These plates only; None: all. A plate is called as its folder, without ``.zarr``.
    skip_missing
        Leave out the fields that a well names but which are not there.
    metadata, columns, controls, positive_controls, batch_pattern
        See `cytoclr.data.screen.join_plate_map`.

    Returns
    -------
    sites
        A screen table; ``Path_<channel>`` is the group of the field, ``Plane_<channel>`` the channel in it. Where
        fields are numbered, from 0 or from 1, sites are counted so from 1; other names are counted as they are listed.
    left_out
        One row a site left out, with the reason; site 0 is all of a well.

    Raises
    ------
    DataError
        There is no plate; metadata are missing or damaged (IMG002); a well has several acquisitions (NAME003); fields
        differ in their channels (NAME005); a channel (NAME004) or a plate (META008) asked for is not there; a field is
        not there (IMG001) and `skip_missing` is false, or none is; or what `join_plate_map` refuses.
    MachineError
        A remote place cannot be reached.
    """
    source = str(folder).rstrip("/")
    found = _find_plates(source)
    if plates is not None:
        known = pd.DataFrame({"Metadata_Plate": list(found)}, dtype="str")
        found = {plate: found[plate] for plate in select_plates(known, plates, source)["Metadata_Plate"]}
    fields = _number_sites(_find_fields(_find_wells(found), source))
    labels = read_ome_metadata(list(fields["place"][fields["reason"] == ""]))
    gone = fields["place"].map(lambda place: labels.get(place, {}) is None)
    fields["reason"] = fields["reason"].mask(gone, "no image: " + fields["place"])
    absent = fields["reason"] != ""
    left_out = fields.loc[absent, [*SITE, "reason"]].reset_index(drop=True)
    refuse_unless_skipped(left_out, len(fields), source, skip_missing=skip_missing)
    names = _agree_on_channels({place: about for place, about in labels.items() if about is not None})
    chosen = choose_channels(names, channels, source)
    sites = fields.loc[~absent, [*SITE, "place"]].reset_index(drop=True)
    paths = {f"{PATH_PREFIX}{channel}": sites["place"] for channel in chosen}
    numbers = {f"{PLANE_PREFIX}{channel}": names.index(label) for channel, label in chosen.items()}
    screen, empty = join_plate_map(
        sites[SITE].assign(**paths, **numbers),
        metadata,
        columns=columns,
        controls=controls,
        positive_controls=positive_controls,
        batch_pattern=batch_pattern,
        source=source,
    )
    parts = [part for part in (left_out, empty) if len(part)]
    return screen, pd.concat(parts, ignore_index=True) if parts else left_out


def _find_plates(source: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Find the plates: each one's name, its place and its metadata."""
    own = read_ome_metadata([source])[source]
    if own and "plate" in own:
        return {_name_plate(source): (_make_absolute(source), own)}
    if own and ("well" in own or "multiscales" in own):
        raise DataError(
            f"{source}: a {'well' if 'well' in own else 'field'} of an OME-Zarr plate. Expected the plate.",
            code="IMG002",
        )
    inside = [f"{source}/{name}" for name, is_folder in list_folder(source).items() if is_folder]
    known = read_ome_metadata(sort_naturally(inside))
    found = {place: about for place, about in known.items() if about and "plate" in about}
    if not found:
        raise DataError(
            f"{source}: no OME-Zarr plate: neither the folder nor one in it has metadata of a plate (.zattrs or "
            "zarr.json). Correct the path.",
            code="IMG001",
        )
    return {_name_plate(place): (_make_absolute(place), about) for place, about in found.items()}


def _name_plate(place: str) -> str:
    name = place.rsplit("/", 1)[-1] if is_url(place) else Path(place).absolute().name
    return re.sub(r"(\.ome)?\.zarr$", "", name, flags=re.IGNORECASE) or name


def _make_absolute(place: str) -> str:
    absolute = place if is_url(place) else Path(place).absolute().as_posix()
    if not is_zarr(absolute):  # how read_field tells a group from a file
        raise DataError(f"{place}: the name of an OME-Zarr plate ends in .zarr. Rename the folder.", code="NAME001")
    return absolute


def _find_wells(plates: Mapping[str, tuple[str, dict[str, Any]]]) -> pd.DataFrame:
    """List the wells: plate, well and place."""
    rows = []
    for plate, (place, about) in plates.items():
        try:
            paths = [str(well["path"]).strip("/") for well in about["plate"]["wells"]]
        except (KeyError, TypeError):
            raise DataError(f"{place}: its metadata list no wells. Copy the plate again.", code="IMG002") from None
        for path in paths:
            parts = path.split("/")
            if len(parts) != 2 or ".." in parts:
                raise DataError(
                    f"{place}: a well has the path {path!r}. Expected row and column, as B/02.", code="NAME006"
                )
            rows.append((plate, name_well("".join(parts)), f"{place}/{path}"))
    if not rows:
        raise DataError(f"{list_some(list(plates))}: no wells in the plate's metadata. Expected some.", code="IMG002")
    return pd.DataFrame(rows, columns=[*WELL, "place"])


def _find_fields(wells: pd.DataFrame, source: str) -> pd.DataFrame:
    """List the fields: plate, well, name and place; a well that is not there has one row, with the reason."""
    metadata = read_ome_metadata(list(wells["place"]))
    rows: list[tuple[str, str, str, str, str]] = []
    for plate, well, place in wells[[*WELL, "place"]].itertuples(index=False, name=None):
        about = metadata[place]
        if about is None:
            rows.append((plate, well, "", place, f"no well: {place}"))
        else:
            rows.extend((plate, well, name, f"{place}/{name}", "") for name in _list_images(about, place))
    if all(reason for *_, reason in rows):
        raise DataError(
            f"{source}: none of the {len(wells):,} wells that the plate lists is there, first: "
            f"{wells['place'].iloc[0]}. Copy the plate again.",
            code="IMG001",
        )
    return pd.DataFrame(rows, columns=[*WELL, "field", "place", "reason"])


def _list_images(about: Mapping[str, Any], place: str) -> list[str]:
    try:
        images = [(str(image["path"]).strip("/"), image.get("acquisition")) for image in about["well"]["images"]]
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{place}: its metadata list no images. Copy the well again.", code="IMG002") from None
    acquisitions = {acquisition for _, acquisition in images}
    if len(acquisitions) > 1:
        raise DataError(
            f"{place}: images of several acquisitions ({list_some(sorted(map(str, acquisitions)))}). Expected one.",
            code="NAME003",
        )
    leaving = [name for name, _ in images if not name or ".." in name.split("/")]
    if leaving:
        raise DataError(f"{place}: the path {leaving[0]!r} leaves the well.", code="NAME006")
    return [name for name, _ in images]


def _number_sites(fields: pd.DataFrame) -> pd.DataFrame:
    """Number the sites from 1, alike in all wells: by the fields' own numbers, else by their order."""
    there = fields["reason"] == ""
    names = fields.loc[there, "field"]
    if names.str.fullmatch(r"\d+").all():
        numbers = names.astype("int64")
        numbers = numbers + 1 if (numbers == 0).any() else numbers
    else:
        numbers = fields[there].groupby(WELL).cumcount() + 1
    sites = numbers.reindex(fields.index, fill_value=0).astype("int64")
    return fields.assign(Metadata_Site=sites)


def _agree_on_channels(metadata: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the labels that all fields have; where there are none, numbers."""
    first = next(iter(metadata))
    expected = find_channel_labels(metadata[first])
    for place, about in metadata.items():
        labels = find_channel_labels(about)
        if labels != expected:
            ours, theirs = (list_some(names, 8) if names else "none" for names in (labels, expected))
            raise DataError(
                f"{place}: its channels are {ours}; those of {first} are {theirs}. Expected the same in all fields.",
                code="NAME005",
            )
    if expected is not None:
        return expected
    return [f"channel_{number}" for number in range(read_about(first).num_planes)]
