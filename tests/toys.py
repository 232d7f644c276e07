"""One toy screen, written as each program and microscope would write it, so that all readings can be compared."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import imagecodecs
import numpy as np
import pandas as pd
import tifffile
import zarr
from jaxtyping import UInt

#: In the order of their wells: compound and concentration; a compound called NA must stay one.
TREATMENTS = {"B02": ("DMSO", 0.0), "B03": ("NA", 0.3), "C04": ("taxol", 1.0)}
SITES = (1, 2)
NAMES = ("DNA", "ER", "AGP", "Mito", "RNA")
ROWS, COLUMNS = 72, 96
#: Diameter of the discs in channel DNA: what `init` and the search for nuclei should find.
DIAMETER_PX = 12
CROP_PX = 24

#: Settings of a virtual screen: the whole way with it takes seconds.
SMALL_SCREEN: dict[str, Any] = {
    "reader": "virtual",
    "screen_seed": 5,
    "num_mechanisms": 2,
    "compounds_per_mechanism": 2,
    "doses": 1,
    "num_batches": 2,
    "plates_per_batch": 1,
    "control_wells": 3,
    "positive_control_wells": 1,
    "field_size_px": 256,
    "cells_per_site": 20,
}

Field = tuple[str, int]


@dataclass(frozen=True)
class Toy:
    """A plate of three wells with two sites: pixels by well and site, and centres of cells, whole numbers of px."""

    plate: str
    channels: tuple[str, ...]
    bits: int
    fields: Mapping[Field, UInt[np.ndarray, "channel row column"]]
    centres: Mapping[Field, list[tuple[int, int]]]
    #: Of TIFF files.
    compression: str | None = None

    def cells(self) -> pd.DataFrame:
        """List the cells as `cytoclr.tables.LOCATIONS` has them."""
        rows = [
            (self.plate, well, site, number, float(x), float(y))
            for (well, site), centres in self.centres.items()
            for number, (x, y) in enumerate(centres, start=1)
        ]
        return pd.DataFrame(
            rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object", "x", "y"]
        )

    def crop(self, well: str, site: int, x: float, y: float) -> UInt[np.ndarray, "channel height width"]:
        """Cut a crop, as the definition says: half its size before the centre, the rest from it on."""
        left, top = int(x) - CROP_PX // 2, int(y) - CROP_PX // 2
        return self.fields[well, site][:, top : top + CROP_PX, left : left + CROP_PX]


def draw_toy(
    *, channels: int = 2, bits: int = 12, compression: str | None = None, plate: str = "P1", seed: int = 5
) -> Toy:
    """Draw a toy: discs in DNA, rings of other widths in the others, noise everywhere."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    top = 2**bits - 1
    fields, centres = {}, {}
    for well in TREATMENTS:
        for site in SITES:
            places = [
                (int(x + rng.integers(-3, 4)), int(y + rng.integers(-3, 4))) for y in (18, 52) for x in (18, 48, 78)
            ]
            pixels = rng.normal(0.08, 0.01, (channels, ROWS, COLUMNS))
            for x, y in places:
                distance = np.hypot(columns - x, rows - y)
                pixels[0] += 0.5 * (distance <= DIAMETER_PX / 2)
                for number in range(1, channels):
                    pixels[number] += 0.3 * (abs(distance - 6 - number) < 2)
            fields[well, site] = np.clip(pixels * top, 0, top).astype(np.uint8 if bits == 8 else np.uint16)
            centres[well, site] = places
    return Toy(plate, NAMES[:channels], bits, fields, centres, compression)


@dataclass(frozen=True)
class Written:
    """What was written: the folder for `init`, and what stands for each channel in it."""

    folder: Path
    tokens: Mapping[str, str]
    #: More settings that `init` cannot know.
    changes: tuple[str, ...] = ()


def write_map(toy: Toy, path: Path) -> Path:
    """Write the plate map."""
    rows = [(toy.plate, well, *treatment) for well, treatment in TREATMENTS.items()]
    pd.DataFrame(rows, columns=["plate", "well", "compound", "concentration"]).to_csv(path, index=False)
    return path


