"""Ready crops as DeepProfiler's export writes them; those of the 2020 project are in `test_readers`."""

from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from jaxtyping import UInt8

from cytoclr.config import SingleCellSettings, read_settings
from cytoclr.data.guess import guess_settings, write_config
from cytoclr.data.images import ends_in_mask, read_strip
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.errors import DataError

CENTRES = [(310.5, 42.0), (12.0, 600.25), (77.0, 78.0)]


def stretch(seed: int, *, size: int, channels: int, mask: bool) -> UInt8[np.ndarray, "channel height width"]:
    """Draw a crop whose channels go from 0 to 255 each, and a round mask behind them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (channels + mask, size, size)).astype(np.uint8)
    pixels[:, 0, :2] = 0, 255
    if mask:
        rows, columns = np.mgrid[:size, :size]
        pixels[-1] = 255 * (np.hypot(rows - size / 2, columns - size / 2) < size / 3)
    return pixels


def write_export(
    folder: Path,
    *,
    labels: Sequence[str] = ("DMSO_0.0", "NA_0.3"),
    field: str = "Treatment",
    site: str = "{}",
    mask: bool = False,
    split: bool = True,
) -> pd.DataFrame:
    """Write what ``export-sc`` writes of two wells with two sites each, three cells a site; return its table."""
    rows = []
    for target, (well, label) in enumerate(zip(("b02", "B03"), labels, strict=True)):
        for number in (1, 2):
            key = f"00123/{well}/{site.format(number)}"
            for x, y in CENTRES:
                row: dict[str, object] = {"Nuclei_Location_Center_X": x, "Nuclei_Location_Center_Y": y}
                row |= {"Key": key, "Target": target, field: label}
                name = f"{key}/{target}@{x}x{y}.png"
                rows.append(row | ({"Split": 0} if split else {}) | {"Image_Name": name})
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                crop = stretch(len(rows), size=16, channels=2, mask=mask)
                (folder / name).write_bytes(imagecodecs.png_encode(np.concatenate(list(crop), axis=1)))
    table = pd.DataFrame(rows)
    table.to_csv(folder / "sc-metadata.csv", index=False)
    return table


def read(folder: Path) -> pd.DataFrame:
    return read_single_cells(folder / "sc-metadata.csv", controls=("DMSO",), batch_pattern="^(.*)$")


@pytest.mark.parametrize("field", ["Treatment", "Class_Name"])
@pytest.mark.parametrize(("site", "split"), [("{}", True), ("s{}", False)])
def test_the_table_of_an_export(tmp_path: Path, field: str, site: str, split: bool) -> None:
    write_export(tmp_path, field=field, site=site, split=split)
    cells = read(tmp_path)
    assert cells["Metadata_CellID"].tolist()[:4] == [f"00123_B02_1_{n}" for n in (1, 2, 3)] + ["00123_B02_2_1"]
    assert cells["Metadata_Compound"].tolist() == ["DMSO"] * 6 + ["NA"] * 6
    assert cells["Metadata_Concentration"].tolist() == [0.0] * 6 + [0.3] * 6
    assert cells["Metadata_control_type"].tolist() == ["negcon"] * 6 + ["trt"] * 6
    assert list(zip(cells["x"], cells["y"], strict=True)) == CENTRES * 4
    found, left_out = find_strips(cells, tmp_path, skip_missing=False)
    assert left_out.empty
    crops = [read_strip(Path(path), ("DNA", "ER")) for path in found["Path_Crop"]]
    np.testing.assert_array_equal(crops[4], stretch(5, size=16, channels=2, mask=False))


def test_labels_that_are_no_concentrations_are_compounds(tmp_path: Path) -> None:
    write_export(tmp_path, labels=("DMSO", "TP53"))
    cells = read(tmp_path)
    assert cells["Metadata_Compound"].unique().tolist() == ["DMSO", "TP53"]
    assert cells["Metadata_Concentration"].unique().tolist() == [0.0]


def test_a_mask_behind_the_channels_is_left_out(tmp_path: Path) -> None:
    write_export(tmp_path, mask=True)
    path = tmp_path / "00123/b02/1/0@310.5x42.0.png"
    assert ends_in_mask(path)
    np.testing.assert_array_equal(read_strip(path, ("DNA", "ER")), stretch(1, size=16, channels=2, mask=False))
    with pytest.raises(DataError, match=r"48x16 px\. Expected 1 square channels side by side \(DNA\): 16x16 px"):
        read_strip(path, ("DNA",))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.full((4, 12), 7, dtype=np.uint8)))
    assert not ends_in_mask(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"12x4 px\. Expected 2 square channels"):
        read_strip(tmp_path / "a.png", ("DNA", "ER"))
    # in 16 bit there are no such masks
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.full((4, 12), 255, dtype=np.uint16)))
    assert not ends_in_mask(tmp_path / "a.png")


def test_cells_of_one_centre_are_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_export(tmp_path)
    pd.concat([table, table.iloc[[0]]]).to_csv(tmp_path / "sc-metadata.csv", index=False)
    assert len(read(tmp_path)) == 12
    assert "1 of 13 rows repeat another's image" in caplog.text


def test_crops_that_were_not_written_are_listed(tmp_path: Path) -> None:
    write_export(tmp_path)
    (tmp_path / "00123/B03/2/1@77.0x78.0.png").unlink()
    with pytest.raises(DataError, match=r"1 of 12 crops have no image file, first: 00123/B03/2/1@77.0x78.0.png"):
        find_strips(read(tmp_path), tmp_path, skip_missing=False)
    found, left_out = find_strips(read(tmp_path), tmp_path, skip_missing=True)
    assert (len(found), left_out.iloc[0].tolist()) == (11, ["00123", "B03", 2, 3, "no image file"])


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "00123/B03/2/1@12",
            "00123/B03/1@12",
            r"Image_Name cannot be read in 1 of 12 rows, first in row 11: found '00123/B03/1@12.* expected PLATE/WELL",
        ),
        (
            "Treatment,Split,Image_Name",
            "Image_Name,Split,Treatment",
            r"lacks the label's column \(Class_Name, or the one behind Target\)",
        ),
        ("00123/B03/2,1,", "00123/B03/2,0,", r"Treatment 'NA_0.3' stands with Target 1, 0"),
        ("00123/B03/2/", "00123/B02/2/", r"more than one treatment, first: 00123 B02"),
        ("00123/B03/2/1@12", "../B03/2/1@12", r"the image name '../B03/2/1@12.* leaves the images' folder"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, old: str, new: str, match: str) -> None:
    write_export(tmp_path)
    path = tmp_path / "sc-metadata.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=match):
        find_strips(read(tmp_path), tmp_path, skip_missing=False)


@pytest.mark.parametrize("mask", [False, True])
def test_an_export_is_recognised(tmp_path: Path, mask: bool) -> None:
    folder = tmp_path / "single-cells"
    folder.mkdir()
    write_export(folder, mask=mask)
    (tmp_path / "c.yaml").write_text(
        write_config(guess_settings(tmp_path, metadata=None, mechanisms=None)), encoding="utf-8"
    )
    settings = read_settings(tmp_path / "c.yaml")
    assert isinstance(settings.screen, SingleCellSettings)
    assert (settings.screen.table, settings.screen.images) == (folder / "sc-metadata.csv", folder)
    assert settings.screen.channels == ("channel1", "channel2")
    assert settings.crop.intensity == "full-range"
