"""OME-Zarr plates, as a toy writes them: Zarr 2 and 3, on disk and by URL."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr

from cytoclr.data.images import read_field
from cytoclr.data.readers.ome_zarr import read_ome_zarr
from cytoclr.errors import DataError
from cytoclr.tables import channel_names

LABELS = ("DNA", "ER", "Actin")


def pixels_of(well: str, field: str) -> np.ndarray:
    """Draw the pixels of a field from its place."""
    seed = [ord(letter) for letter in well + field]
    return np.random.default_rng(seed).integers(0, 4000, (3, 12, 16), dtype=np.uint16)


def write_plate(
    folder: Path,
    *,
    version: int = 2,
    wells: Sequence[str] = ("B/02", "B/03"),
    fields: Sequence[str] = ("0", "1"),
    labels: Sequence[str] | None = LABELS,
) -> None:
    """Write a plate of a few wells, by hand."""

    def tell(group: zarr.Group, about: Mapping) -> None:
        group.attrs.update({"ome": {"version": "0.5", **about}} if version == 3 else about)

    plate = zarr.open_group(str(folder), mode="w", zarr_format=version)
    rows, columns = sorted({well[0] for well in wells}), sorted({well[2:] for well in wells})
    listed = [{"path": well, "rowIndex": rows.index(well[0]), "columnIndex": columns.index(well[2:])} for well in wells]
    named = {"rows": [{"name": row} for row in rows], "columns": [{"name": column} for column in columns]}
    tell(plate, {"plate": {"name": "plate", "wells": listed, **named}})
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    for well in wells:
        opened = plate.require_group(well)
        tell(opened, {"well": {"images": [{"path": field} for field in fields]}})
        for field in fields:
            image = opened.require_group(field)
            about: dict = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
            if labels is not None:
                about["omero"] = {"channels": [{"label": label} for label in labels]}
            tell(image, about)
            pixels = pixels_of(well, field)
            image.create_array("0", shape=pixels.shape, chunks=(1, 12, 16), dtype=pixels.dtype)[...] = pixels


def read(folder: Path | str, **changes: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    words: dict = {
        "channels": None,
        "plates": None,
        "skip_missing": False,
        "metadata": None,
        "columns": {},
        "controls": ["DMSO"],
        "positive_controls": [],
        "batch_pattern": "^(.*)$",
    }
    return read_ome_zarr(folder, **{**words, **changes})


@pytest.fixture
def plate_map(tmp_path: Path) -> Path:
    path = tmp_path / "map.csv"
    path.write_text("Metadata_Well,Metadata_Compound,Metadata_Concentration\nB2,DMSO,0\nB3,taxol,0.3\n")
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_sites_are_the_fields_and_planes_the_channels(tmp_path: Path, version: int, plate_map: Path) -> None:
    write_plate(tmp_path / "P1.zarr", version=version)
    sites, left_out = read(tmp_path / "P1.zarr", metadata=plate_map)
    assert left_out.empty
    assert sites["Metadata_Plate"].unique().tolist() == ["P1"]
    assert sites["Metadata_Well"].tolist() == ["B02", "B02", "B03", "B03"]
    assert sites["Metadata_Site"].tolist() == [1, 2, 1, 2]
    assert sites["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "taxol", "taxol"]
    assert channel_names(sites) == list(LABELS)
    row = sites.iloc[3]
    field = read_field(
        {name: row[f"Path_{name}"] for name in LABELS}, {name: int(row[f"Plane_{name}"]) for name in LABELS}
    )
    np.testing.assert_array_equal(field, pixels_of("B/03", "1"))


def test_channels_asked_for_in_the_order_asked(tmp_path: Path, plate_map: Path) -> None:
    write_plate(tmp_path / "P1.zarr")
    sites, _ = read(tmp_path / "P1.zarr", metadata=plate_map, channels={"a": "Actin", "d": "dna"})
    assert channel_names(sites) == ["a", "d"]
    assert sites[["Plane_a", "Plane_d"]].iloc[0].tolist() == [2, 0]
    for channels, match in (
        ({"x": "RNA"}, "no channel RNA, asked for as x. It has DNA, ER, Actin"),
        ({"x": "DNA", "y": "DNA"}, "DNA is asked for under two names"),
    ):
        with pytest.raises(DataError, match=match) as refusal:
            read(tmp_path / "P1.zarr", channels=channels)
        assert refusal.value.code == "NAME004"


def test_a_folder_of_plates(tmp_path: Path, plate_map: Path) -> None:
    for plate in ("P10.ome.zarr", "P2.zarr"):
        write_plate(tmp_path / "plates" / plate)
    (tmp_path / "plates" / "notes").mkdir()
    sites, _ = read(tmp_path / "plates", metadata=plate_map)
    assert sorted(sites["Metadata_Plate"].unique()) == ["P10", "P2"]
    sites, _ = read(tmp_path / "plates", metadata=plate_map, plates=["P2"])
    assert sites["Metadata_Plate"].unique().tolist() == ["P2"]
    with pytest.raises(DataError, match=r"no plate P3\. Known plates: P2, P10") as refusal:
        read(tmp_path / "plates", plates=["P3"])
    assert refusal.value.code == "META008"


@pytest.mark.parametrize(
    ("fields", "sites"),
    [(("0", "1"), [1, 2]), (("1", "2"), [1, 2]), (("0", "3"), [1, 4]), (("a", "b"), [1, 2])],
)
def test_sites_are_counted_from_one(tmp_path: Path, plate_map: Path, fields: Sequence[str], sites: list[int]) -> None:
    write_plate(tmp_path / "P1.zarr", wells=["B/02"], fields=fields)
    found, _ = read(tmp_path / "P1.zarr", metadata=plate_map)
    assert found["Metadata_Site"].tolist() == sites
    assert [path.rsplit("/", 1)[1] for path in found["Path_DNA"]] == list(fields)


def test_fields_without_labels_have_numbers(tmp_path: Path, plate_map: Path) -> None:
    write_plate(tmp_path / "P1.zarr", labels=None)
    sites, _ = read(tmp_path / "P1.zarr", metadata=plate_map)
    assert channel_names(sites) == ["channel_0", "channel_1", "channel_2"]


def test_fields_that_are_not_there(tmp_path: Path, plate_map: Path) -> None:
    plate = tmp_path / "P1.zarr"
    write_plate(plate)
    (plate / "B/02/1/.zattrs").unlink()
    (plate / "B/03/.zattrs").unlink()
    with pytest.raises(DataError, match=r"2 of 3 sites lack an image, first: P1 B02 s2 \(no image: .*/B/02/1\)") as no:
        read(plate, metadata=plate_map)
    assert no.value.code == "IMG001"
    sites, left_out = read(plate, metadata=plate_map, skip_missing=True)
    assert sites["Metadata_Site"].tolist() == [1]
    assert left_out[["Metadata_Well", "Metadata_Site"]].to_numpy().tolist() == [["B02", 2], ["B03", 0]]
    assert left_out["reason"].str.contains("no image|no well").all()
    (plate / "B/02/0/.zattrs").unlink()
    with pytest.raises(DataError, match=r"3 of 3 sites lack an image, .* Correct the path"):
        read(plate, metadata=plate_map, skip_missing=True)
    (plate / "B/02/.zattrs").unlink()
    with pytest.raises(DataError, match="none of the 2 wells that the plate lists is there"):
        read(plate, metadata=plate_map, skip_missing=True)


def test_fields_must_have_the_same_channels(tmp_path: Path) -> None:
    write_plate(tmp_path / "P1.zarr")
    file = tmp_path / "P1.zarr/B/03/0/.zattrs"
    file.write_text(file.read_text().replace("Actin", "RNA"))
    with pytest.raises(
        DataError, match=r"B/03/0: its channels are DNA, ER, RNA; those of .*B/02/0 are DNA, ER, Actin"
    ) as refusal:
        read(tmp_path / "P1.zarr")
    assert refusal.value.code == "NAME005"
    write_plate(tmp_path / "P2.zarr", labels=["DNA", "DNA", "ER"])
    with pytest.raises(DataError, match="DNA stands for several channels"):
        read(tmp_path / "P2.zarr")


def change_json(file: Path, change: object) -> None:
    about = json.loads(file.read_text())
    change(about)  # type: ignore[operator]
    file.write_text(json.dumps(about))


def test_damaged_plates_are_sentences(tmp_path: Path) -> None:
    def damage(name: str, file: str, change: object) -> Path:
        write_plate(tmp_path / f"{name}.zarr")
        change_json(tmp_path / f"{name}.zarr" / file, change)
        return tmp_path / f"{name}.zarr"

    two = [{"path": "0", "acquisition": 0}, {"path": "1", "acquisition": 1}]
    cases = {
        damage("a", ".zattrs", lambda about: about["plate"].pop("wells")): ("IMG002", "its metadata list no wells"),
        damage("b", ".zattrs", lambda about: about["plate"].update(wells=[])): ("IMG002", "no wells in the plate's"),
        damage("c", ".zattrs", lambda about: about["plate"]["wells"][0].update(path="../B/02")): (
            "NAME006",
            "Expected row and column",
        ),
        damage("d", "B/02/.zattrs", lambda about: about["well"].pop("images")): (
            "IMG002",
            "its metadata list no images",
        ),
        damage("e", "B/02/.zattrs", lambda about: about["well"].update(images=two)): (
            "NAME003",
            "several acquisitions",
        ),
        damage("f", "B/02/.zattrs", lambda about: about["well"]["images"][0].update(path="../03/0")): (
            "NAME006",
            "leaves the well",
        ),
    }
    for place, (code, match) in cases.items():
        with pytest.raises(DataError, match=match) as refusal:
            read(place)
        assert refusal.value.code == code, place
    for place, match in (
        (tmp_path / "a.zarr" / "B", "no OME-Zarr plate"),
        (tmp_path / "nowhere", "no OME-Zarr plate"),
        (tmp_path / "b.zarr/B/02", "a well of an OME-Zarr plate"),
        (tmp_path / "b.zarr/B/02/0", "a field of an OME-Zarr plate"),
    ):
        with pytest.raises(DataError, match=match):
            read(place)
    write_plate(tmp_path / "P1")
    with pytest.raises(DataError, match=r"the name of an OME-Zarr plate ends in \.zarr"):
        read(tmp_path / "P1")
    write_plate(tmp_path / "g.zarr")
    (tmp_path / "g.zarr/B/02/.zattrs").write_text("{")
    with pytest.raises(DataError, match=r"B/02/\.zattrs: not readable metadata"):
        read(tmp_path / "g.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_by_url_is_the_same(tmp_path: Path, plate_map: Path, version: int) -> None:
    write_plate(tmp_path / "P1.zarr", version=version)
    memory = fsspec.filesystem("memory")
    at = f"/hcs{version}"
    for file in (tmp_path / "P1.zarr").rglob("*"):
        if file.is_file():
            memory.pipe_file(f"{at}/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    for place in (f"memory:/{at}", f"memory:/{at}/P1.zarr/"):
        sites, _ = read(place, metadata=plate_map)
        here, _ = read(tmp_path / "P1.zarr", metadata=plate_map)
        assert sites["Path_ER"].iloc[0] == f"memory:/{at}/P1.zarr/B/02/0"
        rest = [name for name in sites.columns if not name.startswith("Path_")]
        pd.testing.assert_frame_equal(sites[rest], here[rest])
    field = read_field({"ER": sites["Path_ER"].iloc[0]}, {"ER": 1})
    np.testing.assert_array_equal(field[0], pixels_of("B/02", "0")[1])