def write_tiff(path: Path, plane: UInt[np.ndarray, "..."], compression: str | None, **more: Any) -> None:
    """Write one TIFF file, and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, plane, compression=compression, **more)


# Fields, a file a channel: what differs is the name.


def _split_well(well: str) -> tuple[int, int]:
    return ord(well[0]) - 64, int(well[1:])


def _name_imagexpress(plate: str, well: str, site: int, number: int) -> str:
    guid = f"{number:08x}-0000-4000-8000-{_split_well(well)[1]:06d}{site:06d}"
    return f"{plate}/Screen_{well}_s{site}_w{number}{guid.upper()}.tif"


def _name_phenix(plate: str, well: str, site: int, number: int) -> str:
    row, column = _split_well(well)
    folder = f"{plate}__2020-11-05T19_51_35-Measurement 1/Images"
    return f"{folder}/r{row:02d}c{column:02d}f{site:02d}p01-ch{number}sk1fk1fl1.tiff"


def _name_cellvoyager(plate: str, well: str, site: int, number: int) -> str:
    return f"{plate}/Assay_Greiner_#655090_{well}_T0001F{site:03d}L01A01Z01C{number:02d}.tif"


def _name_cytation(plate: str, well: str, site: int, number: int) -> str:
    return f"{plate}/{well[0]}{int(well[1:])}_01_{number}_{site}_{_STAINS[number - 1]}_001.tif"


def _name_own(plate: str, well: str, site: int, number: int) -> str:
    return f"{plate}/{well.lower()}_s{site}_ch{number}.tif"


def _name_odd(plate: str, well: str, site: int, number: int) -> str:
    return f"{well}~{plate}~field-{site}~{_STAINS[number - 1]}.tif"


_STAINS = ("DAPI", "GFP", "RFP", "Texas Red", "CY5")
_NAMINGS = {
    "imagexpress": (_name_imagexpress, "w{}"),
    "opera-phenix": (_name_phenix, "ch{}"),
    "cellvoyager": (_name_cellvoyager, "C{:02d}"),
    "cytation": (_name_cytation, None),
    "own names": (_name_own, "ch{}"),
    "odd names": (_name_odd, None),
}
#: How odd names are told: in words, and as a regular expression.
ODD_TEMPLATE = "{well}~{plate}~field-{site}~{channel}.tif"
ODD_EXPRESSION = r"(?P<well>[A-P]\d\d)~(?P<plate>\w+)~field-(?P<site>\d+)~(?P<channel>[^.]+)\.tif"


def write_named(toy: Toy, folder: Path, naming: str) -> Written:
    """Write a file a channel, named as a microscope or a person would."""
    name, token = _NAMINGS[naming]
    for (well, site), pixels in toy.fields.items():
        for number, plane in enumerate(pixels, start=1):
            write_tiff(folder / name(toy.plate, well, site, number), plane, toy.compression)
    tokens = {
        channel: _STAINS[number - 1] if token is None else token.format(number)
        for number, channel in enumerate(toy.channels, start=1)
    }
    return Written(folder, tokens)


def write_stacks(toy: Toy, folder: Path) -> Written:
    """Write a multi-channel OME-TIFF a site, which names its channels."""
    for (well, site), pixels in toy.fields.items():
        about = {"axes": "CYX", "Channel": {"Name": list(toy.channels)}, "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}
        write_tiff(folder / toy.plate / f"{well}_s{site}.ome.tif", pixels, toy.compression, ome=True, metadata=about)
    return Written(folder, {channel: str(number) for number, channel in enumerate(toy.channels)})


# Fields with a table.


def draw_light(toy: Toy) -> dict[str, np.ndarray]:
    """Draw an illumination function for each channel: 1 where it is dark, a whole number of eighths elsewhere."""
    columns = 1 + np.floor(np.arange(COLUMNS) / 12) / 8
    return {
        channel: np.broadcast_to(columns if number % 2 else columns[::-1], (ROWS, COLUMNS)).astype(np.float32)
        for number, channel in enumerate(toy.channels)
    }


def write_loaddata(
    toy: Toy,
    folder: Path,
    kind: Literal["csv", "parquet", "jump"],
    *,
    light: bool = False,
) -> Written:
    """Write images as Phenix names them and CellProfiler's LoadData table, with paths of another machine."""
    write_named(toy, folder / "images", "opera-phenix")
    rows = []
    for (well, site), centres in toy.centres.items():
        row: dict[str, Any] = {"Metadata_Plate": toy.plate, "Metadata_Well": well, "Metadata_Site": site}
        for number, channel in enumerate(toy.channels, start=1):
            path = Path("/home/ubuntu/bucket/2020_toy/images") / _name_phenix(toy.plate, well, site, number)
            row |= {f"FileName_Orig{channel}": path.name, f"PathName_Orig{channel}": f"{path.parent}/"}
            if light:
                row |= {
                    f"FileName_Illum{channel}": f"{toy.plate}_Illum{channel}.npy",
                    f"PathName_Illum{channel}": f"/home/ubuntu/bucket/2020_toy/illum/{toy.plate}",
                }
        if kind == "jump":
            names = ("Nuclei_Location_Center_X", "Nuclei_Location_Center_Y")
            row["CellCenters"] = [
                {"Nuclei_Number_Object_Number": number, names[0]: float(x), names[1]: float(y)}
                for number, (x, y) in enumerate(centres, start=1)
            ]
        rows.append(row)
    if light:
        (folder / "illum" / toy.plate).mkdir(parents=True)
        for channel, function in draw_light(toy).items():
            np.save(folder / "illum" / toy.plate / f"{toy.plate}_Illum{channel}.npy", function)
    stem = "load_data_with_illum" if light else "load_data"
    table = pd.DataFrame(rows)
    if kind == "csv":
        table.to_csv(folder / f"{stem}.csv", index=False)
    else:
        table.to_parquet(folder / f"{stem}{'_and_cell_location' if kind == 'jump' else ''}.parquet")
    return Written(folder, {channel: f"Orig{channel}" for channel in toy.channels})


