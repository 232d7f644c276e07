"""What the settings of a folder may be: toys of every kind, and real plates."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from jaxtyping import UInt16
from scipy import ndimage

from cytoclr.config import (
    Bbbc021Settings,
    DeepProfilerSettings,
    ImagesSettings,
    LoadDataSettings,
    OmeZarrSettings,
    ScPortraitSettings,
    Settings,
    SingleCellSettings,
    read_settings,
)
from cytoclr.data.guess import Guess, Line, find_dna_channel, guess_settings, measure_blobs, write_config
from cytoclr.errors import DataError


def draw(seed: int, *, diameter: float = 20.0, top: int = 3000, size: int = 160) -> UInt16[np.ndarray, "2 row column"]:
    """Discs on a grid, and stripes: what DNA and filaments look like from afar."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    discs = np.zeros((size, size))
    for row in np.arange(28, size - 20, 36):
        for column in np.arange(28, size - 20, 36):
            y, x = row + rng.uniform(-3, 3), column + rng.uniform(-3, 3)
            discs[(rows - y) ** 2 + (columns - x) ** 2 <= (diameter / 2) ** 2] = 1
    stripes = np.sin((rows + columns) / 5) > 0.5
    both = np.stack([ndimage.gaussian_filter(plane.astype(float), 0.7) for plane in (discs, stripes)])
    noisy = 300 + both * (top - 300) * 0.9 + rng.normal(0, 10, both.shape)
    noisy[0, 28, 28] = top
    return np.clip(noisy, 0, top).astype(np.uint16)


def write_plates(folder: Path, names: Sequence[str], **about: Any) -> Path:
    """Write fields whose first channel is DNA; names have {w}, which the channel's number replaces."""
    for number, name in enumerate(names):
        for channel, plane in enumerate(draw(number, **about), start=1):
            path = folder / name.format(w=channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, plane)
    return folder


def plates(*names: str) -> list[str]:
    return [f"{name}/X_{well}_s{site}_w{{w}}.tif" for name in names for well in ("B02", "B03") for site in (1, 2)]


def settle(folder: Path, config: Path, **tables: Path) -> tuple[Guess, Settings]:
    """Guess, write, and read what was written."""
    guess = guess_settings(folder, metadata=tables.get("metadata"), mechanisms=tables.get("mechanisms"))
    config.write_text(write_config(guess), encoding="utf-8")
    return guess, read_settings(config)


def find(guess: Guess, key: str) -> Line:
    [line] = [line for line in guess.lines if line.key == key]
    return line


def test_named_files_with_a_plate_map(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("Week1_1", "Week1_2", "Week2_1"))
    (tmp_path / "map.csv").write_text("well_position,pert_iname,dose_um\nB02,DMSO,0\nB03,taxol,0.3\n")
    (tmp_path / "moa.csv").write_text("compound,moa\ntaxol,Microtubule\n")
    guess, settings = settle(
        folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv", mechanisms=tmp_path / "moa.csv"
    )
    screen = settings.screen
    assert find(guess, "columns").todo == ""
    assert isinstance(screen, ImagesSettings)
    assert (screen.folder, screen.template) == (folder, "imagexpress")
    assert screen.columns == {"well": "well_position", "compound": "pert_iname", "concentration": "dose_um"}
    assert screen.channels == {"DNA": "w1", "w2": "w2"}
    assert screen.controls == ("DMSO",)
    assert screen.batch_pattern == "^([^_]+)_"
    assert settings.crop.nuclei_channel == "DNA"
    assert settings.crop.nucleus_diameter_px == pytest.approx(20, abs=2.5)
    assert settings.crop.size_px == 8 * np.ceil(2.2 * settings.crop.nucleus_diameter_px / 8)
    assert settings.crop.illumination == "given"
    assert settings.evaluate.mechanisms == tmp_path / "moa.csv"
    text = (tmp_path / "c.yaml").read_text(encoding="utf-8")
    assert "template: imagexpress  # guessed: 24 of 24 image files fit" in text
    assert "# guessed: 3 plates in 2 batches: Week1, Week2" in text
    assert "# TODO: pixel_size_um" in text
    assert (
        "# Note: Images are stored in 16 bit, but the largest of 12 images is 3,000: is the camera's depth 12" in text
    )
    assert "w1 is DNA, the channel with the roundest objects" in find(guess, "channels").why


