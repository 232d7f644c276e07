"""Every kind of plates through the real command line: `init`, `check`, `crop`; and what each refuses."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import imagecodecs
import numpy as np
import pandas as pd
import pytest
import requests
import tifffile
import toys
from click.testing import Result
from moto.server import ThreadedMotoServer
from servers import serve_on_loopback
from toys import Toy, Written, draw_toy
from typer.testing import CliRunner

from cytoclr.cli import app
from cytoclr.config import ImagesSettings, read_settings
from cytoclr.data.crops import CropStore
from cytoclr.data.fetch import fetch_bbbc021
from cytoclr.data.screen import name_well
from cytoclr.storage import read_table
from cytoclr.tables import SITE


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Put back what the command line changes in its process."""
    root, ours = logging.getLogger(), logging.getLogger("cytoclr")
    before = list(root.handlers), root.level, ours.level, signal.getsignal(signal.SIGTERM)
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    signal.signal(signal.SIGTERM, before[3])
    logging.captureWarnings(False)


def cytoclr(*arguments: object) -> Result:
    """Call the command line in this process: to start one takes seconds, and there are a hundred calls here."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def succeed(*arguments: object) -> str:
    done = cytoclr(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def change(*changes: str) -> list[str]:
    return [part for text in changes for part in ("--set", text)]


def init(folder: Path, *options: object) -> Path:
    """Let `init` write a config beside the folder."""
    config = folder.parent / "config.yaml"
    succeed("init", folder, "--out", config, *options)
    return config


def list_errors(config: Path, *changes: str) -> list[dict[str, Any]]:
    done = cytoclr("check", config, "--json", *change(*changes))
    found = json.loads(done.stdout)["findings"]
    errors = [finding for finding in found if finding["severity"] == "error"]
    assert done.exit_code == (3 if errors else 0), done.output
    return errors


def cut(config: Path, *changes: str) -> tuple[CropStore, pd.DataFrame]:
    run = config.with_name("run")
    succeed("crop", config, "--out", run, *change(f"crop.size_px={toys.CROP_PX}", "crop.overlays=0", *changes))
    return CropStore(run / "crops"), read_table(run / "cells.parquet")


def name_channels(written: Written) -> tuple[str, ...]:
    """Say what stands for each channel, in the toy's order: `init` can know neither."""
    if not written.tokens:
        return written.changes
    named = ", ".join(f'{name}: "{token}"' for name, token in written.tokens.items())
    return (f"screen.channels={{{named}}}", "crop.nuclei_channel=DNA", *written.changes)


def assert_toy(toy: Toy, store: CropStore, cells: pd.DataFrame, *, treated: bool = True) -> None:
    """Compare the crops with the toy's own pixels, and what is told of each cell with what was written."""
    expected = toy.cells()
    assert store.channels == toy.channels
    names = list(expected.columns)
    pd.testing.assert_frame_equal(cells[names].astype(expected.dtypes), expected)
    told = [toys.TREATMENTS[well] if treated else ("unknown", 0.0) for well in expected["Metadata_Well"]]
    treatments = cells[["Metadata_Compound", "Metadata_Concentration"]]
    assert list(treatments.itertuples(index=False, name=None)) == told
    crops = store.read(np.arange(len(cells)))
    wanted = np.stack([toy.crop(*cell) for cell in expected[names[1:3] + names[4:]].itertuples(index=False)])
    np.testing.assert_array_equal(crops, wanted)


Write = Callable[[Toy, Path], Written]