def write_bbbc021(toy: Toy, folder: Path) -> Written:
    """Write images and an image table of BBBC021's shape, which tells the treatments too."""
    rows = []
    for (well, site), pixels in toy.fields.items():
        row: dict[str, Any] = {"TableNumber": 1, "ImageNumber": len(rows) + 1}
        for number, (channel, plane) in enumerate(zip(toy.channels, pixels, strict=True), start=1):
            path = Path("Week1") / _name_imagexpress(toy.plate, well, site, number)
            write_tiff(folder / "images" / path, plane, toy.compression)
            row |= {f"Image_FileName_{channel}": path.name, f"Image_PathName_{channel}": str(path.parent)}
        row |= {"Image_Metadata_Plate_DNA": toy.plate, "Image_Metadata_Well_DNA": well, "Replicate": 1}
        compound, dose = TREATMENTS[well]
        rows.append(row | {"Image_Metadata_Compound": compound, "Image_Metadata_Concentration": dose})
    pd.DataFrame(rows).to_csv(folder / "BBBC021_v1_image.csv", index=False)
    return Written(folder, {})


def write_project(toy: Toy, folder: Path) -> Written:
    """Write a DeepProfiler project: index, images, configuration, and a file of centres a site."""
    rows = []
    for (well, site), pixels in toy.fields.items():
        compound, dose = TREATMENTS[well]
        row: dict[str, Any] = {"Metadata_Plate": toy.plate, "Metadata_Well": well, "Metadata_Site": site}
        for number, (channel, plane) in enumerate(zip(toy.channels, pixels, strict=True), start=1):
            row[channel] = f"{toy.plate}/{well}_{site}_{number}.tif"
            write_tiff(folder / "inputs/images" / row[channel], plane, toy.compression)
        rows.append(row | {"Split": 0, "Treatment": f"{compound}_{dose}"})
    (folder / "inputs/metadata").mkdir()
    pd.DataFrame(rows).to_csv(folder / "inputs/metadata/index.csv", index=False)
    about = {"dataset": {"metadata": {"label_field": "Treatment"}, "images": {"channels": list(toy.channels)}}}
    (folder / "inputs/config").mkdir()
    (folder / "inputs/config/config.json").write_text(json.dumps(about))
    write_deepprofiler_centres(toy, folder / "inputs/locations")
    return Written(folder, {channel: channel for channel in toy.channels})


