"""The map in a real browser: cells, concentrations, search, selection, what a press opens, and very many points."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import CHROMIUM, FLAGS, NEEDS_BROWSER, assert_fits

from cytoclr.report import ReportInputs
from cytoclr.report.page import escape_json

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = NEEDS_BROWSER
POINTS = "#map-plot .points path"
BLOCK = re.compile(r'(?<=id="report-data">).*?(?=</script>)', re.DOTALL)
OPACITY = "all => all.map(one => Number(one.style.opacity || 1))"
MANY = 4000


def read_data(path: Path) -> dict:
    """What a page's script draws."""
    return json.loads(BLOCK.search(path.read_text(encoding="utf-8")).group())


def change_data(path: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """The same page with other data."""
    text = path.read_text(encoding="utf-8")
    data = read_data(path)
    change(data)
    changed = folder / "changed.html"
    changed.write_text(BLOCK.sub(lambda _: escape_json(data), text), encoding="utf-8")
    return changed


def show_many_wells(data: dict) -> None:
    wells = data["wells"]
    data["wells"] = [{**wells[i % len(wells)], "plate": f"plate {i // 96}"} for i in range(MANY)]
    for layout in data["layouts"]["wells"]:
        layout["x"] = [i % 61 for i in range(MANY)]
        layout["y"] = [i // 61 for i in range(MANY)]


@pytest.fixture
def open_map(open_page: Callable, report_path: Path) -> Callable:
    """Open the map of a page, at a level."""

    def open_level(level: str = "Treatments", path: Path = report_path, **context: object) -> tuple:
        page, complaints = open_page(path, **context)
        page.wait_for_selector(POINTS)
        choose(page, level)
        return page, complaints

    return open_level


def choose(page: "playwright.Page", name: str) -> None:
    page.locator("#map-level, #map-drag, #map-method").get_by_role("button", name=name, exact=True).click()


def seek(page: "playwright.Page", text: str) -> None:
    page.get_by_label("Find", exact=True).fill(text)
    page.wait_for_timeout(400)


def show_plot(page: "playwright.Page") -> None:
    # at once: the page itself scrolls smoothly, and pointers would miss
    page.locator("#map-plot").evaluate("one => one.scrollIntoView({behavior: 'instant', block: 'center'})")


def drag_over_all(page: "playwright.Page") -> None:
    show_plot(page)
    box = page.locator("#map-plot .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        page.mouse.move(box["x"] + share * box["width"] - 3, box["y"] + share * box["height"] - 3, steps=4)
    page.mouse.up()
    page.wait_for_timeout(400)


def download_rows(page: "playwright.Page") -> list[list[str]]:
    with page.expect_download() as started:
        page.get_by_role("button", name="Download CSV").click()
    content = Path(started.value.path()).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_cells_are_points_too(open_map: Callable, report_path: Path) -> None:
    page, complaints = open_map("Cells")
    cells = read_data(report_path)["cells"]
    assert page.locator(POINTS).count() == len(cells["id"])
    pictured = next(i for i, tile in enumerate(cells["tile"]) if tile >= 0)
    page.locator("#map-point").select_option(str(pictured))
    assert cells["id"][pictured] in page.locator("#map-details .about").first.text_content()
    assert page.locator("#map-details canvas.one").count() == 1
    page.get_by_role("button", name="More cells, larger").click()
    assert page.locator("#gallery figcaption bdi").all_text_contents()[:2] == ["This cell", "Others of its well"]
    assert complaints == []


def test_without_cells_no_such_level_is_offered(open_map: Callable, report_path: Path, tmp_path: Path) -> None:
    page, complaints = open_map("Wells", change_data(report_path, tmp_path, lambda data: data.update(cells={})))
    assert page.locator("#map-level button").all_text_contents() == ["Treatments", "Wells"]
    assert complaints == []


def test_a_layout_that_a_level_lacks_is_not_offered(open_map: Callable, report_path: Path, tmp_path: Path) -> None:
    page, _ = open_map("Cells", change_data(report_path, tmp_path, lambda data: data["cells"]["layouts"].pop(0)))
    offered = page.locator("#map-method button:visible")
    assert offered.all_text_contents() == ["UMAP", "PCA"]
    assert offered.first.get_attribute("aria-pressed") == "true"


def test_concentrations_have_a_scale(open_map: Callable, report_path: Path, tmp_path: Path) -> None:
    doses = [0.001, 0.01, 0.1, 1, 10, 100]

    def dilute(data: dict) -> None:
        for number, point in enumerate(data["treatments"] + data["wells"]):
            point["dose"] = 0 if point.get("control") else doses[number % len(doses)]

    page, complaints = open_map("Wells", change_data(report_path, tmp_path, dilute))
    page.get_by_label("Colour").select_option("dose")
    scale = page.locator("#map-legend .scale")
    assert scale.get_attribute("aria-label") == "Concentration from 0.001 to 100 µM, logarithmic"
    assert scale.locator(".ticks span").all_text_contents() == ["0.001", "0.01", "0.1", "1", "10", "100"]
    lefts = scale.locator(".ticks span").evaluate_all("all => all.map(one => parseFloat(one.style.left))")
    assert lefts == pytest.approx([0, 20, 40, 60, 80, 100], abs=0.01)
    fills = page.eval_on_selector_all(POINTS, "all => [...new Set(all.map(one => one.style.fill))]")
    assert len(fills) == len(doses) + 1  # and the untreated
    assert "rgb(68, 1, 84)" in fills
    assert "rgb(253, 231, 37)" in fills
    assert complaints == []


def test_concentrations_within_ten_times_are_linear(open_map: Callable) -> None:
    page, _ = open_map()
    page.get_by_label("Colour").select_option("dose")
    label = page.locator("#map-legend .scale").get_attribute("aria-label")
    assert label == "Concentration from 0.1 to 1 µM, linear"


def test_search_rings_counts_and_opens(open_map: Callable, inputs: ReportInputs) -> None:
    page, complaints = open_map("Wells")
    total = len(inputs.wells)
    expected = int((inputs.wells["Metadata_Compound"] == "compound 03").sum())
    seek(page, "COMPOUND 03")
    assert page.locator("#map-found").text_content() == f"{expected} of {total} found"
    opacities = page.eval_on_selector_all("#map-plot .scatterlayer .trace", OPACITY)
    points = page.locator(POINTS)
    assert points.count() == total + expected  # the rings
    assert min(opacities) < 0.3 < max(opacities)
    search = page.get_by_label("Find", exact=True)
    search.press("ArrowDown")
    search.press("ArrowDown")
    assert page.locator("#map-found").text_content().startswith(f"2 of {expected} found: compound 03 0.1 µM")
    seek(page, "compound 03 1 μm")  # with the other sign of micro
    search.press("Enter")
    assert page.locator("#gallery-title").text_content() == "compound 03 1 µM"
    page.keyboard.press("Escape")
    assert search.evaluate("one => one === document.activeElement")
    search.press("Escape")
    assert search.input_value() == ""
    assert points.count() == total
    assert page.locator("#map-found").text_content() == ""
    seek(page, "nothing of this name")
    assert page.locator("#map-found").text_content() == f"none of {total} found"
    assert page.get_by_role("button", name="Select what is found").is_disabled()
    assert complaints == []


@pytest.mark.parametrize("sought", ["Eg5", "B2_P1", "A07"])
def test_mechanisms_plates_and_wells_are_found(open_map: Callable, report_path: Path, sought: str) -> None:
    page, _ = open_map("Wells")
    wells = read_data(report_path)["wells"]
    found = [well for well in wells if sought in f"{well['mechanism']}\n{well['plate']}\n{well['well']}"]
    assert 0 < len(found) < len(wells)
    seek(page, sought.lower())
    assert page.locator("#map-found").text_content() == f"{len(found)} of {len(wells)} found"


def test_a_selection_is_listed_kept_and_cleared(open_map: Callable) -> None:
    page, complaints = open_map("Wells")
    seek(page, "compound 1")
    page.get_by_role("button", name="Select what is found").click()
    rows = page.locator("#map-rows tbody tr")
    listed = rows.all_inner_texts()
    names = page.locator("#map-rows tbody td:first-child").all_text_contents()
    assert len(names) == 40
    assert names == sorted(names)
    assert page.locator("#map-rows th").all_text_contents() == [
        "Name",
        "Compound",
        "Concentration, µM",
        "Mechanism",
        "Plate",
        "Well",
        "Batch",
    ]
    page.get_by_label("Find", exact=True).press("Escape")
    page.get_by_label("Colour").select_option("batch")
    choose(page, "PCA")
    assert rows.all_inner_texts() == listed
    assert page.locator("#map-selected").text_content() == "40 wells"
    opacities = page.eval_on_selector_all("#map-plot .scatterlayer .trace", OPACITY)
    assert set(opacities) == {0.16, 1.0}  # others fade
    choose(page, "Treatments")
    assert page.locator("#map-selection").is_hidden()
    assert complaints == []


@pytest.mark.parametrize("drag", ["Lasso", "Box"])
def test_points_are_selected_on_the_map(open_map: Callable, inputs: ReportInputs, drag: str) -> None:
    page, complaints = open_map("Wells")
    choose(page, drag)
    if drag == "Box":
        drag_over_all(page)
        assert page.locator("#map-selected").text_content() == f"{len(inputs.wells)} wells"
    else:
        show_plot(page)
        box = page.locator("#map-plot .nsewdrag").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        for x, y in ((0.5, 0.02), (0.5, 0.98), (0.01, 0.98), (0.01, 0.1)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        page.mouse.up()
        page.wait_for_timeout(400)
        count = page.locator("#map-rows tbody tr").count()
        assert 0 < count < len(inputs.wells)
    # only the selection remains, not Plotly's outline of it
    assert page.locator("#map-plot .selectionlayer path, #map-plot .select-outline").count() == 0
    page.get_by_role("button", name="Clear", exact=True).click()
    assert page.locator("#map-selection").is_hidden()
    assert complaints == []


def test_long_selections_are_listed_in_part_and_saved_whole(open_map: Callable, report_path: Path) -> None:
    page, complaints = open_map("Cells")
    cells = read_data(report_path)["cells"]
    choose(page, "Box")
    drag_over_all(page)
    total = len(cells["id"])
    assert total > 200
    assert page.locator("#map-selected").text_content() == f"{total:,} cells; the first 200 are listed, the CSV has all"
    assert page.locator("#map-rows tbody tr").count() == 200
    head, *rows = download_rows(page)
    assert head[-2:] == ["Cell", "Batch"]
    assert sorted(row[-2] for row in rows) == sorted(cells["id"])
    assert complaints == []


def test_a_table_of_formulas_stays_text(open_map: Callable, report_path: Path, tmp_path: Path) -> None:
    names = ["=1+1", "+x", "-y", "@sum", "\ttab", "\rcr", "-1.5", "+2e3", 'say "hi", you', "plain", "-"]

    def rename(data: dict) -> None:
        for point, name in zip(data["treatments"], names, strict=False):
            point["compound"] = point["name"] = name
            point["mechanism"] = "to be found"

    page, complaints = open_map("Treatments", change_data(report_path, tmp_path, rename))
    seek(page, "to be found")
    page.get_by_role("button", name="Select what is found").click()
    saved = {row[1] for row in download_rows(page)[1:]}
    plain = {"-1.5", "+2e3", 'say "hi", you', "plain"}
    assert saved == {name if name in plain else f"'{name}" for name in names}
    assert complaints == []


def test_names_are_copied(open_map: Callable) -> None:
    page, complaints = open_map("Wells", permissions=["clipboard-read", "clipboard-write"])
    seek(page, "compound 05")
    page.get_by_role("button", name="Select what is found").click()
    page.get_by_role("button", name="Copy names").click()
    page.locator("#map-selected", has_text="copied").wait_for()
    assert page.locator("#map-selected").text_content() == "2 names copied"
    assert page.evaluate("navigator.clipboard.readText()") == "compound 05 0.1 µM\ncompound 05 1 µM"
    assert complaints == []


def test_a_press_opens_the_cells(open_map: Callable, report_path: Path) -> None:
    page, complaints = open_map()
    show_plot(page)
    box = page.locator(POINTS).nth(5).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#gallery[open]")
    groups = page.locator("#gallery figcaption bdi").all_text_contents()
    assert groups == ["Typical", "Untypical", "By chance", "Untreated"]
    assert page.locator("#gallery figure canvas").count() == 4
    px = read_data(report_path)["tiles"]["px"]
    width, height = page.locator("#gallery canvas").last.evaluate("one => [one.width, one.height]")
    assert width * height == 16 * px * px  # sixteen untreated cells
    page.keyboard.press("Escape")
    choose(page, "Wells")
    page.get_by_role("button", name="More cells, larger").click()
    assert page.locator("#gallery figcaption bdi").first.text_content() == "Cells of the well"
    assert complaints == []


def test_the_neighbour_is_ringed_and_joined(open_map: Callable) -> None:
    page, _ = open_map()
    assert page.locator("#map-plot .shapelayer path").count() == 3
    choose(page, "Wells")
    assert page.locator("#map-plot .shapelayer path").count() == 1


def test_the_legend_hides_from_search(open_map: Callable) -> None:
    page, _ = open_map()
    button = page.locator("#map-legend button", has_text="Epithelial")
    button.focus()
    button.press("Space")
    assert button.evaluate("one => one === document.activeElement")
    seek(page, "0.1 µM")
    found = page.locator("#map-found").text_content()
    button.press("Space")
    assert found == "4 of 48 found"
    assert page.locator("#map-found").text_content() == "24 of 48 found"


@pytest.fixture(params=["--enable-unsafe-swiftshader", "--disable-3d-apis"], ids=["webgl", "no-webgl"])
def crowded(
    engine: "playwright.Playwright", request: pytest.FixtureRequest, report_path: Path, tmp_path: Path
) -> Iterator["playwright.Page"]:
    """The map of very many wells, in a browser with WebGL and in one without."""
    errors: list[str] = []
    browser = engine.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, request.param])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(change_data(report_path, tmp_path, show_many_wells).as_uri())
    page.wait_for_selector(POINTS)
    choose(page, "Wells")
    yield page
    browser.close()
    assert errors == []


def test_very_many_points_are_drawn_without_elements(crowded: "playwright.Page") -> None:
    has_webgl = crowded.evaluate("Boolean(document.createElement('canvas').getContext('webgl'))")
    if has_webgl:
        assert crowded.locator("#map-thinned").is_hidden()
        assert crowded.locator(POINTS).count() == 0
        assert crowded.locator("#map-plot canvas").count() > 0
    else:
        assert crowded.locator("#map-thinned").text_content().endswith("one of 2 of the 4,000 points is drawn.")
        assert crowded.locator(POINTS).count() == MANY / 2
    choose(crowded, "Box")
    drag_over_all(crowded)
    crowded.wait_for_selector("#map-selection:visible")
    assert crowded.locator("#map-selected").text_content().startswith(f"{MANY if has_webgl else MANY // 2:,} wells;")


def test_very_many_points_have_a_search_instead_of_a_list(crowded: "playwright.Page") -> None:
    assert crowded.locator("#map-pick").is_hidden()
    assert crowded.locator("#map-point option").count() == 0
    seek(crowded, "plate 17")
    crowded.wait_for_function("document.getElementById('map-found').textContent !== ''")
    assert crowded.locator("#map-found").text_content() == f"96 of {MANY:,} found"
    crowded.get_by_label("Find", exact=True).press("Enter")
    assert "plate 17" in crowded.locator("#gallery-about").text_content()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(open_map: Callable, color_scheme: str) -> None:
    page, complaints = open_map("Cells", color_scheme=color_scheme, is_mobile=True, has_touch=True)
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_label("Colour").select_option("dose")
    seek(page, "compound 03")
    page.get_by_role("button", name="Select what is found").click()
    page.wait_for_timeout(300)
    assert_fits(page, 390)
    assert complaints == []
