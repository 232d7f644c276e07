"""DeepProfiler projects, as a toy writes them."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from cytoclr.data.images import read_field
from cytoclr.data.readers.deepprofiler_project import read_project
from cytoclr.errors import DataError
from cytoclr.tables import channel_names


def write_project(
    folder: Path,
    *,
    labels: Sequence[str] = ("DMSO_0.0", "taxol_0.3"),
    label_field: str = "Class_Name",
    config: bool = True,
) -> pd.DataFrame:
    """Write a project of one plate, two wells of two sites; return its index."""
    rows = []
    for well, label in zip(("b02", "b03"), labels, strict=True):
        for site in (1, 2):
            row = {"Metadata_Plate": "00123", "Metadata_Well": well, "Metadata_Site": f"s{site}", "Replicate": "1"}
            for number, channel in enumerate(("Tubulin", "DNA")):
                name = f"00123/{well}_s{site}_w{number}.tif"
                row[channel] = name
                path = folder / "inputs/images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, np.full((8, 8), 10 * site + number, np.uint16))
            rows.append({**row, "Split": "0", "Class_Name": label})
    index = pd.DataFrame(rows)
    write_index(folder, index)
    if config:
        about = {"dataset": {"metadata": {"label_field": label_field}, "images": {"channels": ["DNA", "Tubulin"]}}}
        (folder / "inputs/config").mkdir(parents=True)
        (folder / "inputs/config/config.json").write_text(json.dumps(about))
    return index


def write_index(folder: Path, index: pd.DataFrame) -> None:
    (folder / "inputs/metadata").mkdir(parents=True, exist_ok=True)
    index.to_csv(folder / "inputs/metadata/index.csv", index=False)


def read(folder: Path, **changes: object) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    return read_project(folder, **{**words, **changes})


def test_the_index_is_a_screen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_project(tmp_path)
    sites, left_out = read(tmp_path)
    assert left_out.empty
    assert channel_names(sites) == ["DNA", "Tubulin"]  # the configuration's order
    assert sites["Metadata_Well"].tolist() == ["B02", "B02", "B03", "B03"]
    assert sites["Metadata_Site"].tolist() == [1, 2, 1, 2]
    assert sites["Metadata_Plate"].unique().tolist() == ["00123"]
    assert sites["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "taxol", "taxol"]
    assert sites["Metadata_Concentration"].tolist() == [0, 0, 0.3, 0.3]
    assert sites["Metadata_control_type"].tolist() == ["negcon", "negcon", "trt", "trt"]
    assert "Class_Name is read as compound_concentration" in caplog.text
    field = read_field({name: sites.loc[3, f"Path_{name}"] for name in ("DNA", "Tubulin")})
    assert field[:, 0, 0].tolist() == [21, 20]


def test_without_a_configuration_channels_are_the_columns_of_images(tmp_path: Path) -> None:
    write_project(tmp_path, config=False)
    sites, _ = read(tmp_path, channels={"actin": "dna"}, columns={"compound": "Class_Name"})
    assert channel_names(sites) == ["actin"]
    assert sites["Metadata_Compound"].tolist() == ["DMSO_0.0"] * 2 + ["taxol_0.3"] * 2
    sites, _ = read(tmp_path, columns={"compound": "Class_Name"})
    assert channel_names(sites) == ["Tubulin", "DNA"]
    with pytest.raises(DataError, match=r"no channel RNA, asked for as RNA\. It has Tubulin, DNA") as refusal:
        read(tmp_path, channels={"RNA": "RNA"})
    assert refusal.value.code == "NAME004"


def test_labels_that_are_no_concentrations_are_compounds(tmp_path: Path) -> None:
    write_project(tmp_path, labels=("DMSO", "TP53_1"))
    sites, _ = read(tmp_path)
    assert sites["Metadata_Compound"].tolist() == ["DMSO"] * 2 + ["TP53_1"] * 2


def test_a_plate_map_comes_first(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "map.csv").write_text("Metadata_Well,name,dose\nB02,water,0\nB03,,\n")
    sites, left_out = read(
        tmp_path,
        metadata=tmp_path / "map.csv",
        columns={"compound": "name", "concentration": "dose"},
        controls=["water"],
    )
    assert sites["Metadata_Compound"].tolist() == ["water", "water"]
    assert left_out["reason"].tolist() == ["empty well on the plate map"] * 2


def test_missing_images(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "inputs/images/00123/b03_s1_w1.tif").unlink()
    with pytest.raises(
        DataError, match=r"1 of 4 sites lack an image, first: 00123 B03 s1 \(no image file: DNA\)\. Pass --skip-missing"
    ) as refusal:
        read(tmp_path)
    assert refusal.value.code == "IMG001"
    sites, left_out = read(tmp_path, skip_missing=True)
    assert len(sites) == 3
    assert left_out.to_numpy().tolist() == [["00123", "B03", 1, "no image file: DNA"]]
    (tmp_path / "inputs/images/00123").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"4 of 4 sites lack an image.*Correct the path"):
        read(tmp_path, skip_missing=True)
    (tmp_path / "inputs/images").rename(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no such folder\. Expected the project's images"):
        read(tmp_path)


def test_rows_that_repeat(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = write_project(tmp_path)
    write_index(tmp_path, pd.concat([index, index.iloc[[1]]]))
    sites, _ = read(tmp_path)
    assert len(sites) == 4
    assert "1 rows repeat another" in caplog.text
    write_index(tmp_path, pd.concat([index, index.iloc[[1]].assign(DNA="00123/b03_s1_w1.tif")]))
    with pytest.raises(DataError, match="2 rows share their site with another and differ") as refusal:
        read(tmp_path)
    assert refusal.value.code == "META005"


def test_a_configuration_of_other_columns_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_project(tmp_path)
    other = {"dataset": {"images": {"channels": ["RNA"]}}}
    (tmp_path / "inputs/config/a.json").write_text(json.dumps(other))
    (tmp_path / "inputs/config/b.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        sites, _ = read(tmp_path)
    assert channel_names(sites) == ["DNA", "Tubulin"]
    assert "a.json: its channels RNA are not in the index" in caplog.text
    (tmp_path / "inputs/config/a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not a readable configuration"):
        read(tmp_path)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.csv: no such file\. Expected the folder of a DeepProfiler project"):
        read(tmp_path)
    index = write_project(tmp_path)
    with pytest.raises(DataError, match=r"no plate 7\. Known plates: 00123"):
        read(tmp_path, plates=["7"])
    cases = (
        (index.drop(columns="Metadata_Site"), "META", "no column of the site"),
        (index.assign(Metadata_Site="left"), "META003", "Metadata_Site has no number in 4 of 4 rows.*'left'"),
        (index.assign(DNA="../../secret.tif"), "NAME006", "leaves the images' folder"),
        (index.iloc[:0], "META001", "the index has no rows"),
    )
    for table, code, match in cases:
        write_index(tmp_path, table)
        with pytest.raises(DataError, match=match) as refusal:
            read(tmp_path)
        assert refusal.value.code.startswith(code) or code == "META"
    (tmp_path / "inputs/config/config.json").unlink()
    write_index(tmp_path, index.assign(DNA="x", Tubulin="y"))
    with pytest.raises(DataError, match="no column with only names of images"):
        read(tmp_path)
