"""What a check finds: every finding is provoked by files that are broken so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

from cytoclr.config import check_settings
from cytoclr.data.checks import Checked, Finding, check_screen, check_source
from cytoclr.data.sampling import choose_sample
from cytoclr.data.sources import Source, open_screen

PLATES = ("Week1_101", "Week2_202")
WELLS = {"B02": "DMSO", "B03": "DMSO", "B04": "DMSO", "C02": "taxol", "C03": "ALLN"}
CHANNELS = ("DAPI", "Tubulin")
HEIGHT, WIDTH, DIAMETER = 160, 240, 22
CENTRES = [(40 + 40 * column, 40 + 40 * row) for row in range(3) for column in range(5)]


def draw_field(rng: np.random.Generator, diameter: float = DIAMETER) -> np.ndarray:
    """A dozen nuclei on a background, with noise."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    field = np.full((HEIGHT, WIDTH), 300.0)
    for x, y in CENTRES:
        x, y = x + rng.uniform(-4, 4), y + rng.uniform(-4, 4)
        field += 3000 * np.clip(diameter / 2 + 0.5 - np.hypot(columns - x, rows - y), 0, 1)
    return (field + rng.normal(0, 15, field.shape)).astype(np.uint16)


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """Two plates of five wells with two channels, an image table, a plate map, mechanisms and locations."""
    rng = np.random.default_rng(5)
    rows, centres = [], []
    for plate in PLATES:
        for well, compound in WELLS.items():
            row = {"Image_Metadata_Plate_DAPI": plate, "Image_Metadata_Well_DAPI": well}
            row |= {"Image_Metadata_Compound": compound, "Image_Metadata_Concentration": str(int(compound != "DMSO"))}
            for number, channel in enumerate(CHANNELS, start=1):
                path = tmp_path / "images" / plate / f"{well}_s1_w{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, draw_field(rng))
                row |= {f"Image_FileName_{channel}": path.name, f"Image_PathName_{channel}": plate}
            rows.append(row)
            centres += [(plate, well, 1, number, x, y) for number, (x, y) in enumerate(CENTRES, start=1)]
    pd.DataFrame(rows).to_csv(tmp_path / "image.csv", index=False)
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object", "x", "y"]
    pd.DataFrame(centres, columns=names).to_csv(tmp_path / "locations.csv", index=False)
    (tmp_path / "moa.csv").write_text("compound,concentration,moa\ntaxol,1,microtubules\nALLN,1,proteasome\n")
    wells = [
        f"{plate},{well},{compound},{int(compound != 'DMSO')}" for plate in PLATES for well, compound in WELLS.items()
    ]
    (tmp_path / "map.csv").write_text("\n".join(["plate,well,compound,concentration", *wells]) + "\n")
    return tmp_path


BBBC021 = {"reader": "bbbc021", "image_table": "image.csv", "images": "images"}
IMAGES = {
    "reader": "images",
    "folder": "images",
    "template": "{plate}/{well}_s{site}_w{channel}.tif",
    "metadata": "map.csv",
    "channels": {"DAPI": "1", "Tubulin": "2"},
    "batch_pattern": "^([^_]+)_",
}


def check(folder: Path, changes: dict[str, Any] | None = None, **more: Any) -> Checked:
    values = {"screen": BBBC021, "evaluate": {"mechanisms": "moa.csv"}}
    settings = check_settings(values, source="test", folder=folder, changes=changes or {})
    return check_screen(
        settings,
        screen=settings.screen,
        locations=settings.crop.locations,
        mechanisms=settings.evaluate.mechanisms,
        folder=folder / "runs" / "new",
        **more,
    )


def find(checked: Checked, code: str, sentence: str = "") -> Finding:
    found = [finding for finding in checked.findings if finding.code == code and sentence in finding.message]
    assert len(found) == 1, [f"{finding.code} {finding.message}" for finding in checked.findings]
    return found[0]


