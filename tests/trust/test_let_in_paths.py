"""Names in data stay below the folder that was declared, whatever they say and wherever links lead."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toys
import zarr

from cytoclr.config import check_settings
from cytoclr.data.crops import CropStore, Shard, open_shard, write_crop_manifest
from cytoclr.data.images import read_field
from cytoclr.data.readers.loaddata import read_loaddata
from cytoclr.data.sources import Source, open_screen
from cytoclr.errors import DamagedError, DataError
from cytoclr.stages import StageFolder
from cytoclr.storage import Manifest, hash_json, write_json
from cytoclr.tables import PATH_PREFIX

SECTION = "Nobody let in"
#: What a name in a table may be, that would leave the folder.
LEAVING = {
    "absolute": "/etc/passwd.tif",
    "up": "../secret.tif",
    "up and down": "a/../../secret.tif",
    "backslashes": "..\\secret.tif",
    "drive": "C:\\secret.tif",
    "UNC": "\\\\host\\share\\secret.tif",
    "file URL": "file:///etc/passwd.tif",
    "web": "http://evil.example/secret.tif",
    "bucket": "s3://evil/secret.tif",
}


def write_screen(kind: str, folder: Path) -> tuple[dict[str, Any], Path, Path]:
    """Write a toy as one kind of screen: its settings, the folder of its images, and its table."""
    folder.mkdir()
    toy = toys.draw_toy()
    plates = {"reader": kind, "metadata": str(toys.write_map(toy, folder.parent / "map.csv"))}
    if kind == "bbbc021":
        toys.write_bbbc021(toy, folder)
        table = folder / "BBBC021_v1_image.csv"
        values = {
            "reader": kind,
            "image_table": str(table),
            "images": str(folder / "images"),
            "batch_pattern": "^(.*)$",
        }
        return values, folder / "images", table
    if kind == "loaddata":
        toys.write_loaddata(toy, folder, "csv")
        table = folder / "load_data.csv"
        return plates | {"table": str(table), "images": str(folder / "images")}, folder / "images", table
    if kind == "deepprofiler":
        toys.write_project(toy, folder)
        table = folder / "inputs/metadata/index.csv"
        return plates | {"folder": str(folder)}, folder / "inputs/images", table
    toys.write_strips(toy, folder)
    table = folder / "sc-metadata.csv"
    values = {"reader": kind, "table": str(table), "images": str(folder), "batch_pattern": "^(.*)$"}
    return values | {"channels": ["DNA", "ER"]}, folder, table


KINDS = ("bbbc021", "loaddata", "deepprofiler", "single-cell")
#: The column of the first image's name, and of its folder, where that has its own.
NAMES = {
    "bbbc021": ("Image_FileName_DNA", "Image_PathName_DNA"),
    "loaddata": ("FileName_OrigDNA", "PathName_OrigDNA"),
    "deepprofiler": ("DNA", None),
    "single-cell": ("Image_Name", None),
}


def open_source(values: dict[str, Any]) -> Source:
    return open_screen(check_settings({"screen": values}, source="test", folder=Path()).screen, skip_missing=False)  # type: ignore[arg-type]


def list_paths(source: Source) -> list[str]:
    return [
        path for name in source.rows.columns if name.startswith(PATH_PREFIX) for path in source.rows[name].astype("str")
    ]


@pytest.mark.promise(SECTION, "A path in a table that is absolute, goes up, or is an address, opens nothing outside")
@pytest.mark.parametrize("name", LEAVING.values(), ids=LEAVING.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_in_a_table_leaves_no_folder(tmp_path: Path, kind: str, name: str) -> None:
    values, images, path = write_screen(kind, tmp_path / "screen")
    assert list_paths(open_source(values))
    for place in (images.parent, images.parent.parent):
        place.joinpath("secret.tif").write_bytes(b"secret")
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    file, folder = NAMES[kind]
    if folder is not None:
        slash = "\\" if "\\" in name else "/"
        table.loc[0, folder], _, table.loc[0, file] = name.rpartition(slash)
        if kind == "bbbc021":  # there the number of the site stands in the name
            table.loc[0, file] = "x_s1_w1.tif"
    else:
        table.loc[0, file] = name
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"[Ee]xpected") as refused:
        open_source(values)
    # CellProfiler's tables name paths of other machines as a rule: of those only the end counts
    assert refused.value.code in {"NAME006", *(("META003",) if kind == "single-cell" else ())} or (
        kind == "loaddata" and refused.value.code == "IMG001"
    )


@pytest.mark.promise(SECTION, "A link in a folder of images that leads out of it is refused, one within it followed")
@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_nowhere_else(tmp_path: Path, kind: str, whole_folder: bool) -> None:
    values, images, _ = write_screen(kind, tmp_path / "screen")
    first = Path(list_paths(open_source(values))[0])
    place = first.parent if whole_folder and first.parent != images else first
    inside = images / "elsewhere"
    shutil.move(place, inside)
    place.symlink_to(inside)
    assert len(list_paths(open_source(values)))
    outside = tmp_path / "outside"
    place.unlink()
    shutil.move(inside, outside)
    place.symlink_to(outside)
    with pytest.raises(DataError, match=r"a link leads out of .*, to .*outside.*Expected files below it") as refused:
        open_source(values)
    assert refused.value.code == "NAME006"


@pytest.mark.promise(SECTION, "Of a table's absolute paths none is opened outside the folder of images that was told")
def test_a_path_that_stands_outside_the_images_is_not_opened(tmp_path: Path) -> None:
    values, images, table = write_screen("loaddata", tmp_path / "screen")
    standing = tmp_path / "standing"
    shutil.copytree(images, standing)
    table.write_text(table.read_text().replace("/home/ubuntu/bucket/2020_toy/images", str(standing)))
    paths = list_paths(open_source(values))
    assert all(Path(path).is_relative_to(images) for path in paths)
    shutil.rmtree(images)
    images.mkdir()
    with pytest.raises(DataError, match="None of the 6 sites has all its files"):
        open_source(values)


@pytest.mark.promise(SECTION, "An address in a table is of the web or a bucket: none that opens files or archives here")
@pytest.mark.parametrize(
    "start", ["zip://a::file://", "local://", "simplecache::file://", "ftp://host", "https://x::file://", "sftp://host"]
)
def test_addresses_that_need_no_server(tmp_path: Path, start: str) -> None:
    row = {"Metadata_Plate": "P", "Metadata_Well": "B02", "Metadata_Site": "1", "URL_DNA": f"{start}/etc/secret.tif"}
    pd.DataFrame([row]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"Expected one that begins with https://, http:// or s3://") as refused:
        read_loaddata(str(tmp_path / "t.csv"))
    assert refused.value.code == "NAME006"


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    toys.write_ome_zarr(toys.draw_toy(), tmp_path, "0.4")
    return tmp_path / "P1.zarr"


@pytest.mark.promise(SECTION, "Metadata and links of an OME-Zarr lead out of no plate")
def test_an_ome_zarr_stays_in_its_plate(plate: Path, tmp_path: Path) -> None:
    field = plate / "B/02/0"
    read_field({"DNA": field}, {"DNA": 0})
    (tmp_path / "secret").write_bytes(b"secret" * 2000)
    chunk = field / "0/0.0.0"
    kept = chunk.read_bytes()
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"0\.0\.0: a link leads out of .*P1\.zarr, to .*secret") as refused:
        read_field({"DNA": field}, {"DNA": 0})
    assert refused.value.code == "NAME006"
    chunk.unlink()
    chunk.write_bytes(kept)
    for path in ("../1/0", "/etc", "s3://x", "\\\\host\\share"):
        about = json.loads((field / ".zattrs").read_text())
        about["multiscales"][0]["datasets"][0]["path"] = path
        (field / ".zattrs").write_text(json.dumps(about))
        with pytest.raises(DataError, match="leaves the group"):
            read_field({"DNA": field}, {"DNA": 0})


def write_store(folder: Path) -> Path:
    with open_shard(folder / "P.npy", 1, 8, np.dtype(np.uint8)) as writer:
        writer.append(np.zeros((3, 1, 8, 8), np.uint8))
    write_crop_manifest(
        folder,
        [Shard("P.npy", "P", 3, (0.0,), (1.0,))],
        channels=["DNA"],
        size_px=8,
        pixel_size_um=None,
        dtype=np.dtype(np.uint8),
        intensity={"rule": "full-range"},
    )
    return folder / "manifest.json"


@pytest.mark.promise(SECTION, "The crops of a run that somebody passed on are in its folder, or it is not opened")
def test_a_store_of_crops_names_no_file_elsewhere(tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "crops")
    CropStore(manifest.parent)
    shutil.copy(tmp_path / "crops/P.npy", tmp_path / "secret.npy")
    about = json.loads(manifest.read_text())
    for name in ("../secret.npy", str(tmp_path / "secret.npy"), "..\\secret.npy"):
        about["shards"][0]["file"] = name
        write_json(manifest, about)
        with pytest.raises(DamagedError, match="is not in the folder"):
            CropStore(manifest.parent)
    for damage in ({"dtype": "O"}, {"size_px": 10**6}, {"channels": 3}, {"shards": [1]}, {"format": 9}):
        write_json(manifest, {**about, **damage})
        with pytest.raises(DamagedError, match="not that of a store of crops"):
            CropStore(manifest.parent)


@pytest.mark.promise(SECTION, "A manifest that somebody passed on removes nothing outside the run folder")
@pytest.mark.parametrize("name", ["../victim/x", "/victim/x", "a/../../victim/x", "./x", ""])
def test_a_manifest_removes_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "x").write_bytes(b"dear")
    run = StageFolder(tmp_path / "run")

    def work(folder: Path) -> dict[str, Any]:
        (folder / "made").write_bytes(b"1")
        return {}

    run.finish("crop", {"version": 1}, work)
    value = json.loads(run.manifest_path("crop").read_text())
    value.pop("sha256")
    value["files"][name] = {"bytes": 4, "sha256": "0"}
    write_json(run.manifest_path("crop"), {**value, "sha256": hash_json(value)})
    with pytest.raises(DamagedError, match="leaves the run folder"):
        Manifest.read(run.manifest_path("crop"))
    with pytest.raises(DamagedError, match="leaves the run folder"):
        run.finish("crop", {"version": 2}, work)
    assert (victim / "x").read_bytes() == b"dear"


@pytest.mark.promise(SECTION, "An OME-Zarr is decoded by codecs that compress; the one that unpickles is never called")
@pytest.mark.parametrize("key", ["compressor", "filters"])
@pytest.mark.parametrize("codec", ["pickle", "msgpack2", "json2"])
def test_codecs_that_run_code_are_refused(plate: Path, key: str, codec: str) -> None:
    about = json.loads((plate / "B/02/0/0/.zarray").read_text())
    about[key] = {"id": codec} if key == "compressor" else [{"id": codec}]
    (plate / "B/02/0/0/.zarray").write_text(json.dumps(about))
    with pytest.raises(DataError, match=rf"B/02/0: .*{codec}") as refused:
        read_field({"DNA": plate / "B/02/0"}, {"DNA": 0})
    assert refused.value.code == "IMG002"


@pytest.mark.promise(SECTION, "An OME-Zarr that claims a huge field or chunk is refused before memory is taken")
def test_huge_arrays_of_zarr(tmp_path: Path) -> None:
    field = tmp_path / "P.zarr/B/02/0"
    group = zarr.open_group(str(field), mode="w", zarr_format=2)
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs.update({"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]})
    for shape, chunks, match in (
        ((10**6, 10**6), (10, 10), "more than any camera"),
        ((64, 64), (10**6, 10**6), "more pixels than any camera"),
    ):
        shutil.rmtree(field / "0", ignore_errors=True)
        group.create_array("0", shape=shape, chunks=chunks, dtype="uint16")
        with pytest.raises(DataError, match=match):
            read_field({"DNA": field}, {"DNA": 0})


@pytest.mark.promise(SECTION, "Metadata nested a hundred thousand deep are a sentence, not a crash")
def test_json_without_end(plate: Path) -> None:
    (plate / "B/02/0/.zattrs").write_text('{"a":' * 100_000)
    with pytest.raises(DataError, match="not readable metadata"):
        read_field({"DNA": plate / "B/02/0"}, {"DNA": 0})
    (plate / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="expected JSON"):
        Manifest.read(plate / "manifest.json")
