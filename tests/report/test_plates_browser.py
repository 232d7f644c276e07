"""The plates in a real browser: their maps, the keyboard, batches, and what position explains."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import browsing
import numpy as np
import pytest

from cytoclr.config import ReportSettings
from cytoclr.report import ReportInputs, write_report
from cytoclr.report.plates import lay_out_plates

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = browsing.NEEDS_BROWSER
HARM = "<img src=x onerror=alert(1)>"
#: Colour in the middle of a position, of the left edge of the plate's squares and so beside any ring.
COLOUR_AT = """(canvas, [row, column]) => {
    const plate = {columns: 12, rows: 8};
    const size = Math.min(canvas.width / (plate.columns + 1.4), canvas.height / (plate.rows + 1.4));
    const copy = Object.assign(document.createElement('canvas'), {width: canvas.width, height: canvas.height});
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    const [x, y] = [1.3 * size + (column + 0.18) * size, 1.3 * size + (row + 0.18) * size];
    return [...context.getImageData(Math.round(x), Math.round(y), 1, 1).data];
}"""


@pytest.fixture(scope="module")
def crowded(inputs: ReportInputs) -> ReportInputs:
    """Flags and focus as a run has them, fewer cells in column 1, and hostile names of plates, wells and batches."""
    cells = inputs.cells.copy()
    cells["Metadata_Flags"] = np.where(np.arange(len(cells)) % 5 == 0, "blurred", "")
    cells["Quality_Focus"] = np.random.default_rng(0).uniform(0.2, 0.5, len(cells))
    few = ~(cells["Metadata_Well"].str.endswith("01") & (cells["Metadata_Object"] > 3))
    # crops belong to rows, so cells are moved to their neighbour, not dropped
    cells["Metadata_Well"] = cells["Metadata_Well"].where(few, cells["Metadata_Well"].str[0] + "02")
    names = {
        "Metadata_Well": {"C03": HARM, "C02": "pool"},
        "Metadata_Plate": {"B1_P1": HARM},
        "Metadata_Batch": {"week 2": "<b>%{x}</b>"},
    }
    assert inputs.embeddings is not None
    return replace(
        inputs,
        matches=None,
        scores={"nsc": None, "nscb": None, "reason": "none"},
        cells=cells.replace(names),
        wells=inputs.wells.replace(names),
        embeddings=inputs.embeddings.replace(names),
    )


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, crowded: ReportInputs) -> Path:
    path = tmp_path_factory.mktemp("plates") / "report.html"
    write_report(path, crowded, ReportSettings(), seed=0)
    return path


class Reader(browsing.Reader):
    """Of the plates."""

    READY = "#positions tbody tr"


@pytest.fixture
def page(browser: "playwright.Browser", page_path: Path) -> Iterator["playwright.Page"]:
    reader = Reader(browser, page_path)
    yield reader.page
    reader.page.close()
    assert reader.complaints == []


def show_plate(page: "playwright.Page", number: int = 0) -> "playwright.Locator":
    canvas = page.locator("canvas.plate").nth(number)
    canvas.evaluate("one => one.scrollIntoView({block: 'center', behavior: 'instant'})")
    page.wait_for_function("number => document.querySelectorAll('canvas.plate')[number].width > 300", arg=number)
    return canvas


def place_of(canvas: "playwright.Locator", row: int, column: int) -> dict[str, float]:
    box = canvas.bounding_box()
    size = box["width"] / 13.4
    return {"x": 1.3 * size + (column + 0.5) * size, "y": 1.3 * size + (row + 0.5) * size}


def values_at(inputs: ReportInputs, key: str, plate: int) -> dict[tuple[int, int], float]:
    found = lay_out_plates(inputs)
    values = next(measure["values"] for measure in found["measures"] if measure["key"] == key)
    of = found["plates"][plate]
    return {divmod(place, of["columns"]): values[i] for i, place in zip(of["wells"], of["places"], strict=True)}


def test_colours_follow_the_numbers(page: "playwright.Page", crowded: ReportInputs) -> None:
    canvas = show_plate(page)
    for key in ("cells", "brightness-1", "agreement"):
        page.locator("#plates-measure").select_option(key)
        of = {place: value for place, value in values_at(crowded, key, 0).items() if value is not None}
        lowest, highest = min(of, key=of.get), max(of, key=of.get)
        light = {place: sum(canvas.evaluate(COLOUR_AT, list(place))[:3]) for place in of}
        # viridis is brighter the higher it is
        assert light[lowest] < light[highest]
        order = np.corrcoef(list(of.values()), list(light.values()))[0, 1]
        assert order > 0.5


def test_positions_without_a_well_are_quiet(page: "playwright.Page") -> None:
    canvas = show_plate(page)
    assert canvas.evaluate(COLOUR_AT, [6, 6])[3] == 0
    assert canvas.evaluate(COLOUR_AT, [0, 5])[3] == 255


def test_pointing_tells_the_well_and_pressing_shows_its_cells(page: "playwright.Page", crowded: ReportInputs) -> None:
    canvas = show_plate(page)
    canvas.hover(position=place_of(canvas, 1, 3))
    tip = page.locator("#plate-tip")
    count = values_at(crowded, "cells", 0)[1, 3]
    assert re.search(rf"^compound \d\d [\d.]+ µM.*B04.*Cells: {count} cells$", tip.text_content())
    canvas.hover(position=place_of(canvas, 6, 6))
    assert tip.is_hidden()
    canvas.click(position=place_of(canvas, 0, 1))
    assert page.locator("#gallery-title").text_content() == "DMSO"
    about = page.locator("#gallery-about")
    assert "well A02 · untreated" in about.text_content()
    assert about.locator("dt").all_text_contents()[0] == "Cells"
    assert page.locator("#gallery-cells canvas").count() == 1
    page.keyboard.press("Escape")
    assert not page.locator("#gallery").is_visible()


def test_arrows_go_from_well_to_well_and_enter_opens(page: "playwright.Page") -> None:
    canvas = show_plate(page)
    canvas.focus()
    tip = page.locator("#plate-tip")

    def at() -> str:
        return re.search(r"[A-H]\d\d", tip.locator("span").first.text_content()).group()

    page.keyboard.press("Home")
    assert at() == "A01"
    for keys, well in (
        (["ArrowRight", "ArrowRight"], "A03"),
        (["ArrowDown"], "B03"),
        (["End"], "B12"),
        (["ArrowRight"], "B12"),
        (["ArrowDown"], "C01"),  # C12 is empty: the nearest well of the next row that has any
        (["ArrowUp", "ArrowUp", "ArrowUp"], "A01"),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert at() == well
    page.keyboard.press("Enter")
    assert "well A01" in page.locator("#gallery-about").text_content()
    page.keyboard.press("Escape")
    assert canvas.evaluate("one => one === document.activeElement")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_the_well_the_keyboard_is_at_is_framed(page: "playwright.Page") -> None:
    canvas = show_plate(page)
    before = canvas.evaluate("one => one.toDataURL()")
    page.keyboard.press("Tab")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    framed = canvas.evaluate("one => one.toDataURL()")
    assert framed != before
    page.keyboard.press("ArrowRight")
    assert canvas.evaluate("one => one.toDataURL()") not in (before, framed)
    canvas.evaluate("one => one.blur()")
    assert canvas.evaluate("one => one.toDataURL()") == before


def test_wells_that_are_no_position_are_beside_their_plate(page: "playwright.Page") -> None:
    figure = page.locator(".plate-figure").first
    assert "2 wells without a position of their own" in figure.text_content()
    buttons = figure.locator(".beside button")
    assert {text.split(HARM)[0][:4] for text in buttons.all_text_contents()} == {"", "pool"}
    buttons.filter(has_text="pool").click()
    assert "well pool" in page.locator("#gallery-about").text_content()


def test_hostile_names_stay_text(page: "playwright.Page") -> None:
    assert page.locator("#data img[src=x], #data b").count() == 0
    assert HARM in page.locator(".plate-figure figcaption").all_text_contents()
    summaries = page.locator("#plates-maps > .batch > summary").all_text_contents()
    assert any("<b>%{x}</b>" in text for text in summaries)
    assert any(text == "<b>%{x}</b>" for text in page.locator(".batch-line > p").all_text_contents())


def test_one_scale_is_told_and_changes_with_the_measure(page: "playwright.Page", crowded: ReportInputs) -> None:
    found = lay_out_plates(crowded)
    select = page.locator("#plates-measure")
    assert select.locator("option").all_text_contents() == [measure["name"] for measure in found["measures"]]
    select.select_option("flagged")
    measure = next(measure for measure in found["measures"] if measure["key"] == "flagged")
    legend = page.locator("#plates-legend").text_content()
    ends = [float(number) / 100 for number in re.findall(r"[≤≥] ([\d.]+)\u00a0%", legend)]
    assert ends == pytest.approx([measure["low"], measure["high"]], rel=0.01)
    assert page.locator("#plates-about").text_content() == measure["about"]
    assert page.locator("#batches-measure").text_content() == "Crops flagged"


def test_each_batch_has_a_box_of_controls_and_of_others(page: "playwright.Page", crowded: ReportInputs) -> None:
    page.locator("#plates-measure").select_option("focus")
    found = lay_out_plates(crowded)
    values = np.array(next(measure["values"] for measure in found["measures"] if measure["key"] == "focus"))
    lines = page.locator(".batch-line:has(.box)")
    assert lines.count() == 2
    is_control = (crowded.wells["Metadata_control_type"] == "negcon").to_numpy()
    for number, batch in enumerate(("<b>%{x}</b>", "week 1")):
        labels = lines.nth(number).locator("svg.box").evaluate_all("all => all.map(one => one.ariaLabel)")
        for label, kind in zip(labels, (is_control, ~is_control), strict=True):
            of = values[kind & (crowded.wells["Metadata_Batch"] == batch).to_numpy()]
            assert label.startswith(f"{batch}, {len(of)} ")
            told = float(re.search(r"median ([\d.]+) per px", label).group(1))
            assert told == pytest.approx(np.median(of), rel=5e-3)


def test_position_is_told_as_it_was_computed(page: "playwright.Page", crowded: ReportInputs) -> None:
    found = lay_out_plates(crowded)
    rows = page.locator("#positions tbody tr")
    assert rows.count() == len(found["measures"])
    notes = page.locator("#positions-notes li").all_text_contents()
    assert notes == found["positions"]["notes"] != []
    assert found["positions"]["wells"] in page.locator("#positions-key").text_content()
    cells = rows.first.locator("td")
    assert cells.nth(0).text_content() == "in one row"
    effect = found["positions"]["rows"][0]["effects"][1]
    assert f"p = {effect['p']:.2g}" in cells.nth(1).text_content()
    page.get_by_role("button", name="Show Focus on the plates").click()
    assert page.locator("#plates-measure").input_value() == "focus"
    assert page.locator("#positions tr.chosen th").all_text_contents() == ["Focus"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scroll_and_plates_are_drawn_when_seen(
    browser: "playwright.Browser", page_path: Path, scheme: str
) -> None:
    page = Reader(browser, page_path, viewport={"width": 390, "height": 800}, color_scheme=scheme).page
    undrawn = "all => all.filter(one => one.width === 300).length"
    assert page.eval_on_selector_all("canvas.plate", undrawn) == 4  # the section is further down
    page.locator("canvas.plate").first.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert 0 < page.eval_on_selector_all("canvas.plate", undrawn) < 4
    browsing.assert_fits(page, page.evaluate("innerWidth"))
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.eval_on_selector_all("canvas.plate", undrawn) == 0
    page.close()


def test_colours_change_with_light_and_dark(page: "playwright.Page") -> None:
    canvas = show_plate(page)
    before = canvas.evaluate("one => one.toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert canvas.evaluate("one => one.toDataURL()") != before


def test_many_plates_fold_their_table_away(page_path: Path, tmp_path: Path, inputs: ReportInputs) -> None:
    assert "<summary>4 plates</summary>" not in page_path.read_text()
    numbers = {well: f"P{i % 13}" for i, well in enumerate(sorted(set(inputs.wells["Metadata_Well"])))}
    first = inputs.wells["Metadata_Plate"] == "B1_P1"
    many = replace(
        inputs,
        matches=None,
        scores={"nsc": None, "nscb": None, "reason": "none"},
        wells=inputs.wells.assign(
            Metadata_Plate=inputs.wells["Metadata_Plate"].where(~first, inputs.wells["Metadata_Well"].map(numbers))
        ),
        cells=inputs.cells.assign(
            Metadata_Plate=inputs.cells["Metadata_Plate"].where(
                inputs.cells["Metadata_Plate"] != "B1_P1", inputs.cells["Metadata_Well"].map(numbers)
            )
        ),
    )
    path = tmp_path / "report.html"
    write_report(path, many, ReportSettings(), seed=0)
    assert "<summary>16 plates</summary>" in path.read_text()
