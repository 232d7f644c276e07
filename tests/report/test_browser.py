"""The page in a real browser, opened from a file, as a reader opens it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import browsing
import pytest

from cytoclr.config import EvaluateSettings, ProtocolChanges, ReportSettings
from cytoclr.evaluate import evaluate
from cytoclr.report import ReportInputs, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = browsing.NEEDS_BROWSER


class Reader(browsing.Reader):
    """Of the page as a whole."""

    READY = "#map-plot .points path"

    def outside_requests(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]

    def fills(self) -> set[str]:
        return set(self.page.eval_on_selector_all("#map-plot .points path", "all => all.map(one => one.style.fill)"))


@pytest.fixture
def reader(browser: "playwright.Browser", report_path: Path) -> Iterator[Reader]:
    reader = Reader(browser, report_path)
    yield reader
    reader.page.close()
    assert reader.complaints == []
    assert reader.outside_requests() == []


def test_points_are_drawn_and_change_with_level_and_layout(reader: Reader, inputs: ReportInputs) -> None:
    points = reader.page.locator("#map-plot .points path")
    num_treatments = len(inputs.treatments) - 1  # without the untreated
    assert points.count() == num_treatments
    before = points.first.get_attribute("transform")
    reader.page.get_by_role("button", name="PCA").click()
    assert points.first.get_attribute("transform") != before
    reader.page.get_by_role("button", name="Wells", exact=True).click()
    assert points.count() == len(inputs.wells)


@pytest.mark.promise("Nobody let in", "No button of the report sends a figure to a server")
def test_no_button_sends_a_figure_away(reader: Reader) -> None:
    buttons = reader.page.eval_on_selector_all(".modebar-btn", "all => all.map(one => one.dataset.title)")
    assert set(buttons) == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


def test_colours_change(reader: Reader) -> None:
    by_mechanism = reader.fills()
    reader.page.get_by_label("Colour").select_option("batch")
    by_batch = reader.fills()
    assert len(by_batch) < len(by_mechanism)
    reader.page.get_by_label("Colour").select_option("nscb")
    legend = reader.page.locator("#map-legend button").all_text_contents()
    assert legend == ["right", "wrong"]


def test_pointing_shows_cells(reader: Reader) -> None:
    page = reader.page
    page.locator("#map-plot").scroll_into_view_if_needed()
    shown = set()
    for place in (0, 9, 30):
        box = page.locator("#map-plot .points path").nth(place).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(200)
        shown.add(page.locator("#map-details h4").first.text_content())
    assert len(shown) == 3
    lit = (
        "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some((v, i) => i % 4 < 3 && v > 40)"
    )
    assert page.locator("#map-details canvas").first.evaluate(lit)


COLOURS_OF = """one => {
    // of a copy: the browser remarks on canvases that are read often
    const copy = Object.assign(document.createElement('canvas'), {width: one.width, height: one.height});
    const context = copy.getContext('2d', {willReadFrequently: true});
    context.drawImage(one, 0, 0);
    const pixels = context.getImageData(0, 0, one.width, one.height).data;
    const sums = [0, 0, 0];
    pixels.forEach((value, i) => { if (i % 4 < 3) sums[i % 4] += value; });
    return sums;
}"""


def test_channels_are_switched_everywhere(reader: Reader) -> None:
    page = reader.page
    page.wait_for_timeout(300)
    canvas = page.locator("#map-details canvas").first
    red, green, blue = canvas.evaluate(COLOURS_OF)
    page.locator("#map-card .channels button", has_text="Actin").click()
    page.wait_for_timeout(200)
    less_red, *_ = canvas.evaluate(COLOURS_OF)
    assert less_red < 0.8 * red
    assert green > 0
    page.locator("#map-card .channels button", has_text="Tubulin").click()
    page.wait_for_timeout(200)
    sums = canvas.evaluate(COLOURS_OF)
    assert min(sums) == pytest.approx(max(sums), rel=0.01)  # one channel alone is grey
    page.locator("#map-card .channels button", has_text="DNA").click()  # the last one stays on
    assert page.locator(".channels button[aria-pressed=true]").count() == page.locator(".channels").count()
    page.locator("#map-card .channels button", has_text="all").click()
    page.wait_for_timeout(200)
    assert canvas.evaluate(COLOURS_OF) == [red, green, blue]


def test_the_legend_shows_a_group_alone(reader: Reader) -> None:
    button = reader.page.locator("#map-legend button").first
    button.click()
    pressed = reader.page.locator("#map-legend button[aria-pressed=true]")
    assert pressed.count() == 1
    faint = "all => all.filter(one => Number(one.style.opacity) < 0.5).length"
    assert reader.page.eval_on_selector_all("#map-plot .scatterlayer .trace", faint) == 5
    assert button.evaluate("one => one === document.activeElement")
    button.press("Enter")
    assert pressed.count() == 6


def test_the_matrix_counts_and_selects(reader: Reader, inputs: ReportInputs) -> None:
    page = reader.page
    for label, score in (("(NSC)", "nsc"), ("(NSCB)", "nscb")):
        page.get_by_role("button", name=label).click()
        counts = [int(text) for text in page.locator("#confusion td button").all_text_contents()]
        assert sum(counts) == inputs.scores[score]["total"]
        assert page.locator("#matches tbody .right").count() == inputs.scores[score]["correct"]
        of = inputs.scores[score]
        assert page.locator("#confusion tbody th").all_text_contents() == of["confusion"]["mechanisms"]
        assert counts == [count for row in of["confusion"]["counts"] for count in row if count]
        shares = page.locator("#confusion td.total").all_text_contents()
        assert shares == [f"{hits['correct']} of {hits['total']}" for hits in of["by_mechanism"].values()]
    page.locator("#confusion td button").first.click()
    assert page.locator("#matches tbody tr").count() == counts[0]
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#matches tbody tr").count() == sum(counts)


def test_with_a_protocol_of_wells_each_well_is_shown(
    browser: "playwright.Browser", tmp_path: Path, inputs: ReportInputs
) -> None:
    settings = EvaluateSettings(
        bootstraps=100, permutations=100, probe=False, protocol_changes=ProtocolChanges(level="well")
    )
    found = evaluate(inputs.wells, inputs.mechanisms, settings, seed=0, normalisation="none")
    path = tmp_path / "report.html"
    write_report(path, replace(inputs, scores=found.scores, matches=found.matches), ReportSettings(), seed=0)
    reader = Reader(browser, path)
    page = reader.page
    counts = [int(text) for text in page.locator("#confusion td button").all_text_contents()]
    assert sum(counts) == page.locator("#matches tbody tr").count() == found.scores["nscb"]["total"]
    assert page.get_by_role("button", name="Wells").get_attribute("aria-pressed") == "true"
    page.get_by_label("Colour").select_option("nscb")
    assert set(page.locator("#map-legend button").all_text_contents()) == {"right", "wrong", "not scored"}
    page.get_by_role("button", name="Treatments").click()
    assert page.locator("#map-legend button").all_text_contents() == ["asked well by well"]
    assert reader.complaints == []
    page.close()


def test_every_curve_of_the_training_is_drawn(reader: Reader) -> None:
    page = reader.page
    page.wait_for_selector("#curve-probe .scatterlayer path")
    drawn = {
        figure.get_attribute("id"): figure.locator(".scatterlayer .trace").count()
        for figure in page.locator("#training .plot").all()
    }
    assert drawn == {
        "curve-loss": 3,
        "curve-geometry": 2,
        "curve-rank": 2,
        "curve-gradient": 2,
        "curve-rate": 1,
        "curve-speed": 1,
        "curve-wait": 1,
        "curve-probe": 2,
    }
    pictures = page.locator("#training .strip img")
    assert pictures.count() == 12
    assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth === 80)")


def test_the_table_sorts(reader: Reader) -> None:
    page = reader.page
    for order in ("ascending", "descending"):
        page.get_by_role("button", name="Similarity").click()
        assert page.locator("#matches th[aria-sort]").get_attribute("aria-sort") == order
        values = [float(text) for text in page.locator("#matches td.number").all_text_contents()]
        assert values == sorted(values, reverse=order == "descending")


@pytest.mark.promise("Nobody let in", "Hostile names stay text in a real browser, which asks no other machine")
def test_hostile_names_stay_text(browser: "playwright.Browser", tmp_path: Path, hostile_inputs: ReportInputs) -> None:
    path = tmp_path / "report.html"
    write_report(path, hostile_inputs, ReportSettings(title="<b>T</b>"), seed=0)
    reader = Reader(browser, path)
    page = reader.page
    page.get_by_label("Colour").select_option("compound")
    page.get_by_role("button", name="Wells").click()
    legend = set(page.locator("#map-legend button").all_text_contents())
    assert legend == set(hostile_inputs.treatments["Metadata_Compound"]) - {"DMSO"} | {"untreated"}
    assert page.locator("main b, main i, main script, main br").count() == 0
    assert page.locator("h1").text_content() == "<b>T</b>"
    assert reader.complaints == []
    page.close()


@pytest.mark.parametrize("context", [{"color_scheme": "dark"}, {"is_mobile": True, "has_touch": True}])
def test_nothing_is_wider_than_the_screen(browser: "playwright.Browser", report_path: Path, context: dict) -> None:
    reader = Reader(browser, report_path, **context)
    for width in (1280, 390):
        reader.page.set_viewport_size({"width": width, "height": 800})
        reader.page.wait_for_timeout(300)
        browsing.assert_fits(reader.page, width)
    assert reader.complaints == []
    reader.page.close()
