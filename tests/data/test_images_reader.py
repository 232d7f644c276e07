"""Sites by the names of their image files, as microscopes and people write them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from cytoclr.data.readers.images import (
    TEMPLATES,
    Fit,
    compile_template,
    find_files,
    find_repeats,
    find_templates,
    read_images,
)
from cytoclr.errors import DataError, SettingsError
from cytoclr.tables import SCREEN, SITE, channel_names, check_table

GUID = "E75611A2-A874-4065-BDAC-EE2467105EEB"
MEASURED = "__2020-11-05T19_51_35-Measurement 1"


def make(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def read(folder: Path, template: str, **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    told: dict[str, Any] = {
        "channels": None,
        "plate": None,
        "keep": {},
        "plates": None,
        "skip_missing": False,
        "metadata": None,
        "columns": {},
        "controls": ["DMSO"],
        "positive_controls": [],
        "batch_pattern": "^(.*)$",
    }
    return read_images(folder, template=template, **(told | changes))


@pytest.mark.parametrize(
    ("template", "name", "groups"),
    [
        ("imagexpress", "PLATE_X/TimePoint_1/N_A01_s1_w1.TIF", "PLATE_X A01 1 w1"),
        ("imagexpress", f"a/HCC15691/2015-07-31/4014/val screen_B02_s1_w3{GUID}.tif", "HCC15691 B02 1 w3"),
        ("imagexpress", f"2015-07-31/4014/val_B02_s1_w3{GUID}.tif", "- B02 1 w3"),
        ("imagexpress", "TimePoint_1/ZStep_2/A01_w2.tif", "- A01 - w2"),
        (
            "imagexpress",
            "Week2_24381/Week2_180607_B02_s2_w15E8615AC-20DC-42E7-978F-B7B6A60E77FC.tif",
            "Week2_24381 B02 2 w1",
        ),
        ("imagexpress", f"P/x_AF48_s12_w10{GUID}.tiff", "P AF48 12 w10"),
        ("imagexpress", "P/A01_s1_w1.tif", "P A01 1 w1"),
        ("imagexpress", f"P/A1_B02_s1_w1{GUID}.tif", "P B02 1 w1"),
        ("opera-phenix", f"a/BR00116991{MEASURED}/Images/r01c02f03p01-ch1sk1fk1fl1.tiff", "BR00116991 01/02 03 ch1"),
        ("opera-phenix", "Images/r16c24f003p01-ch12sk1fk1fl1.tiff", "- 16/24 003 ch12"),
        ("opera-phenix", "P_1/r01c02f03p01-ch1sk1.tiff", "P_1 01/02 03 ch1"),
        ("cellvoyager", "P1/Assay_Greiner_#655090_A01_T0001F002L01A03Z01C04.tif", "P1 A01 002 C04"),
        ("cellvoyager", "A01_T0001F002L01A03Z01C04.tif", "- A01 002 C04"),
        ("cytation", "plate 3/D6_01_1_2_DAPI_001.tif", "plate 3 D6 2 1"),
        ("cytation", "D6_-1_2_3Z4_Texas Red_001.tif", "- D6 3 2"),
        ("incell", "P1/A - 01(fld 1 wv DAPI - DAPI).tif", "P1 A/01 1 DAPI - DAPI"),
        ("incell", "H - 12(fld 07 wv Green - dsRed z 3).tif", "- H/12 07 Green - dsRed"),
        ("{plate}/{well}_s{site}_w{channel}.tif", "week/P1/b2_s1_w12.TIF", "P1 b2 1 12"),
        ("{plate}/{plate}_{well}_{site}_{stain}.png", "P1/P1_B-02_1_Texas Red.png", "P1 B-02 1 -"),
        ("{plate}_{row}_{column}-*.tif", "P_1_3_4-x.tif", "P_1 3/4 - -"),
        (r"(?P<Plate>.*)_(?P<Well>[A-P]\d\d)_(?P<channel>\w+)\.tif", "x/P1_B02_DNA.tif", "P1 B02 - DNA"),
    ],
)
def test_names_are_taken_apart(template: str, name: str, groups: str) -> None:
    match = compile_template(template).fullmatch(name)
    assert match is not None
    found = {word: text if text else "-" for word, text in match.groupdict().items()}
    well = found["well"] if "well" in found else f"{found['row']}/{found['column']}"
    told = [found.get("plate", "-"), well, found.get("site", "-"), found.get("channel", "-")]
    assert " ".join(told) == groups


def test_what_is_no_name_of_a_template_does_not_fit() -> None:
    for template, name in [
        ("imagexpress", "P/x_A01_s1_w1_thumb.tif"),
        ("imagexpress", f"P/x_A01_s1_w1_thumb{GUID}.tif"),
        ("opera-phenix", "r01c02f03p01-ch1.tiff"),
        ("cellvoyager", "DC_sCMOS #1_CAM1.tif"),
        ("{plate}/{plate}_{well}.tif", "P1/P2_B02.tif"),
        ("{well}.tif", "B02xtif"),
    ]:
        assert compile_template(template).fullmatch(name) is None


def test_texts_that_are_no_template_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"template 'phenix' is not known\. Expected one of imagexpress, opera"):
        compile_template("phenix")
    with pytest.raises(SettingsError, match=r"template '\{plate\}\.tif': it does not tell the well"):
        compile_template("{plate}.tif")
    with pytest.raises(SettingsError, match=r"not a regular expression \(missing \)"):
        compile_template("(?P<well>[A-P]")


def imagexpress(plates: Sequence[str], sites: int = 2, channels: int = 2) -> list[str]:
    return [
        f"{plate}/X_{well}_s{site}_w{channel}{GUID}.tif"
        for plate in plates
        for well in ("B02", "B03")
        for site in range(1, sites + 1)
        for channel in range(1, channels + 1)
    ]


def test_files_become_sites(tmp_path: Path) -> None:
    folder = make(
        tmp_path, [*imagexpress(["W1_10", "W1_9"]), "W1_9/._X_B02_s1_w1.tif", ".trash/X_B02_s1_w1.tif", "a.csv"]
    )
    screen, left_out = read(folder, "imagexpress", batch_pattern="^(W[0-9])")
    check_table(screen, SCREEN, "screen")
    assert len(screen) == 8
    assert left_out.empty
    assert channel_names(screen) == ["w1", "w2"]
    assert set(screen["Metadata_Batch"]) == {"W1"}
    for row in screen.to_dict("records"):
        for channel in ("w1", "w2"):
            name = f"X_{row['Metadata_Well']}_s{row['Metadata_Site']}_{channel}{GUID}.tif"
            assert row[f"Path_{channel}"] == str(tmp_path / str(row["Metadata_Plate"]) / name)
    assert screen[SITE].equals(screen[SITE].sort_values(SITE))


def test_channels_are_those_asked_for_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path, imagexpress(["P"], channels=11))
    with caplog.at_level(logging.INFO):
        screen, _ = read(folder, "imagexpress", channels={"Actin": "w11", "DNA": "1"})
    assert channel_names(screen) == ["Actin", "DNA"]
    assert screen["Path_Actin"].str.contains("_w11E").all()
    assert screen["Path_DNA"].str.contains("_w1E").all()
    assert "the channels w2, w3" in caplog.text
    assert channel_names(read(folder, "imagexpress")[0])[1:3] == ["w2", "w3"]
    with pytest.raises(DataError, match=r"no channel w12, asked for as DNA\. The names have w1, w2, w3") as caught:
        read(folder, "imagexpress", channels={"DNA": "w12"})
    assert caught.value.code == "NAME004"
    with pytest.raises(DataError, match="DNA and Actin are both w1"):
        read(folder, "imagexpress", channels={"DNA": "w1", "Actin": "1"})


def test_sites_without_a_channel_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path, imagexpress(["P"]))
    (folder / f"P/X_B03_s2_w2{GUID}.tif").unlink()
    with pytest.raises(DataError, match=r"1 of 4 sites lack an image file, first: P B03 s2 \(w2\)\. Pass") as caught:
        read(folder, "imagexpress")
    assert caught.value.code == "IMG001"
    screen, left_out = read(folder, "imagexpress", skip_missing=True)
    assert len(screen) == 3
    assert left_out.to_numpy().tolist() == [["P", "B03", 2, "no image file: w2"]]
    assert len(read(folder, "imagexpress", channels={"DNA": "w1"})[0]) == 4
    apart = make(tmp_path / "apart", ["P/B02_s1_w1.tif", "P/B02_s2_w2.tif"])
    with pytest.raises(DataError, match=r"2 of 2 sites lack .* No site has all of them"):
        read(apart, "imagexpress", skip_missing=True)


def test_files_that_do_not_fit_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path, [*imagexpress(["P"]), "P/X_B02_s1_w1_thumb.tif", "P/overview.png", "P/notes.txt"])
    with caplog.at_level(logging.INFO):
        read(folder, "imagexpress")
    assert "1 of 10 image files do not fit the template imagexpress and are left aside: P/overview.png" in caplog.text
    assert "(NAME002)" in caplog.text
    assert "1 thumbnails are left aside" in caplog.text


def test_when_nothing_fits_what_would_is_told(tmp_path: Path) -> None:
    folder = make(tmp_path, imagexpress(["P"]))
    with pytest.raises(
        DataError, match=r"none of 8 image files fits the template cytation, first: P/X_B02_s1_w1E"
    ) as e:
        read(folder, "cytation")
    assert "These templates fit: imagexpress (8)." in str(e.value)
    assert e.value.code == "NAME001"
    odd = make(tmp_path / "odd", ["one.tif"])
    with pytest.raises(DataError, match=r"first: one.tif\. No named template fits either: write a pattern"):
        read(odd, "cytation")
    with pytest.raises(DataError, match=r"no image file \(\.tif, \.tiff, \.png\)"):
        read(make(tmp_path / "none", ["a.txt"]), "cytation")
    with pytest.raises(DataError, match="gone: no such folder"):
        read(tmp_path / "gone", "cytation")


def test_several_planes_of_a_site_want_a_choice(tmp_path: Path) -> None:
    names = [f"P{MEASURED}/Images/r02c02f01p{p:02d}-ch{c}sk1fk1fl1.tiff" for p in (1, 2, 10) for c in (1, 2)]
    folder = make(tmp_path, names)
    with pytest.raises(
        DataError, match=r"6 of 6 files stand for the same .*: P B02 s1 ch1: .*p01-ch1.* and .*p02"
    ) as e:
        read(folder, "opera-phenix")
    assert 'They differ in plane; plane is 01, 02, 10. Choose one: screen.keep: {plane: "01"}.' in str(e.value)
    assert e.value.code == "NAME003"
    assert find_repeats(folder, template="opera-phenix") == {"plane": ["01", "02", "10"]}
    screen, _ = read(folder, "opera-phenix", keep={"plane": "2"})
    assert screen["Path_ch1"].str.contains("p02").all()
    with pytest.raises(DataError, match=r"no file has the plane 3\. Found: 01, 02, 10"):
        read(folder, "opera-phenix", keep={"plane": "3"})
    with pytest.raises(SettingsError, match=r"keep: the template opera-phenix has no depth\. Expected some of plate"):
        read(folder, "opera-phenix", keep={"depth": "3"})


def test_plates_that_the_template_does_not_tell_are_not_mixed(tmp_path: Path) -> None:
    folder = make(tmp_path, ["P1/B02_1.tif", "P2/B02_1.tif"])
    with pytest.raises(DataError, match=r"Nothing in the template tells them apart: .* Add \{plate\}/\."):
        read(folder, "{well}_{channel}.tif")
    assert read(folder, "{plate}/{well}_{channel}.tif")[0]["Metadata_Plate"].tolist() == ["P1", "P2"]


def test_a_plate_goes_by_the_template_the_setting_or_the_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / f"P7{MEASURED}" / "Images", ["r02c02f01p01-ch1sk1fk1fl1.tiff"])
    assert read(folder, "opera-phenix")[0]["Metadata_Plate"].tolist() == ["P7"]
    assert read(folder, "opera-phenix", plate="P8")[0]["Metadata_Plate"].tolist() == ["P8"]
    assert read(tmp_path, "opera-phenix", plate="P8")[0]["Metadata_Plate"].tolist() == ["P7"]


def test_only_the_plates_asked_for_are_read(tmp_path: Path) -> None:
    folder = make(tmp_path, imagexpress(["P1", "P2"]))
    assert set(read(folder, "imagexpress", plates=["P2"])[0]["Metadata_Plate"]) == {"P2"}
    with pytest.raises(DataError, match=r"no plate P3\. Known plates: P1, P2\.") as caught:
        read(folder, "imagexpress", plates=["P2", "P3"])
    assert caught.value.code == "META008"


def test_a_site_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, ["B02_left_1.tif", "B02_2_1.tif"])
    with pytest.raises(
        DataError, match=r"the site of 1 of 2 files is no whole number, first: B02_left_1.tif \('left'\)"
    ):
        read(folder, "{well}_{site}_{channel}.tif")


def test_a_stain_names_the_channel(tmp_path: Path) -> None:
    names = [f"B2_01_{number}_{site}_{stain}_001.tif" for site in (1, 2) for number, stain in ((1, "DAPI"), (2, "RFP"))]
    folder = make(tmp_path, names)
    assert channel_names(read(folder, "cytation")[0]) == ["DAPI", "RFP"]
    make(folder, ["B2_01_3_1_RFP_001.tif"])
    with pytest.raises(DataError, match=r'They differ in channel; channel is 2, 3\. .* \{channel: "2"\}'):
        read(folder, "cytation")


def test_wells_without_sites_have_one(tmp_path: Path) -> None:
    screen, _ = read(make(tmp_path, ["P/B2_DNA.png", "P/B2_ER.png"]), "{plate}/{well}_{channel}.png")
    assert screen[["Metadata_Well", "Metadata_Site"]].to_numpy().tolist() == [["B02", 1]]


def write_ome(path: Path, names: list[str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = np.zeros((2, 16, 16), dtype=np.uint16)
    about = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(path, planes, ome=True, metadata=about)


def test_files_with_all_channels_have_planes(tmp_path: Path) -> None:
    for well in ("B02", "B03"):
        write_ome(tmp_path / f"P/{well}_s1.ome.tif", ["Hoechst", "Actin"])
    template = "{plate}/{well}_s{site}.ome.tif"
    screen, _ = read(tmp_path, template)
    assert channel_names(screen) == ["Hoechst", "Actin"]
    assert screen["Plane_Actin"].tolist() == [1, 1]
    assert (screen["Path_Hoechst"] == screen["Path_Actin"]).all()
    screen, _ = read(tmp_path, template, channels={"F": "Actin"})
    assert screen["Plane_F"].tolist() == [1, 1]
    screen, _ = read(tmp_path, template, channels={"F": "1", "DNA": "0"})
    assert (channel_names(screen), screen["Plane_DNA"].tolist()) == (["F", "DNA"], [0, 0])
    with pytest.raises(DataError, match=r"no channel ER\. It has Hoechst, Actin"):
        read(tmp_path, template, channels={"ER": "ER"})


def test_files_that_do_not_name_their_channels_want_them_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "B02.tif", np.zeros((2, 16, 16), np.uint16), photometric="minisblack", metadata=None)
    with pytest.raises(DataError, match=r'the file does not name its own\. .* screen.channels: \{DNA: "0"'):
        read(tmp_path, "{well}.tif")


def test_sites_of_empty_wells_and_missing_files_are_listed_together(tmp_path: Path) -> None:
    folder = make(tmp_path / "images", imagexpress(["P"], sites=1))
    make(folder, [f"P/X_B02_s2_w1{GUID}.tif"])
    (tmp_path / "map.csv").write_text("well,compound,concentration\nB2,DMSO,0\nB3,,\n")
    screen, left_out = read(folder, "imagexpress", metadata=tmp_path / "map.csv", skip_missing=True)
    assert screen["Metadata_control_type"].tolist() == ["negcon"]
    assert left_out["reason"].tolist() == ["no image file: w2", "empty well on the plate map"]


def test_templates_are_ranked(tmp_path: Path) -> None:
    folder = make(tmp_path, [*imagexpress(["P"]), "P/D6_01_1_2_DAPI_001.tif", "P/X_B02_s1_w1_thumb.tif"])
    assert find_templates(folder) == [Fit("imagexpress", 8, 9), Fit("cytation", 1, 9)]
    assert find_templates(make(tmp_path / "none", ["a.tif"])) == []


def test_a_link_upwards_is_not_followed(tmp_path: Path) -> None:
    folder = make(tmp_path, ["P/B02_1.tif"])
    (folder / "P" / "again").symlink_to(folder, target_is_directory=True)
    assert find_files(folder) == ["P/B02_1.tif"]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("place", "template", "plate", "wells", "channels"),
    [
        ("nf1/images", "cytation", "nf1", ["B07", "D06", "D07", "F07", "H12"], ["DAPI", "GFP", "RFP"]),
        (
            "pediatric_cancer_atlas/images",
            "opera-phenix",
            "pediatric_cancer_atlas",
            ["C03"],
            ["ch1", "ch2", "ch3", "ch4", "ch5", "ch6"],
        ),
        ("bbbc021/fields", "imagexpress", "Week2_24381", ["B02", "B02"], ["w1", "w2", "w4"]),
    ],
)
def test_real_folders_are_read(
    real_data: Path, place: str, template: str, plate: str, wells: list[str], channels: list[str]
) -> None:
    assert find_templates(real_data / place)[0].template == template
    screen, left_out = read(real_data / place, template, skip_missing=True)
    assert set(screen["Metadata_Plate"]) == {plate}
    assert screen["Metadata_Well"].tolist() == wells
    assert channel_names(screen) == channels
    assert left_out["reason"].tolist() == (["no image file: w4"] if "bbbc021" in place else [])
    assert all(Path(path).is_file() for path in screen.filter(regex="^Path_").to_numpy().ravel())


def test_every_named_template_is_one() -> None:
    for template in TEMPLATES:
        assert compile_template(template).groups >= 4