def test_without_a_map_what_is_missing_is_to_do(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"))
    guess, _ = settle(folder, tmp_path / "c.yaml")
    assert find(guess, "metadata").todo.startswith("the plate map")
    assert find(guess, "mechanisms").value is None
    assert find(guess, "batch_pattern").why == "there is one plate"
    assert not [line for line in guess.lines if line.key == "controls"]


def test_plates_that_share_nothing_are_batches_of_their_own(tmp_path: Path) -> None:
    guess, settings = settle(write_plates(tmp_path / "screen", plates("A_1", "B_1")), tmp_path / "c.yaml")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.batch_pattern == "^(.*)$"
    assert find(guess, "batch_pattern").why == "each of 2 plates is a batch"


@pytest.mark.parametrize(("top", "depth"), [(4095, 12), (16383, 14), (1023, 10), (65535, None), (9000, None)])
def test_the_bit_depth_is_that_of_saturated_pixels(tmp_path: Path, top: int, depth: int | None) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"), top=top)
    guess, settings = settle(folder, tmp_path / "c.yaml")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.bit_depth == depth
    assert len(guess.notes) == (top == 9000)


@pytest.mark.parametrize("diameter", [12.0, 30.0])
def test_the_crop_grows_with_the_nuclei(tmp_path: Path, diameter: float) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"), diameter=diameter)
    _, settings = settle(folder, tmp_path / "c.yaml")
    assert settings.crop.nucleus_diameter_px == pytest.approx(diameter, rel=0.15)


def test_people_who_name_files_are_understood(tmp_path: Path) -> None:
    names = [f"P1/{well}_s{site}_ch{{w}}.tif" for well in ("b2", "b3") for site in (1, 2)]
    _, settings = settle(write_plates(tmp_path / "screen", names), tmp_path / "c.yaml")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.template == "{plate}/{well}_s{site}_{channel}.tif"
    assert settings.screen.channels == {"DNA": "ch1", "ch2": "ch2"}


def test_of_several_planes_the_middle_one_is_kept(tmp_path: Path) -> None:
    names = [f"P/Images/r02c02f01p{plane:02d}-ch{{w}}sk1fk1fl1.tiff" for plane in (1, 2, 3)]
    guess, settings = settle(write_plates(tmp_path / "screen", names), tmp_path / "c.yaml")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.keep == {"plane": "02"}
    assert find(guess, "keep").why == "there are several, plane: 01, 02, 03"


def test_files_with_all_channels_are_named_by_planes(tmp_path: Path) -> None:
    for well in ("B02", "B03"):
        path = tmp_path / "screen" / "P" / f"{well}_s1.ome.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"axes": "CYX", "Channel": {"Name": ["Hoechst", "Actin"]}, "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}
        tifffile.imwrite(path, draw(1), ome=True, metadata=about)
    _, settings = settle(tmp_path / "screen", tmp_path / "c.yaml")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.channels == {"Hoechst": "0", "Actin": "1"}
    assert settings.screen.pixel_size_um == 0.65
    assert settings.crop.nuclei_channel == "Hoechst"


def test_many_fields_tell_the_light(tmp_path: Path) -> None:
    names = [f"P/{row}{column:02d}_s1_w{{w}}.tif" for row in "ABCDE" for column in range(1, 22)]
    folder = write_plates(tmp_path / "screen", names[:1])
    for name in names[1:]:
        for channel in (1, 2):
            (folder / name.format(w=channel)).write_bytes((folder / names[0].format(w=channel)).read_bytes())
    guess, settings = settle(folder, tmp_path / "c.yaml")
    assert settings.crop.illumination == "plate", guess.notes


def test_an_image_table_is_known(tiny_screen: Path) -> None:
    guess, settings = settle(tiny_screen, tiny_screen / "c.yaml")
    screen = settings.screen
    assert isinstance(screen, Bbbc021Settings)
    assert (screen.image_table, screen.images) == (tiny_screen / "image.csv", tiny_screen / "images")
    assert screen.controls == ("DMSO",)
    assert settings.crop.nuclei_channel == "DAPI"
    assert find(guess, "nuclei_channel").why == "by its name"
    assert find(guess, "images").why == "8 of 8 images of DAPI lie there"