#: How a screen is written, and of how many channels and bits, with what compression.
FIELDS: dict[str, tuple[Write, dict[str, Any]]] = {
    "imagexpress": (partial(toys.write_named, naming="imagexpress"), {}),
    "opera-phenix": (partial(toys.write_named, naming="opera-phenix"), {"channels": 5, "bits": 16}),
    "cellvoyager": (partial(toys.write_named, naming="cellvoyager"), {"channels": 1}),
    "cytation": (partial(toys.write_named, naming="cytation"), {"compression": "deflate", "bits": 16, "channels": 3}),
    "own names": (partial(toys.write_named, naming="own names"), {"bits": 8, "compression": "lzw"}),
    "ome-tiff": (toys.write_stacks, {"channels": 5, "compression": "lzw"}),
    "loaddata csv": (partial(toys.write_loaddata, kind="csv"), {}),
    "loaddata parquet": (partial(toys.write_loaddata, kind="parquet"), {"channels": 5}),
    "ome-zarr 0.4": (partial(toys.write_ome_zarr, version="0.4"), {}),
    "ome-zarr 0.5": (partial(toys.write_ome_zarr, version="0.5"), {"bits": 8, "channels": 5}),
    "deepprofiler": (toys.write_project, {"compression": "deflate"}),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_of_every_kind_give_the_same_crops(tmp_path: Path, kind: str) -> None:
    write, about = FIELDS[kind]
    toy = draw_toy(**about)
    (tmp_path / "plates").mkdir()
    written = write(toy, tmp_path / "plates")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    assert list_errors(config) == []
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    assert_toy(toy, *cut(config, *name_channels(written), f"crop.locations={centres}"))


def test_a_plate_in_all_formats_at_once(tmp_path: Path) -> None:
    """One and the same toy, whatever wrote it: the crops are those of the first to the bit."""
    toy = draw_toy()
    seen = {}
    for kind, (write, _) in FIELDS.items():
        folder = tmp_path / kind.replace(" ", "-") / "plates"
        folder.mkdir(parents=True)
        written = write(toy, folder)
        config = init(folder, "--metadata", toys.write_map(toy, folder.parent / "map.csv"))
        centres = toys.write_own_centres(toy, folder.parent / "centres.csv")
        store, cells = cut(config, *name_channels(written), f"crop.locations={centres}")
        seen[kind] = store.read(np.arange(len(cells))), cells.drop(columns="Metadata_Batch")
    first, table = seen["imagexpress"]
    for crops, cells in seen.values():
        np.testing.assert_array_equal(crops, first)
        pd.testing.assert_frame_equal(cells, table)


@pytest.mark.parametrize("template", [toys.ODD_TEMPLATE, toys.ODD_EXPRESSION])
def test_names_that_no_one_knows_are_told_by_a_template(tmp_path: Path, template: str) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "odd names")
    toys.write_map(toy, tmp_path / "map.csv")
    refused = cytoclr("init", tmp_path / "plates", "--out", tmp_path / "config.yaml")
    assert refused.exit_code == 3
    assert "no kind of screen that is known. Found 12 image files" in refused.stderr
    assert refused.stderr.strip().endswith("[NAME001]")
    # as the refusal says: the pattern is written by hand
    config = tmp_path / "config.yaml"
    config.write_text(
        "screen:\n  reader: images\n  folder: plates\n  metadata: map.csv\n"
        f"  template: {json.dumps(template)}\n"
        "crop: {locations: centres.csv}\n"
    )
    toys.write_own_centres(toy, tmp_path / "centres.csv")
    assert list_errors(config) == []
    assert_toy(toy, *cut(config, *name_channels(written)))


def test_the_image_table_of_bbbc021(tmp_path: Path) -> None:
    toy = draw_toy(channels=3, bits=16, plate="Week1_22123")
    written = toys.write_bbbc021(toy, tmp_path / "bbbc021")
    config = init(written.folder)
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    assert list_errors(config, f"crop.locations={centres}") == []
    store, cells = cut(config, f"crop.locations={centres}")
    assert_toy(toy, store, cells)
    assert cells["Metadata_control_type"].unique().tolist() == ["negcon", "trt", "poscon"]


def test_a_screen_without_a_map_is_cut_all_the_same(tmp_path: Path) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    config = init(written.folder)
    assert "# TODO: metadata: the plate map" in config.read_text()
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    changes = (*name_channels(written), f"crop.locations={centres}")
    assert list_errors(config, *changes) == []
    assert_toy(toy, *cut(config, *changes), treated=False)


def test_the_light_that_a_loaddata_table_names_is_divided_out(tmp_path: Path) -> None:
    toy = draw_toy()
    written = toys.write_loaddata(toy, tmp_path / "plates", "csv", light=True)
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    assert list_errors(config) == []
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    light = np.stack(list(toys.draw_light(toy).values()))
    lit = {place: np.rint(pixels / light).astype(pixels.dtype) for place, pixels in toy.fields.items()}
    corrected = Toy(toy.plate, toy.channels, toy.bits, lit, toy.centres)
    changes = (*name_channels(written), f"crop.locations={centres}")
    assert_toy(corrected, *cut(config, *changes))
    assert_toy(toy, *cut(config, *changes, "crop.illumination=none"))


def test_a_table_of_jump_tells_the_images_and_the_centres(tmp_path: Path) -> None:
    toy = draw_toy(channels=5, bits=16)
    written = toys.write_loaddata(toy, tmp_path / "plates", "jump", light=True)
    table = written.folder / "load_data_with_illum_and_cell_location.parquet"
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    assert str(table) in config.read_text()
    changes = (*name_channels(written), f"crop.locations={table}", "crop.illumination=none")
    assert list_errors(config, *changes) == []
    assert_toy(toy, *cut(config, *changes))


CENTRES: dict[str, tuple[Callable[[Toy, Path], Path], str]] = {
    "cellprofiler csv": (toys.write_cellprofiler, "export"),
    "sqlite": (toys.write_sqlite, "plate.sqlite"),
    "cytotable": (toys.write_cytotable, "cells.parquet"),
    "deepprofiler": (toys.write_deepprofiler_centres, "locations"),
}