@pytest.mark.parametrize("changes", [{}, {"crop.locations": "locations.csv"}, {"screen": IMAGES}])
def test_a_clean_screen_has_no_finding_but_what_it_will_take(screen: Path, changes: dict[str, Any]) -> None:
    checked = check(screen, changes)
    assert [finding.code for finding in checked.findings] == ["DISK001"], checked.findings
    assert (checked.num_looked_at, checked.num_rows, checked.num_plates) == (10, 10, 2)
    assert not (screen / "runs").exists()
    # 15 cells a site at 10 sites, 64 px, 2 channels of 16 bit
    assert find(checked, "DISK001").message.startswith("150 crops")
    assert "will take some 2.46 MB" in find(checked, "DISK001").message


def image(folder: Path, well: str = "B03", channel: int = 1, plate: str = PLATES[0]) -> Path:
    return folder / "images" / plate / f"{well}_s1_w{channel}.tif"


def lose_an_image(folder: Path) -> None:
    image(folder).unlink()


def lose_the_table(folder: Path) -> None:
    (folder / "image.csv").unlink()


def spoil_an_image(folder: Path) -> None:
    image(folder).write_bytes(b"not a picture")


def halve_an_image(folder: Path) -> None:
    content = image(folder).read_bytes()
    image(folder).write_bytes(content[: len(content) // 2])


def store_floats(folder: Path) -> None:
    tifffile.imwrite(image(folder), np.zeros((HEIGHT, WIDTH), dtype=np.float32))


def change_sites(
    change: Callable[[np.ndarray], np.ndarray], wells: tuple[str, ...] = ("B03",)
) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        for well in wells:
            for channel in (1, 2):
                path = image(folder, well, channel)
                tifffile.imwrite(path, change(tifffile.imread(path)))

    return work


def change_image(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: tifffile.imwrite(image(folder), change(tifffile.imread(image(folder))))


def saturate(pixels: np.ndarray) -> np.ndarray:
    pixels[:20] = 65535
    return pixels


def copy_an_image(folder: Path) -> None:
    shutil.copy(image(folder, "B03"), image(folder, "C02", plate=PLATES[1]))


def replace_text(name: str, old: str, new: str, count: int = -1) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, count))

    return work


def say_pixel_size(folder: Path) -> None:
    for path in (folder / "images").rglob("*.tif"):
        pixels = tifffile.imread(path)
        tifffile.imwrite(path, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER")


def change_locations(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        change(pd.read_csv(folder / "locations.csv")).to_csv(folder / "locations.csv", index=False)

    return work


def darken_nuclei(number: int) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        rng = np.random.default_rng(2)
        for path in sorted((folder / "images").rglob("*_w1.tif"))[:number]:
            tifffile.imwrite(path, rng.normal(300, 15, (HEIGHT, WIDTH)).astype(np.uint16))

    return work


def write_model(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model/model.json").write_text(json.dumps({"channels": ["Tubulin", "DAPI"]}))


def write_masks(shape: tuple[int, int], number: int = 10) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        (folder / "masks").mkdir()
        for plate, well in [(plate, well) for plate in PLATES for well in WELLS][:number]:
            np.save(folder / "masks" / f"{plate}_{well}_s1.npy", np.eye(*shape, dtype=np.uint16))

    return work


def leave_alone(folder: Path) -> None:
    pass


LOCATED = {"crop.locations": "locations.csv"}
MASKED = {"crop.masks": {"folder": "masks", "template": "{plate}_{well}_s{site}.npy"}}
TUNED = {"train.fine_tune_from": "model"}


@pytest.mark.parametrize(
    ("break_it", "changes", "code", "severity", "sentence", "example"),
    [
        (lose_the_table, {}, "META001", "error", "image.csv: no such file", ""),
        (lambda folder: (folder / "moa.csv").unlink(), {}, "META001", "error", "moa.csv", ""),
        (leave_alone, {"screen.plates": ["Week9"]}, "META008", "error", "no plate Week9", ""),
        (replace_text("map.csv", "B03", "B09"), {"screen": IMAGES}, "META006", "error", "not on the plate map", ""),
        (
            lambda folder: [image(folder, "C02", channel).unlink() for channel in (1, 2)],
            {"screen": IMAGES},
            "META007",
            "warning",
            "1 of 10 wells of the plate map",
            "",
        ),
        (replace_text("image.csv", "DMSO", "water"), {}, "META009", "error", "no well is untreated", ""),
        (replace_text("image.csv", "DMSO", "taxol", 1), {}, "META010", "warning", "1 of 2 plates have", "Week1_101: 2"),
        (leave_alone, {"screen.plates": [PLATES[0]]}, "META011", "note", "there is one batch, Week1", ""),
        (
            leave_alone,
            {"screen.plates": [PLATES[0]]},
            "META014",
            "note",
            "2 of 2 treatments have a single",
            "ALLN 1 µM",
        ),
        (replace_text("moa.csv", "ALLN", "MG-132"), {}, "META012", "note", "1 of 2 treatments have no", "ALLN 1 µM"),
        (replace_text("moa.csv", "ALLN", "MG-132"), {}, "META012", "note", "1 of 2 compounds of", "MG-132"),
        (replace_text("moa.csv", ",1,", ",3,"), {}, "META012", "error", "none of the 2 treatments", "ALLN 1 µM"),
        (leave_alone, {"screen": IMAGES | {"metadata": None}}, "META013", "warning", "no plate map", ""),
        (
            lambda folder: shutil.copy(image(folder), folder / "images" / "notes.tif"),
            {"screen": IMAGES},
            "NAME002",
            "warning",
            "do not fit the template",
            "",
        ),
        (lose_an_image, {}, "IMG001", "error", "1 of 10 sites lack an image", "Week1_101 B03 s1: no image file: DAPI"),
        (lose_an_image, {"crop.skip_missing": True}, "IMG001", "warning", "1 of 10 sites are left out", "no image"),
        (spoil_an_image, {}, "IMG002", "error", "B03_s1_w1.tif", ""),
        (halve_an_image, {}, "IMG003", "error", "B03_s1_w1.tif", ""),
        (store_floats, {}, "IMG004", "error", "B03_s1_w1.tif", ""),
        (change_image(lambda pixels: pixels[:100]), {}, "IMG005", "error", "Expected one size", ""),
        (change_sites(lambda pixels: pixels[:100]), {}, "IMG005", "warning", "fields are of 2 sizes", "160 x 240"),
        (
            change_sites(lambda pixels: pixels[:100]),
            {"crop.illumination": "plate"},
            "IMG005",
            "error",
            "fields are of 2 sizes",
            "100 x 240",
        ),
        (change_image(lambda pixels: pixels.astype("uint8")), {}, "IMG006", "error", "Expected one size and type", ""),
        (
            change_sites(lambda pixels: (pixels // 16).astype("uint8")),
            {},
            "IMG006",
            "error",
            "plates differ in type: uint16, uint8",
            "uint8 Week1_101 B03 s1",
        ),
        (change_image(lambda pixels: pixels * 0 + 7), {}, "IMG007", "warning", "1 of 20 images are", "B03 s1 DAPI"),
        (change_image(saturate), {}, "IMG008", "warning", "1 of 20 images have more than 1%", "B03 s1 DAPI"),
        (copy_an_image, {}, "IMG009", "warning", "2 images share", "Week1_101 B03 s1 DAPI = Week2_202 C02 s1 DAPI"),
        (leave_alone, {"screen.bit_depth": 10}, "IMG010", "error", "pixels above 1,023", "B02 s1 DAPI: 3,"),
        (leave_alone, {"crop.illumination": "plate"}, "IMG014", "warning", "2 of 2 plates have fewer", "Week1_101: "),
        (leave_alone, {"crop.size_px": 200}, "IMG011", "error", "10 of 10 fields are smaller than a crop", "B02 s1"),
        (
            leave_alone,
            {"crop.size_px": 200, "crop.border": "pad"},
            "IMG011",
            "warning",
            "10 of 10 fields are smaller than a crop",
            "B02 s1",
        ),
        (say_pixel_size, {"screen.pixel_size_um": 0.65}, "IMG013", "warning", "10 of 10 images say 0.5 µm", "B02 s1"),
        (lambda folder: (folder / "locations.csv").write_text("a\n1\n"), LOCATED, "LOC001", "error", "locations", ""),
        (replace_text("locations.csv", "Week", "Month"), LOCATED, "LOC002", "error", "none of its sites", ""),
        (
            change_locations(lambda table: table[table["Metadata_Well"] != "B03"]),
            LOCATED,
            "LOC003",
            "warning",
            "2 of 10 sites have no locations",
            "Week1_101 B03 s1",
        ),
        (
            change_locations(lambda table: table.assign(x=table["x"].mask(table.index == 3, 999))),
            LOCATED,
            "LOC004",
            "warning",
            "1 of 150 centres lie outside their field (160 x 240 px",
            "Week1_101 B02 s1: x 999, y 40",
        ),
        (
            change_locations(lambda table: table.assign(x=table["x"] / 0.1)),
            LOCATED,
            "LOC004",
            "error",
            "150 of 150 centres lie outside",
            "x 400, y 40",
        ),
        (
            change_locations(lambda table: table.rename(columns={"x": "y", "y": "x"})),
            LOCATED,
            "LOC005",
            "error",
            "60 of 150 centres lie outside their field (160 x 240 px, rows x columns); were x and y exchanged, 0 would",
            "x 80, y 200",
        ),
        (leave_alone, LOCATED | {"crop.size_px": 96}, "LOC006", "warning", "cross the border", "B02 s1: x 40, y 40"),
        (write_masks((HEIGHT, WIDTH), 9), MASKED, "LOC007", "error", "1 of 10 sites have no mask: Week2_202 C03", ""),
        (write_masks((HEIGHT, 100)), MASKED, "LOC007", "error", "Expected a mask of the field's size", "B03 s1: "),
        (darken_nuclei(10), {}, "LOC008", "error", "in 10 of 10 fields no nucleus", "Week1_101 B02 s1"),
        (darken_nuclei(6), {}, "LOC008", "warning", "in 6 of 10 fields no nucleus", "Week1_101 B02 s1"),
        (
            leave_alone,
            {"crop.nucleus_diameter_px": 44},
            "LOC009",
            "warning",
            "px wide, crop.nucleus_diameter_px is",
            "",
        ),
        (leave_alone, {"crop.size_px": 24}, "LOC011", "note", "a crop of 24 px is 1.1 nuclei wide", ""),
        (
            change_locations(lambda table: pd.concat([table, table.head(1)])),
            LOCATED,
            "LOC010",
            "error",
            "have the number of another",
            "",
        ),
        (leave_alone, {"crop.nuclei_channel": "DNA"}, "CHAN002", "error", "the screen has DAPI, Tubulin", ""),
        (leave_alone, {"screen.stains": {"DNA": "DAPI"}}, "CHAN002", "error", "screen.stains names DNA", ""),
        (leave_alone, {"crop.intensity": "fixed"}, "CHAN002", "error", "crop.ranges has nothing", ""),
        (write_model, TUNED, "CHAN001", "error", "channels Tubulin, DAPI; the screen has DAPI, Tubulin", ""),
        (write_model, TUNED | {"train.fine_tune_channels": {"Actin": "DAPI"}}, "CHAN002", "error", "names Actin", ""),
        (leave_alone, TUNED, "CHAN003", "error", "no model there", ""),
        (
            lambda folder: (write_model(folder), (folder / "model/model.json").write_text("{}")),
            TUNED,
            "CHAN003",
            "error",
            "does not tell the model's channels",
            "",
        ),
    ],
)
@pytest.mark.promise(
    "Bad input", "`cytoclr check` finds each way a screen is broken: its code, an example, what to do."
)
def test_what_is_broken_is_found(
    screen: Path,
    break_it: Callable[[Path], object],
    changes: dict[str, Any],
    code: str,
    severity: str,
    sentence: str,
    example: str,
) -> None:
    break_it(screen)
    finding = find(check(screen, changes), code, sentence)
    assert finding.severity == severity
    assert any(example in found for found in ("", *finding.examples)), finding.examples
    assert finding.count >= max(1, len(finding.examples))


def test_a_fix_names_the_measured_value(screen: Path) -> None:
    finding = find(check(screen, {"crop.nucleus_diameter_px": 44}), "LOC009")
    measured = int(finding.fix.split(" to ")[1].split(",")[0])
    assert measured == pytest.approx(DIAMETER, abs=2)
    assert find(check(screen, {"screen.bit_depth": 10}), "IMG010").fix.startswith("Set screen.bit_depth to 12")


def test_where_only_names_differ_the_mapping_settles_it(screen: Path) -> None:
    write_model(screen)
    renamed = {"train.fine_tune_channels": {"Tubulin": "DAPI", "DAPI": "Tubulin"}}
    assert not check(screen, TUNED | renamed).count("error")


@pytest.mark.promise("Bad input", "`cytoclr check` lists all that is wrong, not the first alone.")
def test_one_refusal_does_not_hide_the_others(screen: Path) -> None:
    lose_the_table(screen)
    (screen / "moa.csv").write_text("compound,concentration,moa\n")
    assert [finding.message.split(":")[0].rpartition("/")[2] for finding in check(screen).findings] == [
        "image.csv",
        "moa.csv",
    ]


def test_what_readers_say_without_a_code_is_still_logged(screen: Path, caplog: pytest.LogCaptureFixture) -> None:
    (screen / "moa.csv").write_text("compound,moa\ntaxol,microtubules\nALLN,proteasome\n")
    assert [finding.code for finding in check(screen).findings] == ["DISK001"]
    assert "moa.csv: no column of the concentration" in caplog.text


def test_errors_come_first_and_carry_the_refusal(screen: Path) -> None:
    spoil_an_image(screen)
    change_locations(lambda table: table[table["Metadata_Well"] != "B02"])(screen)
    checked = check(screen, LOCATED)
    assert [finding.severity for finding in checked.findings] == ["error", "warning", "note"]
    first = checked.findings[0]
    assert str(first.error) == first.message
    assert (checked.count("error"), checked.count("warning"), checked.count("note")) == (1, 1, 1)


def test_too_little_space_is_told_with_both_numbers(screen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(screen)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2_000_000))
    finding = find(check(screen, LOCATED), "DISK001")
    assert finding.severity == "error"
    assert "some 2.46 MB; 2 MB are free" in finding.message
    assert finding.error is not None
    assert finding.error.exit_code == 4
    assert find(check(screen, LOCATED | {"crop.bits": 8}), "DISK001").severity == "note"


def read_source(folder: Path) -> tuple[Any, Source]:
    settings = check_settings({"screen": BBBC021}, source="test", folder=folder)
    return settings, open_screen(settings.screen, skip_missing=False)


def check_rows(folder: Path, rows: pd.DataFrame, **more: Any) -> Checked:
    settings, source = read_source(folder)
    return check_source(
        settings,
        Source(rows, source.left_out, source.channels),
        screen=settings.screen,
        locations=None,
        finds_nuclei=False,
        mechanisms=None,
        folder=folder,
        **more,
    )


@pytest.mark.parametrize(("shape", "found"), [((HEIGHT, WIDTH), 0), ((HEIGHT, 100), 10), (None, 10)])
def test_illumination_functions_are_read(screen: Path, shape: tuple[int, int] | None, found: int) -> None:
    _, source = read_source(screen)
    if shape is not None:
        np.save(screen / "light.npy", np.ones(shape, dtype=np.float32))
    columns = {f"Illum_{channel}": str(screen / "light.npy") for channel in CHANNELS}
    findings = [of for of in check_rows(screen, source.rows.assign(**columns)).findings if of.code == "IMG012"]
    assert sum(finding.count for finding in findings) == found


def test_of_remote_images_few_are_fetched_and_it_is_said(screen: Path) -> None:
    _, source = read_source(screen)
    urls = {name: "file://" + source.rows[name] for name in source.rows.columns if name.startswith("Path_")}
    rows = source.rows.assign(**urls)
    checked = check_rows(screen, rows)
    assert checked.num_looked_at == 4
    assert "4 of 10 sites are fetched" in find(checked, "NET001").message
    everything = check_rows(screen, rows, every=True)
    assert everything.num_looked_at == 10
    assert not [finding for finding in everything.findings if finding.code == "NET001"]


def write_strips(folder: Path) -> dict[str, Any]:
    """Ready crops: two plates of four wells, three cells each, two channels of 32 px."""
    rng = np.random.default_rng(1)
    (folder / "cells").mkdir()
    rows = []
    for plate in PLATES:
        for well, compound in WELLS.items():
            for cell in range(3):
                name = f"{plate}-{well}-s1-{cell}.png"
                strip = rng.integers(100, 4000, (32, 64), dtype=np.uint16)
                (folder / "cells" / name).write_bytes(imagecodecs.png_encode(strip))
                rows.append((name, f"{compound}_{int(compound != 'DMSO')}"))
    pd.DataFrame(rows, columns=["Image_Name", "Class_Name"]).to_csv(folder / "sc.csv", index=False)
    return {"reader": "single-cell", "table": "sc.csv", "images": "cells", "channels": ["DNA", "Actin"]}


def test_clean_ready_crops_have_no_finding_but_what_they_will_take(screen: Path) -> None:
    checked = check(screen, {"screen": write_strips(screen)})
    assert [finding.code for finding in checked.findings] == ["DISK001"], checked.findings
    assert (checked.num_looked_at, checked.num_rows, checked.unit) == (30, 30, "cells")
    # 30 crops of 2 channels, 32 px, 16 bit
    assert find(checked, "DISK001").message.startswith("30 crops (as there are) will take some 123 kB")


@pytest.mark.parametrize(
    ("break_it", "changes", "code", "severity", "sentence"),
    [
        (lambda path: path.write_bytes(b"no PNG"), {}, "CROP001", "error", "not a readable PNG"),
        (
            lambda path: path.write_bytes(imagecodecs.png_encode(np.ones((32, 60), np.uint16))),
            {},
            "CROP002",
            "error",
            "Expected 2 square channels",
        ),
        (lambda path: path.unlink(), {}, "IMG001", "error", "1 of 30 crops have no image file"),
        (lambda path: None, {"crop.size_px": 40}, "CROP002", "error", "Expected at least 40"),
        (
            lambda path: path.write_bytes(imagecodecs.png_encode(np.zeros((32, 64), np.uint16))),
            {},
            "IMG007",
            "warning",
            "2 of 60 images are constant",
        ),
    ],
)
@pytest.mark.promise("Bad input", "`cytoclr check` finds what is wrong with ready crops, with a code and an example.")
def test_broken_ready_crops_are_found(
    screen: Path, break_it: Callable[[Path], object], changes: dict[str, Any], code: str, severity: str, sentence: str
) -> None:
    ready = write_strips(screen)
    break_it(sorted((screen / "cells").iterdir())[4])
    finding = find(check(screen, {"screen": ready} | changes), code, sentence)
    assert finding.severity == severity


@pytest.mark.parametrize(
    ("number", "every", "looked_at"),
    [(4, False, 4), (48, False, 10), (1, False, 2), (4, True, 10)],
)
def test_the_sample_is_spread_over_all_plates(screen: Path, number: int, every: bool, looked_at: int) -> None:
    checked = check(screen, sample=number, every=every)
    assert checked.num_looked_at == looked_at
    _, source = read_source(screen)
    assert choose_sample(source.rows, number)["Metadata_Plate"].nunique() == 2
    assert choose_sample(source.rows, number).equals(choose_sample(source.rows, number))


def test_a_sample_of_many_plates_has_one_site_of_each_up_to_a_limit() -> None:
    rows = pd.DataFrame({"Metadata_Plate": np.repeat([f"p{number:03d}" for number in range(100)], 7)})
    rows = rows.assign(Metadata_Well="B02", Metadata_Site=1)
    for wanted, plates, sites in ((12, 48, 48), (48, 100, 100), (150, 100, 150)):
        chosen = choose_sample(rows, wanted)
        assert (chosen["Metadata_Plate"].nunique(), len(chosen)) == (plates, sites)
        assert chosen.index.is_unique