def test_an_image_table_away_from_its_images_is_to_do(tiny_screen: Path) -> None:
    (tiny_screen / "images").rename(tiny_screen.parent / f"{tiny_screen.name}-away")
    guess, settings = settle(tiny_screen, tiny_screen / "c.yaml")
    assert isinstance(settings.screen, Bbbc021Settings)
    assert find(guess, "images").todo == "the folder of its images"
    assert any("sites" in note for note in guess.notes)


def test_loaddata_is_known(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"))
    rows = [
        {
            "FileName_OrigDNA": f"X_{well}_s{site}_w1.tif",
            "PathName_OrigDNA": str(folder / "P"),
            "FileName_OrigER": f"X_{well}_s{site}_w2.tif",
            "PathName_OrigER": str(folder / "P"),
            "Metadata_Plate": "P",
            "Metadata_Well": well,
            "Metadata_Site": site,
        }
        for well in ("B02", "B03")
        for site in (1, 2)
    ]
    pd.DataFrame(rows).to_csv(folder / "load_data.csv", index=False)
    guess, settings = settle(folder, tmp_path / "c.yaml")
    assert isinstance(settings.screen, LoadDataSettings)
    assert settings.screen.table == str(folder / "load_data.csv")
    assert settings.screen.images is None
    assert "DNA" in str(settings.crop.nuclei_channel), guess.notes


def test_folders_of_other_kinds_are_known(tmp_path: Path) -> None:
    (tmp_path / "zarr" / "P.zarr").mkdir(parents=True)
    (tmp_path / "zarr" / "P.zarr" / ".zattrs").write_text(json.dumps({"plate": {"wells": []}}))
    (tmp_path / "five" / "P.zarr").mkdir(parents=True)
    (tmp_path / "five" / "P.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"ome": {"plate": {}}}}))
    (tmp_path / "project" / "inputs" / "metadata").mkdir(parents=True)
    (tmp_path / "project" / "inputs" / "metadata" / "index.csv").write_text("Metadata_Plate,Metadata_Well\nP,B02\n")
    (tmp_path / "h5sc").mkdir()
    (tmp_path / "h5sc" / "P_B02.h5sc").touch()
    for name, kind in [
        ("zarr", OmeZarrSettings),
        ("five", OmeZarrSettings),
        ("project", DeepProfilerSettings),
        ("h5sc", ScPortraitSettings),
    ]:
        guess, settings = settle(tmp_path / name, tmp_path / "c.yaml")
        assert isinstance(settings.screen, kind)
        assert str(settings.screen.folder) == str(tmp_path / name)  # type: ignore[union-attr]
        assert guess.notes  # none of them can be opened, and that is said
    _, settings = settle(tmp_path / "zarr" / "P.zarr", tmp_path / "c.yaml")
    assert isinstance(settings.screen, OmeZarrSettings)
    assert settings.screen.folder == str(tmp_path / "zarr" / "P.zarr")


def test_a_map_that_does_not_fit_is_said(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"))
    (tmp_path / "map.csv").write_text("plate,well,compound,concentration\nQ,B02,DMSO,0\n")
    with pytest.raises(DataError, match="are not on the plate map"):
        guess_settings(folder, metadata=tmp_path / "map.csv", mechanisms=None)
    (tmp_path / "map.csv").write_text("plate,well,stuff\nP,B02,DMSO\n")
    guess, _ = settle(folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv")
    assert "name the columns of compound and concentration; there are plate, well, stuff" in find(guess, "columns").todo


def test_a_dose_without_a_unit_is_asked_after(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"))
    (tmp_path / "map.csv").write_text("barcode,well,drug,Metadata_dose\nP,B02,DMSO,0\nP,B03,x,1\n")
    guess, settings = settle(folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.columns == {"plate": "barcode", "compound": "drug", "concentration": "Metadata_dose"}
    assert find(guess, "columns").todo == "is Metadata_dose in µM?"
    (tmp_path / "map.csv").write_text("plate,well,drug,uM,control_type\nP,B02,buffer,0,negcon\nP,B03,x,1,trt\n")
    guess, settings = settle(folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv")
    assert find(guess, "columns").todo.startswith("name the columns of concentration")


def test_controls_are_told_by_name_or_by_their_type(tmp_path: Path) -> None:
    folder = write_plates(tmp_path / "screen", plates("P"))
    (tmp_path / "map.csv").write_text("well,compound,concentration,control_type\nB02,buffer,0,negcon\nB03,x,1,trt\n")
    guess, settings = settle(folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv")
    assert isinstance(settings.screen, ImagesSettings)
    assert settings.screen.controls == ("buffer",)
    assert find(guess, "controls").why == "the plate map's control type says negcon"
    (tmp_path / "map.csv").write_text("well,compound,concentration\nB02,buffer,0\nB03,x,1\n")
    guess, settings = settle(folder, tmp_path / "c.yaml", metadata=tmp_path / "map.csv")
    assert find(guess, "controls").todo == "the compounds of untreated wells; the plate map has buffer, x"


def test_what_is_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        guess_settings(tmp_path / "gone", metadata=None, mechanisms=None)
    (tmp_path / "photo.png").touch()
    with pytest.raises(DataError, match=r"no kind of screen that is known\. Found 1 image files, first: photo.png"):
        guess_settings(tmp_path, metadata=None, mechanisms=None)
    folder = write_plates(tmp_path / "screen", plates("P"))
    with pytest.raises(DataError, match=r"map\.csv: no such file"):
        guess_settings(folder, metadata=tmp_path / "map.csv", mechanisms=None)


def test_any_value_is_written_so_that_it_is_read_back(tmp_path: Path) -> None:
    odd = {"DNA": "1e-3", "null": "0", "a: b": "#c", "ü": 'say "x"', "on": "2020-01-01", "w, 2": "~"}
    lines = (
        Line("screen", "reader", "images"),
        Line("screen", "folder", str(tmp_path)),
        Line("screen", "template", "{plate}/{well}_*.tif", "a # sign\nand a line"),
        Line("screen", "channels", odd),
        Line("screen", "controls", ["DMSO", "0815", "true"]),
        Line("evaluate", "mechanisms", todo="later"),
    )
    (tmp_path / "c.yaml").write_text(write_config(Guess(lines, ("look",))), encoding="utf-8")
    screen = read_settings(tmp_path / "c.yaml").screen
    assert isinstance(screen, ImagesSettings)
    assert screen.channels == odd
    assert screen.controls == ("DMSO", "0815", "true")


def test_round_objects_are_measured() -> None:
    dna, stripes = draw(3, diameter=24.0)
    share, diameters = measure_blobs(dna)
    assert share > 0.9
    assert np.median(diameters) == pytest.approx(24, rel=0.1)
    assert measure_blobs(stripes)[0] < 0.3
    assert measure_blobs(np.zeros((32, 32), dtype=np.uint16))[0] == 0.0
    assert find_dna_channel({"w1": 0.1, "w2": 0.9})[0] == "w2"
    assert find_dna_channel({"ER": 0.9, "Hoechst 33342": 0.2})[0] == "Hoechst 33342"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("place", "token", "smallest", "largest"),
    [("nf1", "DAPI", 55, 80), ("pediatric_cancer_atlas", "ch5", 33, 50), ("bbbc021/fields", "w1", 30, 40)],
)
def test_real_plates(real_data: Path, tmp_path: Path, place: str, token: str, smallest: int, largest: int) -> None:
    _, settings = settle(real_data / place, tmp_path / "c.yaml")
    screen = settings.screen
    assert isinstance(screen, ImagesSettings)
    assert screen.channels is not None
    assert screen.channels[str(settings.crop.nuclei_channel)] == token
    assert smallest < settings.crop.nucleus_diameter_px < largest
    assert screen.pixel_size_um == (0.4963 if place.startswith("bbbc021") else None)


@pytest.mark.real_data
def test_real_ready_crops(real_data: Path, tmp_path: Path) -> None:
    _, settings = settle(real_data / "bbbc021" / "single-cell", tmp_path / "c.yaml")
    assert isinstance(settings.screen, SingleCellSettings)
    assert len(settings.screen.channels) == 3
    assert settings.screen.controls == ("DMSO",)
    assert settings.screen.batch_pattern == "^([^_]+)_"
