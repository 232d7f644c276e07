import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.config import ReportSettings
from cytoclr.errors import DataError
from cytoclr.report import ReportInputs, write_report
from cytoclr.report.page import escape_json

VENDOR = Path(__file__).parents[2] / "src/cytoclr/report/vendor"


class Page(HTMLParser):
    """What a browser makes of the page: its elements, each with its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict, list[str]]] = []
        self.open: list[list[str]] = [[]]
        self.where: list[dict] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def all(self, tag: str) -> list[tuple[dict, str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]

    @property
    def data(self) -> dict:
        return json.loads(next(text for attributes, text in self.all("script") if attributes.get("id")))


def write(path: Path, inputs: ReportInputs, **settings: object) -> Page:
    write_report(path, inputs, ReportSettings(**settings), seed=0)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(report_path: Path) -> Page:
    return Page(report_path.read_text(encoding="utf-8"))


def test_the_numbers_are_those_of_the_scores(page: Page, inputs: ReportInputs) -> None:
    """Walk the page: each row of the figure says whose it is, each cell which score, each number its exact value."""
    shown: dict[tuple[str, str], list[float]] = {}
    features = score = ""
    for tag, attributes, _ in page.found:
        features = attributes.get("data-features", features)
        score = attributes.get("data-score", score)
        if "value" in attributes and features and tag == "data":
            shown.setdefault((features, score), []).append(float(attributes["value"]))
    for features in ("trained", "untrained", "intensities"):
        of = inputs.scores if features == "trained" else inputs.scores["baselines"][features]
        for score in ("nsc", "nscb"):
            expected = [of[score]["score"], of[score]["correct"], of[score]["total"]]
            assert shown[features, score][:3] == expected


def test_the_matches_drawn_add_up_to_the_score(page: Page, inputs: ReportInputs) -> None:
    for score, lines in page.data["matches"].items():
        assert len(lines) == inputs.scores[score]["total"]
        assert sum(right for *_, right in lines) == inputs.scores[score]["correct"]
        names = page.data["treatments"]
        assert all((names[one]["mechanism"] == names[two]["mechanism"]) == right for one, two, _, right in lines)


def test_points_own_the_cells_shown_with_them(page: Page, inputs: ReportInputs) -> None:
    wells = page.data["wells"]
    assert len(wells) == len(inputs.wells)
    assert all(1 <= len(point["cells"]) <= 8 for point in wells)
    tiles = [tile for point in wells for tile in point["cells"]]
    assert len(set(tiles)) == len(tiles)
    treatment_of = {tile: point["treatment"] for point in wells for tile in point["cells"]}
    for number, point in enumerate(page.data["treatments"]):
        assert point["cells"]
        assert {treatment_of[tile] for tile in point["cells"]} == {number}


def test_only_named_scripts_and_styles_may_run(page: Page, report_path: Path) -> None:
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    text = report_path.read_text(encoding="utf-8")
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    for part in scripts + styles:
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for tag, attributes, _ in page.found:
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/webp")), (tag, attributes)
    assert not page.all("link")


def test_hostile_names_are_text(tmp_path: Path, hostile_inputs: ReportInputs) -> None:
    harm = "</title><script>alert(2)</script>"
    page = write(
        tmp_path / "report.html",
        replace(hostile_inputs, warnings=[harm], left_out=[harm], settings_text=harm, provenance={harm: {"a": harm}}),
        title=harm,
    )
    assert len(page.all("script")) == 3
    assert not page.all("b")
    assert page.all("title")[0][1].strip() == harm
    compounds = {point["compound"] for point in page.data["treatments"]}
    assert compounds == set(hostile_inputs.treatments["Metadata_Compound"]) - {"DMSO"}


def test_json_holds_nothing_that_html_could_read() -> None:
    value = {"a</script>": ["<!--", "&amp;", "\u2028\u2029", 'quote"', "é🧪"]}
    text = escape_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        escape_json(float("nan"))


def test_without_mechanisms_the_page_says_why(tmp_path: Path, inputs: ReportInputs) -> None:
    reason = "No mechanism table was given."
    bare = replace(inputs, scores={"nsc": None, "reason": reason}, matches=None, mechanisms=None, metrics=())
    page = write(tmp_path / "report.html", bare)
    assert sum(text.strip() == reason for _, text in page.all("p")) == 2
    assert page.data["matches"] == {}
    assert {point["mechanism"] for point in page.data["treatments"]} == {None}


def test_two_treatments_are_enough_for_a_page(tmp_path: Path, inputs: ReportInputs) -> None:
    few = inputs.treatments[inputs.treatments["Metadata_Compound"] == "compound 00"]
    wells = inputs.wells[inputs.wells["Metadata_Compound"] == "compound 00"]
    page = write(tmp_path / "report.html", replace(inputs, treatments=few, wells=wells, matches=None))
    assert page.data["layouts"] == {"treatments": [], "wells": []}


def test_a_seed_decides_the_page(tmp_path: Path, report_path: Path, inputs: ReportInputs) -> None:
    write(tmp_path / "again.html", inputs)
    assert (tmp_path / "again.html").read_bytes() == report_path.read_bytes()


def test_refuses_cells_that_are_not_the_crops(tmp_path: Path, inputs: ReportInputs) -> None:
    with pytest.raises(DataError, match="cells table has 100 rows, the crops are 1,296"):
        write(tmp_path / "report.html", replace(inputs, cells=inputs.cells.iloc[:100]))


def test_refuses_matches_without_profile(tmp_path: Path, inputs: ReportInputs) -> None:
    assert inputs.matches is not None
    lost = inputs.matches.assign(Match_Compound="unheard of")
    with pytest.raises(DataError, match=r"unheard of .* has no treatment profile"):
        write(tmp_path / "report.html", replace(inputs, matches=lost))


def test_refuses_treatments_without_wells(tmp_path: Path, inputs: ReportInputs) -> None:
    wells = inputs.wells[inputs.wells["Metadata_Compound"] != "compound 03"]
    with pytest.raises(DataError, match=r"compound 03 .* has no well profile"):
        write(tmp_path / "report.html", replace(inputs, wells=wells))


def test_refuses_profiles_that_are_not_finite(tmp_path: Path, inputs: ReportInputs) -> None:
    treatments = inputs.treatments.assign(Cells_SSL_0000=float("nan"))
    with pytest.raises(DataError, match="profiles of treatments hold values that are not finite"):
        write(tmp_path / "report.html", replace(inputs, treatments=treatments))


def test_refuses_a_table_without_its_columns(tmp_path: Path, inputs: ReportInputs) -> None:
    with pytest.raises(DataError, match="lacks the column Metadata_Batch"):
        write(tmp_path / "report.html", replace(inputs, wells=inputs.wells.drop(columns="Metadata_Batch")))


def test_inputs_are_left_as_they_were(inputs: ReportInputs, tmp_path: Path) -> None:
    before = inputs.wells.copy(), inputs.cells.copy()
    write(tmp_path / "report.html", inputs)
    pd.testing.assert_frame_equal(inputs.wells, before[0])
    pd.testing.assert_frame_equal(inputs.cells, before[1])


def test_the_vendored_script_is_the_published_one() -> None:
    digest, name = (VENDOR / "plotly-strict.min.js.sha256").read_text().split()
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (VENDOR / "LICENSE.plotly").read_text()


def test_plates_stand_in_the_order_people_count(tmp_path: Path, inputs: ReportInputs) -> None:
    cells = inputs.cells.assign(Metadata_Batch=inputs.cells["Metadata_Batch"].replace("week 1", "week 10"))
    page = write(tmp_path / "report.html", replace(inputs, cells=cells))
    batches = [text for _, text in page.all("td") if text.startswith("week")]
    assert batches == ["week 2", "week 2", "week 10", "week 10"]