def write_ome_zarr(toy: Toy, folder: Path, version: Literal["0.4", "0.5"]) -> Written:
    """Write an OME-Zarr plate."""

    def tell(group: zarr.Group, about: Mapping[str, Any]) -> None:
        group.attrs.update({"ome": {"version": version, **about}} if version == "0.5" else about)

    place = folder / f"{toy.plate}.zarr"
    plate = zarr.open_group(str(place), mode="w", zarr_format=3 if version == "0.5" else 2)
    rows, columns = (
        sorted({part(well) for well in TREATMENTS}) for part in (lambda well: well[0], lambda well: well[1:])
    )
    listed = [
        {"path": f"{well[0]}/{well[1:]}", "rowIndex": rows.index(well[0]), "columnIndex": columns.index(well[1:])}
        for well in TREATMENTS
    ]
    named = {"rows": [{"name": row} for row in rows], "columns": [{"name": column} for column in columns]}
    tell(plate, {"plate": {"wells": listed, "version": version, **named}})
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    for well in TREATMENTS:
        opened = plate.require_group(f"{well[0]}/{well[1:]}")
        tell(opened, {"well": {"images": [{"path": str(site - 1)} for site in SITES]}})
        for site in SITES:
            image = opened.require_group(str(site - 1))
            channels = {"channels": [{"label": channel} for channel in toy.channels]}
            tell(image, {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}], "omero": channels})
            pixels = toy.fields[well, site]
            image.create_array("0", shape=pixels.shape, chunks=(1, 40, 50), dtype=pixels.dtype)[...] = pixels
    return Written(folder, {channel: channel for channel in toy.channels})


# Ready crops.


def write_strips(toy: Toy, folder: Path) -> Written:
    """Write the 2020 project's layout: a strip of channels a cell; centres are not told."""
    names = list(TREATMENTS)
    rows = []
    for _, cell in toy.cells().iterrows():
        plate, well, site, number, x, y = cell
        compound, dose = TREATMENTS[well]
        name = f"{plate}-{well}-s{site}-{number}.png"
        strip = np.concatenate(list(toy.crop(well, site, x, y)), axis=1)
        (folder / name).write_bytes(imagecodecs.png_encode(strip))
        rows.append((name, f"{compound}_{dose}", names.index(well)))
    pd.DataFrame(rows, columns=["Image_Name", "Class_Name", "Target"]).to_csv(folder / "sc-metadata.csv", index=False)
    return Written(folder, {}, (f"screen.channels=[{', '.join(toy.channels)}]",))


def write_h5sc(toy: Toy, folder: Path) -> Written:
    """Write scPortrait's files, one a well (its cells are numbered through): a mask, and channels from 0 to 1."""
    names = [b"seg_all_nucleus", *(channel.encode() for channel in toy.channels)]
    for well in TREATMENTS:
        crops = np.stack([toy.crop(well, site, x, y) for site in SITES for x, y in toy.centres[well, site]])
        shape = (len(crops), 1, CROP_PX, CROP_PX)
        images = np.concatenate([np.ones(shape), crops / np.iinfo(crops.dtype).max], axis=1)
        with h5py.File(folder / f"{toy.plate}_{well}.h5sc", "w") as file:
            file["obs/scportrait_cell_id"] = np.arange(1, len(crops) + 1)
            container = file.create_dataset("obsm/single_cell_images", data=images.astype(np.float32))
            kinds = [b"mask", *[b"image_channel"] * len(toy.channels)]
            container.attrs.update({"n_masks": 1, "channel_names": np.array(names), "channel_mapping": np.array(kinds)})
    return Written(folder, {channel: channel for channel in toy.channels})


