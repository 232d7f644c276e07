"""Treatments and their cells in a real browser: the ways from matrix, table and heat map, doses, galleries."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import browsing
import numpy as np
import pandas as pd
import pytest

from cytoclr.config import EvaluateSettings, ProtocolChanges, ReportSettings
from cytoclr.evaluate import evaluate
from cytoclr.report import ReportInputs, write_report
from cytoclr.tables import TREATMENT, WELL, feature_columns

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = browsing.NEEDS_BROWSER
#: Middle of the place of a row and a column of the heat map, from the canvas' corner.
PLACE_OF = """(canvas, [row, column]) => {
    const left = 160 + 13;
    const size = Math.floor(canvas.clientWidth - left);
    const step = size / 48;
    return [left + (column + 0.5) * step, 13 + (row + 0.5) * step];
}"""
COLOUR_AT = """(canvas, [x, y]) => {
    const copy = Object.assign(document.createElement('canvas'), {width: canvas.width, height: canvas.height});
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    return [...context.getImageData(Math.round(x), Math.round(y), 1, 1).data].slice(0, 3);
}"""
LIT = """async canvas => {
    await new Promise((done) => setTimeout(done, 800));
    const copy = Object.assign(document.createElement('canvas'), {width: canvas.width, height: canvas.height});
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, copy.width, copy.height).data.some((v, i) => i % 4 < 3 && v > 40);
}"""


class Reader(browsing.Reader):
    """Of treatments and their cells."""

    READY = "#treatment-name bdi, #treatment > p"

    @property
    def data(self) -> dict:
        return self.page.evaluate("JSON.parse(document.getElementById('report-data').textContent)")

    @property
    def chosen(self) -> str:
        return self.page.locator("#treatment-name").inner_text()

    def wait_for(self, name: str) -> None:
        """Wait until a treatment is shown: an address is followed a moment after it has changed."""
        # not by wait_for_function, which evaluates text: the page's policy forbids it and says so
        playwright.expect(self.page.locator("#treatment-name bdi")).to_have_text(name, timeout=10_000)

    def find(self, name: str) -> None:
        self.page.locator("#treatment-finder input").fill(name)
        self.page.keyboard.press("Enter")


@pytest.fixture
def reader(browser: "playwright.Browser", report_path: Path) -> Iterator[Reader]:
    reader = Reader(browser, report_path)
    yield reader
    reader.page.close()
    assert reader.complaints == []


@pytest.fixture
def open_report(browser: "playwright.Browser", tmp_path: Path) -> Iterator[Callable[..., Reader]]:
    """Open a report of other inputs; nothing may be complained of."""
    readers: list[Reader] = []

    def open_it(inputs: ReportInputs, **context: object) -> Reader:
        path = tmp_path / "report.html"
        write_report(path, inputs, ReportSettings(), seed=0)
        readers.append(Reader(browser, path, **context))
        return readers[-1]

    yield open_it
    for reader in readers:
        reader.page.close()
        assert reader.complaints == []


# ---- ways to a treatment ----


def test_a_name_in_the_table_leads_to_its_treatment_and_the_way_back_leads_back(reader: Reader) -> None:
    page = reader.page
    way = page.locator("#matches tbody tr").nth(5).locator("button.way").first
    first = way.inner_text()
    assert reader.chosen != first
    way.click()
    reader.wait_for(first)
    playwright.expect(page.locator("#treatment")).to_be_focused()
    neighbour = page.locator("#near tbody button.way").nth(2)
    other = neighbour.inner_text()
    neighbour.click()
    reader.wait_for(other)
    page.go_back()
    reader.wait_for(first)


@pytest.mark.parametrize("name", ["compound 07 1 µM", "compound 19 0.1 µM"])
def test_the_address_names_a_treatment(browser: "playwright.Browser", report_path: Path, name: str) -> None:
    reader = Reader(browser, report_path, address=f"#treatment={quote(name)}")
    assert reader.chosen == name
    # the page may glide there
    playwright.expect(reader.page.locator("#treatment-title")).to_be_in_viewport(timeout=10_000)
    assert reader.complaints == []
    reader.page.close()


@pytest.mark.parametrize("address", ["#treatment=nobody", "#treatment=%", "#cells"])
def test_an_address_that_names_none_harms_nothing(
    browser: "playwright.Browser", report_path: Path, address: str
) -> None:
    reader = Reader(browser, report_path, address=address)
    assert reader.chosen.startswith("compound")
    assert reader.complaints == []
    reader.page.close()


def test_part_of_a_name_finds(reader: Reader) -> None:
    reader.find("d 13 1")
    assert reader.chosen == "compound 13 1 µM"
    assert quote("compound 13 1 µM") in reader.page.url
    reader.page.get_by_role("button", name="The next one").first.click()
    assert reader.chosen == "compound 14 0.1 µM"
    field = reader.page.locator("#treatment-finder input")
    field.fill("compound 1")
    assert reader.page.locator("#treatment-finder datalist option").count() == 20
    reader.find("no such thing")
    assert "No treatment" in reader.page.locator("#treatment-finder").inner_text()
    assert reader.chosen == "compound 14 0.1 µM"


# ---- one treatment ----


def test_verdicts_are_those_of_the_matches(reader: Reader, inputs: ReportInputs) -> None:
    assert inputs.matches is not None
    own = inputs.matches[inputs.matches["features"] == "trained"]
    for compound in ("compound 01", "compound 12", "compound 20"):
        reader.find(f"{compound} 1 µM")
        said = reader.page.locator("#treatment-verdicts p").all_inner_texts()
        for line, score in zip(said, ("nscb", "nsc"), strict=True):
            of = (own["score"] == score) & (own["Metadata_Compound"] == compound)
            row = own[of & (own["Metadata_Concentration"] == 1.0)].iloc[0]
            neighbour = f"{row['Match_Compound']} {row['Match_Concentration']:g} µM"
            verdict = "✓ right" if row["correct"] else "✗ wrong"
            assert line.startswith(f"{score.upper()} {verdict}. Nearest: {neighbour} (")
            assert line.endswith(f"similarity {row['similarity']:.2f}.")


def test_cells_stand_side_by_side_in_one_size(reader: Reader) -> None:
    reader.find("compound 01 1 µM")
    figures = reader.page.locator("#abreast figure")
    names = [text.split("\n")[0] for text in figures.all_inner_texts()]
    assert names[0] == "compound 01 1 µM"
    assert names[-1] == "untreated"
    assert 3 <= len(names) <= 4
    sizes = figures.locator("canvas").evaluate_all("all => all.map(one => [one.clientWidth, one.clientHeight])")
    assert sizes == [[256, 128]] * len(names)
    reader.page.wait_for_timeout(300)
    assert all(canvas.evaluate(LIT) for canvas in figures.locator("canvas").all())
    # tiles of 32 px of 0.5 µm are drawn twice as large: 5 µm are 10 px of the tile, 20 of the page
    bar = reader.page.locator("#abreast .scale-bar")
    assert bar.inner_text() == "5 µm"
    assert bar.locator(".bar").evaluate("one => one.clientWidth") == 20
    reader.page.locator("#abreast-larger").click()
    assert reader.page.locator("#gallery-cells figure").count() == len(names)


def test_neighbours_tell_who_admits_them(reader: Reader) -> None:
    data = reader.data
    number = next(i for i, of in enumerate(data["treatments"]) if of["name"] == "compound 08 0.1 µM")
    reader.find("compound 08 0.1 µM")
    rows = [row.locator("td").all_inner_texts() for row in reader.page.locator("#near tbody tr").all()]
    words = {True: "yes", False: "no", None: "–"}
    own = data["treatments"][number]["mechanism"]
    expected = []
    for other, similarity, *admitted in data["relations"]["neighbours"][number]:
        of = data["treatments"][other]
        agrees = "✓ same" if of["mechanism"] == own else "✗ other"
        shown = f"{similarity:.2f}".replace("-", "−")
        expected.append([of["name"], of["mechanism"], agrees, shown, *(words[value] for value in admitted)])
    assert rows == expected
    assert {row[6] for row in rows} == {"yes", "no"}


def test_doses_are_drawn_and_told(reader: Reader) -> None:
    data = reader.data
    reader.find("compound 05 0.1 µM")
    page = reader.page
    page.wait_for_selector("#series-highest .points path")
    for id_ in ("series-length", "series-highest"):
        assert page.locator(f"#{id_} .points path").count() == 2
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#series tbody tr").all()]
    numbers = [i for i, of in enumerate(data["treatments"]) if of["compound"] == "compound 05"]
    numbers.sort(key=lambda i: data["relations"]["dose"][i])
    assert [row[0] for row in rows] == ["0.1 µM", "1 µM"]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [data["relations"]["length"][i] for i in numbers], rel=0.006
    )
    assert [float(row[3].replace("−", "-")) for row in rows] == pytest.approx(
        [data["relations"]["to_highest"][i] for i in numbers], abs=0.006
    )
    assert page.locator("#series canvas").count() == 2
    page.locator("#series button.way", has_text="1 µM").click()
    reader.wait_for("compound 05 1 µM")


def test_agreement_of_replicates_is_drawn_where_it_was_measured(
    open_report: Callable[..., Reader], inputs: ReportInputs
) -> None:
    activity = inputs.treatments[TREATMENT].assign(features="trained", map=0.875, corrected_p_value=0.0123, active=True)
    reader = open_report(replace(inputs, activity=activity))
    assert "replicates mAP 0.88, active (corrected p = 0.012)" in reader.page.locator("#treatment-about").inner_text()
    assert reader.page.locator("#series-map .points path").count() == 2
    assert reader.page.locator("#series thead th").all_inner_texts()[-1] == "mAP"
    assert reader.page.locator("#series tbody tr").first.locator("td").last.inner_text() == "0.88"
    reader = open_report(replace(inputs, activity=None))
    assert not reader.page.locator("#series-map-figure").is_visible()
    assert "not measured" in reader.page.locator("#series-note").inner_text()


# ---- the matrix and the table ----


def test_a_number_of_the_matrix_keeps_the_focus_and_shows_its_rows(reader: Reader) -> None:
    button = reader.page.locator("#confusion td button").nth(1)
    count = int(button.inner_text())
    button.focus()
    reader.page.keyboard.press("Enter")
    assert reader.page.locator("#matches tbody tr").count() == count
    assert reader.page.locator("#confusion button.chosen").evaluate("one => one === document.activeElement")
    assert reader.page.locator("#confusion button[aria-pressed=true]").count() == 1


def test_many_rows_are_shown_piece_by_piece(open_report: Callable[..., Reader], inputs: ReportInputs) -> None:
    settings = EvaluateSettings(
        bootstraps=100, permutations=100, probe=False, protocol_changes=ProtocolChanges(level="well")
    )
    names = feature_columns(inputs.wells)
    generator = np.random.default_rng(0)
    # each well thrice more, on plates of other names
    wells = pd.concat(
        [
            inputs.wells.assign(
                Metadata_Plate=inputs.wells["Metadata_Plate"] + suffix,
                **{name: inputs.wells[name] + generator.normal(0, 0.5, len(inputs.wells)) for name in names},
            )
            for suffix in ("", "b", "c", "d")
        ],
        ignore_index=True,
    )
    found = evaluate(wells, inputs.mechanisms, settings, seed=0, normalisation="none")
    total = found.scores["nscb"]["total"]
    assert 200 < total < 400
    reader = open_report(replace(inputs, wells=wells, scores=found.scores, matches=found.matches))
    rows = reader.page.locator("#matches tbody tr")
    assert rows.count() == 200
    assert f"{total} of {total} shown, the first 200" in reader.page.locator("#matches-shown").inner_text()
    more = reader.page.locator("#matches-more")
    assert more.inner_text() == f"Show {total - 200} more"
    more.click()
    assert rows.count() == total
    assert not more.is_visible()
    assert rows.nth(200).locator("button").first.evaluate("one => one === document.activeElement")
    # wells are told together where their treatment is shown
    assert " wells. Nearest of any well: " in reader.page.locator("#treatment-verdicts p").first.inner_text()
    assert reader.page.locator("#near tbody td:last-child").first.inner_text() in ("–", "no")


# ---- the heat map ----


def test_the_heat_map_reads_out_and_leads_on(reader: Reader) -> None:
    page, data = reader.page, reader.data
    heat = data["relations"]["heat"]
    canvas = page.locator("#heat")
    canvas.scroll_into_view_if_needed()
    row, column = 30, 4
    x, y = canvas.evaluate(PLACE_OF, [row, column])
    canvas.hover(position={"x": x, "y": y})
    assert page.locator("#heat-said .way").all_inner_texts() == [heat["names"][row], heat["names"][column]]
    names = [of["compound"] for of in data["treatments"]]
    assert heat["names"][row].startswith(names[heat["rows"][row]])
    canvas.click(position={"x": x, "y": y})
    reader.wait_for(heat["names"][row])


def test_colours_and_numbers_are_of_the_same_pair(reader: Reader, inputs: ReportInputs) -> None:
    """The most alike and the most unlike pair: what is read out is their cosine, and their colours are the ends'."""
    page, heat = reader.page, reader.data["relations"]["heat"]
    features = inputs.treatments.set_index(TREATMENT)[feature_columns(inputs.wells)]
    treatments = reader.data["treatments"]
    keys = [(of["compound"], float(of["name"].split()[-2])) for of in treatments]
    directions = np.array([features.loc[keys[row]].to_numpy() for row in heat["rows"]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    apart = np.unravel_index(np.argmin(cosines), cosines.shape)
    canvas = page.locator("#heat")
    canvas.scroll_into_view_if_needed()
    for place, warm in ((tuple(map(int, apart)), False), ((20, 20), True)):
        x, y = canvas.evaluate(PLACE_OF, list(place))
        canvas.hover(position={"x": x, "y": y})
        said = page.locator("#heat-said .heat-value").inner_text()
        assert float(said.replace("−", "-")) == pytest.approx(cosines[place], abs=0.01)
        red, _, blue = canvas.evaluate(COLOUR_AT, [x, y])
        assert (red > blue) == warm


def test_the_heat_map_is_read_by_keyboard(reader: Reader) -> None:
    page, heat = reader.page, reader.data["relations"]["heat"]
    page.locator("#heat").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator("#heat-said .way").all_inner_texts() == [heat["names"][2], heat["names"][0]]
    page.keyboard.press("Enter")
    reader.wait_for(heat["names"][2])


def test_the_heat_map_changes_with_the_light(reader: Reader) -> None:
    page = reader.page
    place = page.locator("#heat").evaluate(PLACE_OF, [40, 5])
    before = page.locator("#heat").evaluate(COLOUR_AT, place)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(500)
    after = page.locator("#heat").evaluate(COLOUR_AT, place)
    assert sum(after) < sum(before) - 150


# ---- cells ----


def test_galleries_show_typical_untypical_chance_and_untreated(reader: Reader) -> None:
    page = reader.page
    names = [text.split("\n")[0] for text in page.locator("#cells-shown figcaption").all_inner_texts()]
    assert names == ["Most typical", "Least typical", "By chance", "Untreated"]
    assert "cosine" in page.locator("#cells-note").inner_text()
    page.wait_for_timeout(300)
    assert all(canvas.evaluate(LIT) for canvas in page.locator("#cells-shown canvas").all())
    page.locator("#cells-finder input").fill("compound 11 0.1")
    page.keyboard.press("Enter")
    assert page.locator("#cells-shown h3").inner_text().startswith("compound 11 0.1 µM")
    page.locator("#cells-size").get_by_role("button", name="large").click()
    widths = page.locator("#cells-shown canvas").evaluate_all("all => all.map(one => one.clientWidth)")
    assert widths == [512] * 4
    assert page.locator("#cells-scale .bar").evaluate("one => one.clientWidth") == 40


def test_galleries_of_a_mechanism_stand_below_each_other(reader: Reader) -> None:
    page = reader.page
    page.get_by_role("button", name="One mechanism").click()
    page.locator("#cells-mechanism select").select_option("DNA damage")
    own = sorted(of["name"] for of in reader.data["treatments"] if of["mechanism"] == "DNA damage")
    assert len(own) == 8
    shown = page.locator("#cells-shown h3 .way").all_inner_texts()
    assert sorted(shown) == own
    assert not page.locator("#cells-finder").is_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("#cells-size").get_by_role("button", name="large").click()
    widths = page.locator("#cells-shown canvas").evaluate_all("all => all.map(one => one.clientWidth)")
    assert set(widths) == {256}
    browsing.assert_fits(page, 390)


# ---- what is not there ----


def test_each_part_says_why_it_is_not_there(open_report: Callable[..., Reader], inputs: ReportInputs) -> None:
    highest = inputs.treatments["Metadata_Concentration"].isin([0.0, 1.0])
    bare = replace(
        inputs,
        scores={"nsc": None, "nscb": None, "reason": "No mechanism table was given."},
        mechanisms=None,
        matches=None,
        embeddings=None,
        treatments=inputs.treatments[highest],
        wells=inputs.wells[inputs.wells["Metadata_Concentration"].isin([0.0, 1.0])],
    )
    reader = open_report(bare)
    page = reader.page
    assert page.locator("#confusion, #matches").count() == 0
    assert "Nothing is scored" in page.locator("#treatment-verdicts").inner_text()
    assert "one dose only" in page.locator("#series-note").inner_text()
    assert not page.locator("#series-plots").is_visible()
    assert "Without embeddings" in page.locator("#abreast-note").inner_text()
    assert "Without embeddings" in page.locator("#cells-note").inner_text()
    names = [text.split("\n")[0] for text in page.locator("#cells-shown figcaption").all_inner_texts()]
    assert names == ["By chance", "Untreated"]
    assert not page.locator("#cells-of").is_visible()
    assert page.locator("#heat").is_visible()
    cells = [row.locator("td").all_inner_texts() for row in page.locator("#near tbody tr").all()]
    assert {(row[1], row[2], row[5], row[6]) for row in cells} == {("not known", "–", "–", "–")}


def test_one_treatment_alone_is_compared_with_nobody(open_report: Callable[..., Reader], inputs: ReportInputs) -> None:
    first = inputs.treatments["Metadata_Compound"].isin(["DMSO", "compound 03"])
    alone = inputs.treatments[first & inputs.treatments["Metadata_Concentration"].isin([0.0, 1.0])]
    wells = inputs.wells.merge(alone[TREATMENT], on=TREATMENT).sort_values(WELL, ignore_index=True)
    bare = replace(inputs, scores={}, mechanisms=None, matches=None, treatments=alone, wells=wells)
    page = open_report(bare).page
    assert not page.locator("#heat-card").is_visible()
    assert "nothing to compare" in page.locator("#heat-about").inner_text()
    assert page.locator("#near-note").inner_text() == "There is no other compound."


def test_hostile_names_stay_text(open_report: Callable[..., Reader], hostile_inputs: ReportInputs) -> None:
    reader = open_report(hostile_inputs)
    page = reader.page
    names = {of["name"] for of in reader.data["treatments"]}
    for name in sorted(names)[::5]:
        reader.find(name)
        assert page.locator("#treatment-name").text_content() == name
        neighbour = page.locator("#near tbody button.way").first
        other = neighbour.text_content()
        neighbour.click()
        reader.wait_for(other)
        assert page.evaluate("decodeURIComponent(location.hash.slice('#treatment='.length))") == other
    page.locator("#heat").focus()
    page.keyboard.press("ArrowDown")
    assert set(page.locator("#heat-said .way").all_text_contents()) <= names
    page.get_by_role("button", name="One mechanism").click()
    assert page.locator("#cells b, #treatments b, #cells br, #treatments br, main script").count() == 0


@pytest.mark.parametrize("context", [{"color_scheme": "dark"}, {"is_mobile": True, "has_touch": True}])
def test_all_is_reached_by_keyboard_and_nothing_is_too_wide(
    browser: "playwright.Browser", report_path: Path, context: dict
) -> None:
    reader = Reader(browser, report_path, **context)
    reader.page.set_viewport_size({"width": 390, "height": 800})
    reader.page.wait_for_timeout(300)
    browsing.assert_fits(reader.page, 390)
    pressable = "#treatments :is(button, input, select, canvas[tabindex]), #cells :is(button, input, select)"
    nameless = reader.page.locator(pressable).evaluate_all(
        """all => all.filter(one => one.checkVisibility() && (one.tabIndex < 0 || !(one.textContent.trim()
            || one.getAttribute('aria-label') || one.labels?.length || one.getAttribute('aria-labelledby'))))
            .map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert reader.complaints == []
    reader.page.close()