@pytest.mark.parametrize("kind", CENTRES)
def test_centres_of_every_kind_give_the_same_crops(tmp_path: Path, kind: str) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "opera-phenix")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    write, name = CENTRES[kind]
    changes = (*name_channels(written), f"crop.locations={write(toy, tmp_path / name)}")
    assert list_errors(config, *changes) == []
    assert_toy(toy, *cut(config, *changes))


def test_a_deepprofiler_project_has_its_own_centres(tmp_path: Path) -> None:
    """No plate map: the index tells the treatments."""
    toy = draw_toy(plate="00123")
    written = toys.write_project(toy, tmp_path / "project")
    config = init(written.folder)
    changes = (f"crop.locations={written.folder / 'inputs/locations'}",)
    assert list_errors(config, *changes) == []
    assert_toy(toy, *cut(config, *changes))


@pytest.mark.parametrize("only", [False, True])
def test_masks_tell_the_centres(tmp_path: Path, only: bool) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    masks = toys.write_masks(toy, tmp_path / "masks")
    template = "{plate}/{well}_s{site}_mask.tif"
    changes = [*name_channels(written), f'crop.masks={{folder: "{masks}", template: "{template}"}}']
    assert list_errors(config, *changes) == []
    if only:
        changes.append("crop.apply_masks=true")
    store, cells = cut(config, *changes)
    if not only:
        return assert_toy(toy, store, cells)
    rows, columns = np.mgrid[-12:12, -12:12]
    inside = np.hypot(rows, columns) <= toys.DIAMETER_PX / 2
    wanted = [
        toy.crop(*cell) * inside
        for cell in toy.cells().drop(columns=["Metadata_Plate", "Metadata_Object"]).itertuples(index=False)
    ]
    np.testing.assert_array_equal(store.read(np.arange(len(cells))), np.stack(wanted))
    return None


def test_nuclei_are_found_where_nothing_is_told(tmp_path: Path) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    settings = read_settings(config)
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.crop.nucleus_diameter_px == pytest.approx(toys.DIAMETER_PX, abs=2)
    _, cells = cut(config)
    expected = toy.cells()
    assert len(cells) == len(expected)
    found = cells.sort_values(["Metadata_Well", "Metadata_Site", "y", "x"])[["x", "y"]].to_numpy()
    given = expected.sort_values(["Metadata_Well", "Metadata_Site", "y", "x"])[["x", "y"]].to_numpy()
    distances = np.abs(found[:, None] - given[None]).max(axis=2)
    assert distances.min(axis=1).max() < 1.5


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (2, 12), (5, 16)])
def test_strips_of_single_cells(tmp_path: Path, channels: int, bits: int) -> None:
    toy = draw_toy(channels=channels, bits=bits)
    (tmp_path / "crops").mkdir()
    written = toys.write_strips(toy, tmp_path / "crops")
    config = init(written.folder)
    assert list_errors(config) == []
    store, cells = cut(config, *written.changes)
    assert cells[["x", "y"]].isna().all(axis=None)
    assert_toy(toy, store, cells.assign(x=toy.cells()["x"], y=toy.cells()["y"]))


def test_files_of_scportrait(tmp_path: Path) -> None:
    toy = draw_toy(channels=3, bits=16)
    (tmp_path / "crops").mkdir()
    written = toys.write_h5sc(toy, tmp_path / "crops")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    assert list_errors(config) == []
    store, cells = cut(config)
    assert cells["Metadata_Object"].tolist() == list(range(1, 13)) * 3
    # a file is a well, and its cells are numbered through
    place = {name: toy.cells()[name] for name in ("Metadata_Site", "Metadata_Object", "x", "y")}
    assert_toy(toy, store, cells.assign(**place))