# Where the cells are.


def write_own_centres(toy: Toy, path: Path) -> Path:
    """Write a table of x and y."""
    toy.cells().to_csv(path, index=False)
    return path


def _tell_images(toy: Toy, prefix: str = "") -> pd.DataFrame:
    rows = [(number, toy.plate, *place) for number, place in enumerate(toy.fields, start=1)]
    places = [f"{prefix}{name}" for name in ("Metadata_Plate", "Metadata_Well", "Metadata_Site")]
    return pd.DataFrame(rows, columns=["ImageNumber", *places])


def _tell_objects(toy: Toy, prefix: str = "", shift: float = 0.0) -> pd.DataFrame:
    cells = toy.cells()
    images = _tell_images(toy).merge(cells, on=["Metadata_Plate", "Metadata_Well", "Metadata_Site"])
    return pd.DataFrame(
        {
            "ImageNumber": images["ImageNumber"],
            "ObjectNumber": images["Metadata_Object"],
            f"{prefix}Location_Center_X": images["x"] + shift,
            f"{prefix}Location_Center_Y": images["y"] + shift,
            f"{prefix}AreaShape_Area": 113,
        }
    )


def write_cellprofiler(toy: Toy, path: Path) -> Path:
    """Write CellProfiler's export: a folder of CSV files, cells elsewhere than their nuclei."""
    path.mkdir()
    _tell_images(toy).to_csv(path / "MyExpt_Image.csv", index=False)
    _tell_objects(toy).to_csv(path / "MyExpt_Nuclei.csv", index=False)
    _tell_objects(toy, shift=7).to_csv(path / "MyExpt_Cells.csv", index=False)
    return path


def write_sqlite(toy: Toy, path: Path) -> Path:
    """Write CellProfiler's database."""
    base = sqlite3.connect(path)
    _tell_images(toy, "Image_").to_sql("MyExpt_Per_Image", base, index=False)
    _tell_objects(toy, "Nuclei_").to_sql("MyExpt_Per_Nuclei", base, index=False)
    _tell_objects(toy, "Cells_", shift=7).to_sql("MyExpt_Per_Cells", base, index=False)
    base.close()
    return path


def write_cytotable(toy: Toy, path: Path) -> Path:
    """Write CytoTable's Parquet: a row a cell, all joined."""
    cells = toy.cells()
    pd.DataFrame(
        {
            "Metadata_ImageNumber": 1,
            "Image_Metadata_Plate": cells["Metadata_Plate"],
            "Image_Metadata_Well": cells["Metadata_Well"],
            "Image_Metadata_Site": cells["Metadata_Site"].astype("str"),
            "Metadata_Nuclei_Number_Object_Number": cells["Metadata_Object"],
            "Cells_Location_Center_X": cells["x"] + 7,
            "Cells_Location_Center_Y": cells["y"] + 7,
            "Nuclei_Location_Center_X": cells["x"],
            "Nuclei_Location_Center_Y": cells["y"],
        }
    ).to_parquet(path)
    return path


def write_deepprofiler_centres(toy: Toy, path: Path) -> Path:
    """Write DeepProfiler's files of centres, one a site."""
    (path / toy.plate).mkdir(parents=True)
    for (well, site), centres in toy.centres.items():
        table = pd.DataFrame(centres, columns=["Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"])
        table.to_csv(path / toy.plate / f"{well}-{site}-Nuclei.csv", index=False)
    return path


def write_masks(toy: Toy, folder: Path) -> Path:
    """Write label masks of discs whose centres of mass are the cells' centres."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    for (well, site), centres in toy.centres.items():
        labels = np.zeros((ROWS, COLUMNS), dtype=np.uint16)
        for number, (x, y) in enumerate(centres, start=1):
            labels[np.hypot(columns - x, rows - y) <= DIAMETER_PX / 2] = number
        write_tiff(folder / toy.plate / f"{well}_s{site}_mask.tif", labels, "deflate")
    return folder