def test_a_shell_does_the_same(tmp_path: Path) -> None:
    """The three commands as a user types them, in processes of their own, with the names they choose themselves."""
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    toys.write_map(toy, tmp_path / "map.csv")
    toys.write_own_centres(toy, tmp_path / "centres.csv")
    changes = change(*name_channels(written), "crop.locations=centres.csv", f"crop.size_px={toys.CROP_PX}")
    for words in (["init", "plates", "--metadata", "map.csv"], ["check", *changes], ["crop", *changes]):
        command = [sys.executable, "-m", "cytoclr", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/config"
    assert_toy(toy, CropStore(run / "crops"), read_table(run / "cells.parquet"))


# What each kind refuses: a screen is written, a config guessed for it, and then something breaks.


def spoil_images(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the pixels of the first image."""
    path = min(folder.rglob("*.tif*"))
    tifffile.imwrite(path, change(tifffile.imread(path)))


def lose_image(folder: Path) -> None:
    min(folder.rglob("*.tif*")).unlink()


def halve_image(folder: Path) -> None:
    path = min(folder.rglob("*.tif*"))
    path.write_bytes(path.read_bytes()[:5000])


def empty_image(folder: Path) -> None:
    min(folder.rglob("*.tif*")).write_bytes(b"")


def add_plane(folder: Path) -> None:
    for path in list(folder.rglob("*p01-*.tiff")):
        shutil.copy(path, path.with_name(path.name.replace("p01", "p02")))


def stack(plane: np.ndarray) -> np.ndarray:
    return np.stack([plane] * 3, axis=-1)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Make a function that replaces a text in a file."""

    def work(folder: Path) -> None:
        path = next(folder.parent.rglob(name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return work


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.parent.rglob(name)).unlink()


def spoil(name: str, content: bytes) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        next(folder.parent.rglob(name)).write_bytes(content)

    return work


def narrow_light(folder: Path) -> None:
    np.save(next(folder.rglob("*_IllumDNA.npy")), np.ones((8, 8), dtype=np.float32))


def lose_chunk_shape(folder: Path) -> None:
    path = min(folder.rglob("0/.zarray"))
    path.write_text(path.read_text().replace("<u2", "<f4"))


def nothing(folder: Path) -> None:
    pass


named = {kind: partial(toys.write_named, naming=kind) for kind in ("imagexpress", "opera-phenix", "odd names")}
zarr_plate = partial(toys.write_ome_zarr, version="0.4")
loaddata = partial(toys.write_loaddata, kind="csv", light=True)
parquet = partial(toys.write_loaddata, kind="parquet")

#: Who writes, what breaks, what is set; exit code, code, sentence.
REFUSALS: list[tuple[Write, Callable[[Path], None], tuple[str, ...], int, str, str]] = [
    # a folder of images
    (named["imagexpress"], lose_image, (), 3, "IMG001", "1 of 6 sites lack an image file, first: P1 B02 s1 (DNA)."),
    (named["imagexpress"], halve_image, (), 3, "IMG003", "cut short"),
    (named["imagexpress"], empty_image, (), 3, "IMG002", "not a readable TIFF"),
    (named["imagexpress"], partial(spoil_images, change=stack), (), 3, "IMG004", "Expected one grey plane"),
    (named["imagexpress"], partial(spoil_images, change=np.float32), (), 3, "IMG004", "float32"),
    (named["imagexpress"], partial(spoil_images, change=lambda plane: plane[:-1]), (), 3, "IMG005", "(71, 96)"),
    (named["imagexpress"], partial(spoil_images, change=np.uint8), (), 3, "IMG006", "uint8"),
    (named["imagexpress"], shutil.rmtree, (), 3, "IMG001", "plates: no such folder"),
    (named["imagexpress"], nothing, ("screen.template=cytation",), 3, "NAME001", "none of 12 image files fits"),
    (
        named["imagexpress"],
        nothing,
        ("screen.template=metaxpress",),
        2,
        "NAME007",
        "template 'metaxpress' is not known",
    ),
    (
        named["imagexpress"],
        nothing,
        ("screen.channels={DNA: w1, ER: w9}",),
        3,
        "NAME004",
        "no channel w9, asked for as ER. The names have w1, w2",
    ),
    (named["imagexpress"], nothing, ("screen.plates=[P9]",), 3, "META008", "no plate P9. Known plates: P1"),
    (named["imagexpress"], nothing, ("crop.nuclei_channel=DAPI",), 2, "CHAN002", "the screen has DNA, w2"),
    (named["imagexpress"], nothing, ("screen.bit_depth=10",), 3, "IMG010", "pixels above 1,023"),
    (named["imagexpress"], nothing, ("crop.size_px=80",), 3, "IMG011", "80 px"),
    (named["opera-phenix"], add_plane, (), 3, "NAME003", "They differ in plane; plane is 01, 02. Choose one"),
    (toys.write_stacks, nothing, ('screen.channels={DNA: "0", ER: "7"}',), 3, "IMG004", "but number 7 was asked for"),
    (toys.write_stacks, nothing, ("screen.channels={DNA: DAPI}",), 3, "NAME004", "no channel DAPI. It has DNA, ER"),
    # the plate map
    (named["imagexpress"], edit("map.csv", "P1,B03", "P1,B07"), (), 3, "META006", "1 of 3 wells are not on the plate"),
    (named["imagexpress"], edit("map.csv", "P1,", "P7,"), (), 3, "META006", "Plates of the images: P1; of the map: P7"),
    (named["imagexpress"], edit("map.csv", "P1,B03", "P1,b2"), (), 3, "META004", "P1 B02 (DMSO and NA 0.3 µM)"),
    (named["imagexpress"], edit("map.csv", "0.3", "0.3 mg"), (), 3, "META003", "concentration is no number of µM"),
    (named["imagexpress"], edit("map.csv", "compound", "stuff"), (), 3, "META002", "no column of the compound"),
    (named["imagexpress"], edit("map.csv", ",", ";"), (), 3, "META001", "separated by"),
    (named["imagexpress"], lose("map.csv"), (), 3, "META001", "map.csv: no such file"),
    (named["imagexpress"], nothing, ("screen.batch_pattern='^Week(.)'",), 3, "META011", "batch of plate 'P1'"),
    # LoadData
    (loaddata, lose("load_data_with_illum.csv"), (), 3, "META001", "load_data_with_illum.csv: no such file"),
    (loaddata, edit("load_data*.csv", "FileName_O", "Name_O"), (), 3, "META002", "names no images"),
    (loaddata, edit("load_data*.csv", "2020_toy/images", "../images"), (), 3, "NAME006", "has '..', and could leave"),
    (loaddata, edit("load_data*.csv", "P1,B03,1", "P1,B02,1"), (), 3, "META005", "P1 B02 s1 stands in rows 1 and 3"),
    (loaddata, lose_image, (), 3, "IMG001", "1 of 6 sites lack a file, first: P1 B02 s1 (no image file: DNA)"),
    (loaddata, narrow_light, (), 3, "IMG012", "the illumination function of DNA is (8, 8)"),
    (parquet, spoil("load_data.parquet", b"PAR1"), (), 3, "META001", "not a readable Parquet table"),
    # OME-Zarr
    (zarr_plate, lose("P1.zarr/.zattrs"), (), 3, "IMG001", "no OME-Zarr plate"),
    (zarr_plate, lose("B/02/0/.zattrs"), (), 3, "IMG001", "1 of 6 sites lack an image, first: P1 B02 s1"),
    (zarr_plate, spoil("B/02/.zattrs", b"{"), (), 3, "IMG002", "not readable metadata"),
    (zarr_plate, spoil("B/02/0/0/0.0.0", b"no pixels"), (), 3, "IMG002", "B/02/0"),
    (zarr_plate, lose_chunk_shape, (), 3, "IMG004", "float32"),
    (zarr_plate, nothing, ("screen.channels={DNA: DAPI}",), 3, "NAME004", "no channel DAPI, asked for as DNA"),
    # a DeepProfiler project
    (toys.write_project, lose("index.csv"), (), 3, "META001", "index.csv: no such file"),
    (
        toys.write_project,
        edit("index.csv", "P1/B02_1_1", "../../B02_1_1"),
        (),
        3,
        "NAME006",
        "leaves the images' folder",
    ),
    (toys.write_project, lose_image, (), 3, "IMG001", "1 of 6 sites lack an image, first: P1 B02 s1"),
    # BBBC021's table
    (toys.write_bbbc021, lose_image, (), 3, "IMG001", "1 of 6 sites lack an image file, first: P1 B02 s1 (DNA)"),
    (toys.write_bbbc021, edit("*image.csv", "Week1/", "../Week1/"), (), 3, "NAME006", "leaves the images' folder"),
    (toys.write_bbbc021, edit("*image.csv", "NA,0.3", "NA,much"), (), 3, "META003", "is no number of µM"),
    (
        toys.write_bbbc021,
        edit("*image.csv", "Image_Metadata_Well", "Well"),
        (),
        3,
        "META002",
        "lacks Image_Metadata_Well",
    ),
    # ready crops
    (toys.write_strips, lose("P1-B02-s1-1.png"), (), 3, "IMG001", "1 of 36 crops have no image file"),
    (toys.write_strips, spoil("P1-B02-s1-1.png", b"GIF"), (), 3, "CROP001", "not a readable PNG"),
    (toys.write_strips, nothing, ("screen.channels=[DNA, ER, AGP]",), 3, "CROP002", "Expected 3 square channels"),
    (toys.write_strips, nothing, ("crop.size_px=32",), 3, "CROP002", "24 px high. Expected at least 32"),
    (
        toys.write_strips,
        edit("sc-*.csv", "P1-B02-s1-1.png", "P1_B02.png"),
        (),
        3,
        "META003",
        "Image_Name cannot be read",
    ),
    (toys.write_h5sc, spoil("P1_B02.h5sc", b"not HDF5"), (), 3, "CROP001", "not a readable HDF5 file"),
    (toys.write_h5sc, nothing, ("screen.channels={DNA: DAPI}",), 3, "NAME004", "no channel DAPI"),
]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[Write, tuple[Written, str]]:
    """Write each kind of screen that is to be broken once, and let `init` look at it: its config, as text."""
    made = {}
    for write in dict.fromkeys(write for write, *_ in REFUSALS):
        root = tmp_path_factory.mktemp("template")
        (root / "plates").mkdir()
        written = write(draw_toy(), root / "plates")
        has_treatments = write in (toys.write_bbbc021, toys.write_strips, toys.write_project)
        options = () if has_treatments else ("--metadata", toys.write_map(draw_toy(), root / "map.csv"))
        made[write] = written, init(written.folder, *options).read_text()
    return made


def copy_written(templates: Mapping[Write, tuple[Written, str]], write: Write, tmp_path: Path) -> tuple[Written, Path]:
    """Copy what was written, and its config with it."""
    written, text = templates[write]
    root = written.folder.parent
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "config.yaml"
    config.write_text(text.replace(str(root), str(tmp_path)))
    return replace(written, folder=tmp_path / "plates"), config


@pytest.mark.parametrize(("write", "break_it", "changes", "exit_code", "code", "sentence"), REFUSALS)
def test_what_is_wrong_is_one_sentence_with_a_code(
    tmp_path: Path,
    templates: dict[Write, tuple[Written, str]],
    write: Write,
    break_it: Callable[[Path], None],
    changes: tuple[str, ...],
    exit_code: int,
    code: str,
    sentence: str,
) -> None:
    written, config = copy_written(templates, write, tmp_path)
    break_it(written.folder)
    done = cytoclr("crop", config, "--out", tmp_path / "run", *change(*written.changes, *changes))
    assert done.exit_code == exit_code, done.output
    said = done.stderr.replace("\n", " ")
    assert sentence in said
    assert f"[{code}]" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/crops").exists()
    if exit_code == 3:
        assert code in {finding["code"] for finding in list_errors(config, *written.changes, *changes)}


def rename_plate(toy: Toy, path: Path) -> Path:
    table = toy.cells().assign(Metadata_Plate="P9")
    table.to_csv(path, index=False)
    return path


def write_text(text: str, toy: Toy, path: Path) -> Path:
    path.write_text(text)
    return path


def shrink_masks(toy: Toy, folder: Path) -> Path:
    toys.write_masks(toy, folder)
    spoil_images(folder, lambda labels: labels[:-2])
    return folder


def lose_mask(toy: Toy, folder: Path) -> Path:
    lose_image(toys.write_masks(toy, folder))
    return folder


WRONG_CENTRES: list[tuple[Callable[[Toy, Path], Path], str, str, str]] = [
    (lambda toy, path: path, "none.csv", "LOC001", "none.csv: no such file or folder"),
    (rename_plate, "other.csv", "LOC002", "none of its sites is in the screen"),
    (partial(write_text, "plate,well,site,x\nP1,B02,1,4\n"), "a.csv", "LOC001", "no columns of the centres"),
    (partial(write_text, "plate,well,site,x,y\nP1,B02,1,4,much\n"), "a.csv", "LOC001", "much"),
    (partial(write_text, "SQLite format 3\0 but nothing else"), "a.sqlite", "LOC001", "not a readable SQLite database"),
    (partial(write_text, "no table at all"), "a.sqlite", "LOC001", "a.sqlite"),
    (lambda toy, path: path.mkdir() or path, "empty", "LOC001", "no table in this folder"),
    (shrink_masks, "masks", "LOC007", "(70, 96)"),
    (lose_mask, "masks", "LOC007", "1 of 6 sites have no mask: P1 B02 s1"),
]


@pytest.mark.parametrize(("write", "name", "code", "sentence"), WRONG_CENTRES)
def test_wrong_centres_and_masks_are_refused(
    tmp_path: Path, write: Callable[[Toy, Path], Path], name: str, code: str, sentence: str
) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    place = write(toy, tmp_path / name)
    masks = f'crop.masks={{folder: "{place}", template: "{{plate}}/{{well}}_s{{site}}_mask.tif"}}'
    changes = (masks if name == "masks" else f"crop.locations={place}", f"crop.size_px={toys.CROP_PX}")
    done = cytoclr("crop", config, "--out", tmp_path / "run", *change(*changes))
    assert done.exit_code == 3, done.output
    said = done.stderr.replace("\n", " ")
    assert sentence in said
    assert f"[{code}]" in said
    assert code in {finding["code"] for finding in list_errors(config, *changes)}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["init", "gone"], 3, "gone: no such folder. Expected the folder of the plates. [IMG001]"),
        (["init", "plates", "--out", "there.yaml"], 2, "there.yaml: exists. It is not replaced"),
        (["init", "plates", "--metadata", "gone.csv"], 3, "gone.csv: no such file"),
        (["check", "gone.yaml"], 2, "gone.yaml"),
        (["fetch", "bbbc021", "--source", "mars"], 2, "--source mars: expected broad or gallery"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, sentence: str
) -> None:
    toys.write_named(draw_toy(), tmp_path / "plates", "imagexpress")
    (tmp_path / "there.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path)
    done = cytoclr(*arguments)
    assert (done.exit_code, sentence in done.stderr) == (code, True), done.output


def test_sites_without_a_mask_can_be_left_out(tmp_path: Path) -> None:
    toy = draw_toy()
    written = toys.write_named(toy, tmp_path / "plates", "imagexpress")
    config = init(written.folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    lose_mask(toy, tmp_path / "masks")
    masks = f'crop.masks={{folder: "{tmp_path / "masks"}", template: "{{plate}}/{{well}}_s{{site}}_mask.tif"}}'
    succeed("crop", config, "--skip-missing", "--out", tmp_path / "run", *change(masks, f"crop.size_px={toys.CROP_PX}"))
    left_out = pd.read_csv(tmp_path / "run" / "left_out.csv")
    assert left_out.loc[left_out["reason"] == "no mask", "Metadata_Well"].tolist() == ["B02"]


# Public screens: fetched from servers of the test's own, then looked at.


class _Folder(SimpleHTTPRequestHandler):
    """A web server of a folder, which says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def broad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The Broad's folder of BBBC021, with two plates of two weeks; the fetch goes there."""
    folder = tmp_path / "server"
    tables = []
    for number, plate in enumerate(("Week1_22123", "Week2_24381")):
        toy = draw_toy(channels=3, bits=16, plate=plate, seed=number)
        toys.write_bbbc021(toy, tmp_path / plate)
        table = pd.read_csv(tmp_path / plate / "BBBC021_v1_image.csv", dtype="str", keep_default_na=False)
        folders = [name for name in table if name.startswith("Image_PathName_")]
        tables.append(table.assign(**dict.fromkeys(folders, f"{plate[:5]}/{plate}")))
        shutil.make_archive(
            str(folder / f"BBBC021_v1_images_{plate}"), "zip", tmp_path / plate / "images/Week1", base_dir=plate
        )
    pd.concat(tables).to_csv(folder / "BBBC021_v1_image.csv", index=False)
    (folder / "BBBC021_v1_compound.csv").write_text("compound,smiles\nDMSO,CS(C)=O\n")
    (folder / "BBBC021_v1_moa.csv").write_text("compound,concentration,moa\nNA,0.3,DNA damage\n")
    with serve_on_loopback(partial(_Folder, directory=str(folder))) as url:
        monkeypatch.setattr("cytoclr.data.fetch.fetch_bbbc021", partial(fetch_bbbc021, broad_url=url))
        monkeypatch.setattr("cytoclr.data.download.SPARE_BYTES", 0)
        yield folder


@pytest.mark.parametrize("options", [[], ["--week", "2"]])
def test_bbbc021_is_fetched_and_looked_at(broad: Path, tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "fetched"
    said = succeed("fetch", "bbbc021", folder, *options)
    assert "AstraZeneca" in said
    assert f"next     cytoclr init {folder}" in said
    config = init(folder, "--mechanisms", folder / "BBBC021_v1_moa.csv")
    assert ("plates: [Week2_24381]" in config.read_text()) == bool(options)
    assert list_errors(config) == []
    toy = draw_toy(channels=3, bits=16, plate="Week2_24381", seed=1)
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    assert_toy(toy, *cut(config, f"crop.locations={centres}", "screen.plates=[Week2_24381]"))
    again = succeed("fetch", "bbbc021", folder, *options)
    assert "fetched  0 files" in again


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket that is called as the Cell Painting Gallery's."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setattr("cytoclr.data.download.SPARE_BYTES", 0)
    client = boto3.client("s3", aws_access_key_id="me", aws_secret_access_key="me", region_name="us-east-1")
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # all servers of a process share their buckets
    client.create_bucket(Bucket="cellpainting-gallery", ACL="public-read")
    yield client
    server.stop()


def test_a_project_of_the_gallery_is_fetched_and_looked_at(gallery: Any, tmp_path: Path) -> None:
    toy = draw_toy(channels=2, bits=16)
    written = toys.write_loaddata(toy, tmp_path / "written", "csv", light=True)
    project = "cpg1-toy/source_4"
    places = {"images": f"{project}/images/Batch1/images", "illum": f"{project}/images/Batch1/illum"}
    for name, key in places.items():
        for path in (written.folder / name).rglob("*.*"):
            place = f"{key}/{path.relative_to(written.folder / name).as_posix()}"
            gallery.put_object(Bucket="cellpainting-gallery", Key=place, Body=path.read_bytes(), ACL="public-read")
    table = (written.folder / "load_data_with_illum.csv").read_text()
    for name, key in places.items():
        there = f"/home/ubuntu/bucket/projects/2020_toy/{key.removeprefix('cpg1-toy/')}"
        table = table.replace(f"/home/ubuntu/bucket/2020_toy/{name}", there)
    gallery.put_object(
        Bucket="cellpainting-gallery",
        Key=f"{project}/workspace/load_data_csv/Batch1/P1/load_data_with_illum.csv",
        Body=table.encode(),
        ACL="public-read",
    )
    folder = tmp_path / "fetched"
    assert "fetched  15 files" in succeed("fetch", "gallery", "cpg1-toy", folder)
    config = init(folder, "--metadata", toys.write_map(toy, tmp_path / "map.csv"))
    assert list_errors(config) == []
    centres = toys.write_own_centres(toy, tmp_path / "centres.csv")
    changes = (*name_channels(written), f"crop.locations={centres}", "crop.illumination=none")
    assert_toy(toy, *cut(config, *changes))


# Real plates.


def cut_real(config: Path, name: str, *options: str) -> tuple[CropStore, pd.DataFrame, pd.DataFrame]:
    run = config.with_name(name)
    succeed("crop", config, "--out", run, *options)
    return CropStore(run / "crops"), read_table(run / "cells.parquet"), pd.read_csv(run / "left_out.csv")


REAL = {"nf1": ("DAPI", 5), "pediatric_cancer_atlas": ("DNA", 1)}


@pytest.mark.real_data
@pytest.mark.parametrize("place", REAL)
def test_real_fields_with_found_and_with_given_nuclei(real_data: Path, tmp_path: Path, place: str) -> None:
    channel, num_sites = REAL[place]
    wells = ("B7", "D6", "D7", "F7", "H12") if place == "nf1" else ("C03",)
    (tmp_path / "map.csv").write_text("well,compound\n" + "".join(f"{well},DMSO\n" for well in wells))
    config = tmp_path / "config.yaml"
    succeed("init", real_data / place / "images", "--metadata", tmp_path / "map.csv", "--out", config)
    assert list_errors(config) == []
    _, found, left_out = cut_real(config, "found")
    table = real_data / place / "cells.parquet"
    given_by = ("--set", f"crop.locations={table}")
    store, given, _ = cut_real(config, "given", *given_by)
    theirs = pd.read_parquet(table)
    assert len(given) == 5
    assert given["Metadata_Well"].nunique() == num_sites
    np.testing.assert_allclose(np.sort(given["x"]), np.sort(theirs["Nuclei_Location_Center_X"]))

    # each nucleus of CellProfiler is found, within half a nucleus
    diameter_px = read_settings(config).crop.nucleus_diameter_px
    for _, cell in given.iterrows():
        here = found[(found[SITE] == cell[SITE]).all(axis=1)]
        assert np.hypot(here["x"] - cell["x"], here["y"] - cell["y"]).min() < diameter_px / 2

    # and stands in the middle of its crop
    dna = store.read(np.arange(5))[:, store.channels.index(channel)].astype(float)
    middle = slice(store.size_px // 2 - 6, store.size_px // 2 + 6)
    border = np.concatenate([dna[:, :3].reshape(5, -1), dna[:, -3:].reshape(5, -1)], axis=1)
    assert (dna[:, middle, middle].mean(axis=(1, 2)) > 1.5 * np.median(border, axis=1)).all()

    # there are about as many: measured 29, 28, 29, 25, 23 where CellProfiler has 28, 27, 29, 25, 23
    if place == "nf1":
        counts = found.groupby("Metadata_Well").size() + left_out.groupby("Metadata_Well").size()
        expected = theirs.set_index(theirs["Image_Metadata_Well_x"].map(name_well))["Image_Count_Nuclei"]
        assert (counts - expected).abs().max() <= 3


@pytest.mark.real_data
def test_real_fields_of_bbbc021_by_the_official_table(real_data: Path, tmp_path: Path) -> None:
    """A plate of 55, two sites of 240, a third without its actin image."""
    folder = tmp_path / "bbbc021"
    folder.mkdir()
    for name in ("metadata", "fields"):
        (folder / name).symlink_to(real_data / "bbbc021" / name)
    config = init(folder, "--mechanisms", folder / "metadata/BBBC021_v1_moa.csv")
    assert "plates: [Week2_24381]  # guessed: of 55 plates" in config.read_text()
    done = cytoclr("crop", config, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "238 of 240 sites lack an image file, first: Week2_24381 B02 s3 (Actin)." in done.stderr
    assert cytoclr("check", config, "--skip-missing").exit_code == 0
    centre = tmp_path / "centres.csv"
    centre.write_text("plate,well,site,x,y\nWeek2_24381,B02,2,1173,599\n")
    changes = change(f"crop.locations={centre}", "crop.size_px=68")
    store, cells, left_out = cut_real(config, "given", "--skip-missing", *changes)
    assert (left_out["reason"] == "no image file: Actin").sum() == 1
    assert (left_out["reason"] == "no location given").sum() == 1
    assert cells["Metadata_Compound"].tolist() == ["DMSO"]
    # the 2020 project's own crop of this place
    strip = imagecodecs.imread(folder / "fields/crop-Week2_24381-B02-s2-row565-column1139.png")
    np.testing.assert_array_equal(np.concatenate(list(store.read(np.array([0]))[0]), axis=1), strip)
    _, found, _ = cut_real(config, "found", "--skip-missing")
    assert len(found) > 200
