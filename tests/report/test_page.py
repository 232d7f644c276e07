import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cytoclr.config import EvaluateSettings, ProtocolChanges, ReportSettings
from cytoclr.errors import DataError
from cytoclr.evaluate import evaluate
from cytoclr.report import ReportInputs, write_report
from cytoclr.report.page import SCRIPTS, escape_json
from cytoclr.storage import hash_file

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
    def text(self) -> str:
        return " ".join("".join("".join(text) for _, _, text in self.found).split(" "))

    @property
    def stamps(self) -> list[str]:
        places = [i for i, (_, attributes, _) in enumerate(self.found) if attributes.get("class") == "stamp"]
        return ["".join(self.found[i + 1][2]).strip() for i in places]

    def rows(self, mark: str) -> dict[str, str]:
        """Text of each table row that bears a mark; what stands in elements of their own is two blanks apart."""
        texts: dict[str, list[str]] = {}
        name = None
        for tag, attributes, text in self.found:
            name = attributes.get(mark) if tag == "tr" or tag in ("figcaption", "table") else name
            if name is not None:
                texts.setdefault(name, []).append(" ".join(" ".join(text).split(" ")).strip())
        return {name: "  ".join(part for part in parts if part) for name, parts in texts.items()}

    def values(self, mark: str, name: str) -> list[float]:
        """All numbers of the row that bears a mark."""
        found, here = [], False
        for tag, attributes, _ in self.found:
            here = attributes.get(mark) == name if tag == "tr" or tag in ("figcaption", "table") else here
            if here and tag == "data":
                found.append(float(attributes["value"]))
        return found

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
    for features, of in list_tables(inputs):
        for score in ("nsc", "nscb"):
            expected = [of[score]["score"], of[score]["correct"], of[score]["total"]]
            assert shown[features, score][:3] == expected


def list_tables(inputs: ReportInputs) -> list[tuple[str, dict]]:
    return [("trained", dict(inputs.scores)), *inputs.scores["baselines"].items()]


def test_the_measures_are_those_of_the_scores(page: Page, inputs: ReportInputs) -> None:
    rows = page.rows("data-measures")
    assert list(rows) == [features for features, _ in list_tables(inputs)]
    for features, of in list_tables(inputs):
        if features == "cell-count":
            assert rows[features].split("  ") == [
                "Cell count",
                "not measured: a single number has no direction to compare",
            ]
            continue
        for value, count, noun in (
            (of["activity"]["map"], of["activity"]["active"], "treatments active"),
            (of["consistency"]["map"], of["consistency"]["consistent"], "mechanisms consistent"),
        ):
            assert f"{value:.2f}  {count} of " in rows[features]
            assert noun in rows[features]
        for key in ("replicating", "matching"):
            share, count, total = of[key]["share"], of[key][key], of[key]["total"]
            assert f"{100 * share:.1f}\xa0%  {count} of {total} treatments" in rows[features]
        values = [of["activity"]["map"], of["replicating"]["share"], of["matching"]["share"], of["consistency"]["map"]]
        assert page.values("data-measures", features) == values


def test_batch_and_plate_are_those_of_the_scores(page: Page, inputs: ReportInputs) -> None:
    rows = page.rows("data-nuisance")
    for key in ("batch", "plate"):
        of = inputs.scores["nuisance"]
        told = [of[when][key]["balanced_accuracy"] for when in ("before", "after")]
        assert page.values("data-nuisance", key) == told
        assert rows[key].count(f"chance {100 * of['after'][key]['chance']:.1f}\xa0%") == 2
        assert f"{of['after'][key]['num_wells']} wells of {of['after'][key]['num_classes']} " in rows[key]


def test_the_probes_are_those_of_the_scores(page: Page, inputs: ReportInputs) -> None:
    by_kind = {(of["held_out"], of["classifier"]): of for of in inputs.scores["probes"]}
    assert len(by_kind) >= 9
    for name, held_out in {"Wells": "well", "Plates": "plate", "Batches": "batch", "Compounds": "compound"}.items():
        found = [
            by_kind[held_out, kind] for kind in ("random-forest", "logistic", "knn") if (held_out, kind) in by_kind
        ]
        assert page.values("data-probe", name) == [of["balanced_accuracy"] for of in found]
        text = page.rows("data-probe")[name]
        for of in found:
            assert f"{of['num_groups_test']} of {of['num_groups_test'] + of['num_groups_train']} held out" in text
            assert f"chance {100 * of['chance']:.1f}\xa0%" in text


def test_the_shape_and_the_choice_of_epoch_are_told(page: Page, inputs: ReportInputs) -> None:
    assert f"{inputs.scores['geometry']['effective_rank']:.1f} independent directions" in page.text
    assert "The encoder of epoch 20 was taken: of 2 measured epochs, the one with the highest mAP" in page.text
    assert "In hindsight, epoch 10 would have had the best NSC: 75.0\xa0%, 5.0 points above." in page.text
    assert "none: it was told nothing of plates, treatments or mechanisms" in page.text


def test_an_honest_score_has_no_stamp(page: Page) -> None:
    assert not page.stamps
    assert [text.strip() for attributes, text in page.all("span") if attributes.get("class") == "told"] == [
        "told mechanisms"
    ]


@pytest.mark.parametrize(
    ("told", "stamp"),
    [
        ({"labels_seen": "treatments"}, "Told the treatments"),
        ({"labels_seen": "mechanisms"}, "Told the mechanisms"),
        ({"labels_seen": "plates"}, None),
        ({"by": "nscb", "uses_mechanisms": True}, "Chosen by its score"),
    ],
)
def test_a_score_that_is_not_an_examination_is_stamped(
    tmp_path: Path, inputs: ReportInputs, told: dict, stamp: str | None
) -> None:
    selection = {**inputs.scores["selection"], **{key: told[key] for key in told if key != "labels_seen"}}
    scores = {**inputs.scores, "labels_seen": told.get("labels_seen", "none"), "selection": selection}
    assert write(tmp_path / "report.html", replace(inputs, scores=scores)).stamps == ([stamp] if stamp else [])


def test_what_was_not_measured_says_why(tmp_path: Path, inputs: ReportInputs) -> None:
    """One well a treatment, one plate, no mechanism: hardly anything can be measured."""
    wells = inputs.wells[(inputs.wells["Metadata_Plate"] == "B1_P1")]
    scores = evaluate(wells, None, EvaluateSettings(), seed=0, normalisation="none").scores
    page = write(tmp_path / "report.html", replace(inputs, scores=scores, matches=None, mechanisms=None))
    for reason in (
        "no treatment has both replicates and untreated wells on its plates",
        "no treatment has replicates to compare",
        "no mechanism is known",
        "the profiles before normalisation were not given",
        "fewer than two batches with untreated wells enough",
    ):
        assert f"not measured: {reason}" in page.text
    assert "No mechanism is known to ask for." in page.text
    assert "there was no choice among epochs" in page.text


def test_the_matches_drawn_add_up_to_the_score(page: Page, inputs: ReportInputs) -> None:
    for score, lines in page.data["matches"].items():
        assert len(lines) == inputs.scores[score]["total"]
        assert sum(right for *_, right, _ in lines) == inputs.scores[score]["correct"]
        names = page.data["treatments"]
        assert all((names[one]["mechanism"] == predicted) == right for one, _, _, right, predicted in lines)
        by_mechanism: dict[str, list[bool]] = {}
        for one, _, _, right, _ in lines:
            by_mechanism.setdefault(names[one]["mechanism"], []).append(right)
        counted = {name: {"correct": sum(of), "total": len(of)} for name, of in by_mechanism.items()}
        assert counted == inputs.scores[score]["by_mechanism"]


def test_neighbours_that_vote_are_told_from_the_nearest(tmp_path: Path, inputs: ReportInputs) -> None:
    voted = rescore(inputs, neighbours=5)
    page = write(tmp_path / "report.html", voted)
    lines, names = page.data["matches"]["nsc"], page.data["treatments"]
    assert sum(right for *_, right, _ in lines) == voted.scores["nsc"]["correct"]
    assert any(names[match]["mechanism"] != predicted for _, match, _, _, predicted in lines)
    assert "5 most similar treatments vote for the same mechanism" in page.text


def test_with_a_protocol_of_wells_each_well_asks(tmp_path: Path, inputs: ReportInputs) -> None:
    by_well = rescore(inputs, level="well")
    page = write(tmp_path / "report.html", by_well)
    assert page.data["asked"] == "wells"
    for score, lines in page.data["matches"].items():
        assert len({one for one, *_ in lines}) == len(lines) == by_well.scores[score]["total"]
        wells, treatments = page.data["wells"], page.data["treatments"]
        assert all((wells[one]["mechanism"] == predicted) == right for one, _, _, right, predicted in lines)
        assert all(treatments[match]["mechanism"] == predicted for _, match, _, _, predicted in lines)
    assert "the protocol asks wells, not treatments" in page.text
    assert "Whom did each well find?" in page.text


def rescore(inputs: ReportInputs, **changes: object) -> ReportInputs:
    """Score the same run by a protocol of one's own."""
    changed = ProtocolChanges(**changes)
    settings = EvaluateSettings(bootstraps=100, permutations=100, probe=False, protocol_changes=changed)
    found = evaluate(inputs.wells, inputs.mechanisms, settings, seed=0, normalisation="none")
    return replace(inputs, scores=found.scores, matches=found.matches)


def test_refuses_matches_of_a_well_without_profile(tmp_path: Path, inputs: ReportInputs) -> None:
    by_well = rescore(inputs, level="well")
    assert by_well.matches is not None
    lost = by_well.matches.assign(Metadata_Well="Z99")
    with pytest.raises(DataError, match=r"matches: B1_P1 Z99 has no well profile\. Run evaluate again"):
        write(tmp_path / "report.html", replace(by_well, matches=lost))


def test_doses_are_compared_to_six_digits(tmp_path: Path, inputs: ReportInputs) -> None:
    """As scores compare them: a table that passed through single precision is still the same."""
    third = {0.1: 0.1 / 3}
    wells, treatments, cells = (
        frame.assign(Metadata_Concentration=frame["Metadata_Concentration"].replace(third))
        for frame in (inputs.wells, inputs.treatments, inputs.cells)
    )
    assert inputs.mechanisms is not None
    single = inputs.mechanisms.assign(
        Metadata_Concentration=inputs.mechanisms["Metadata_Concentration"]
        .replace(third)
        .astype("float32")
        .astype(float)
    )
    narrow = rescore(replace(inputs, wells=wells, treatments=treatments, cells=cells, mechanisms=single))
    page = write(tmp_path / "report.html", narrow)
    assert len(page.data["matches"]["nsc"]) == narrow.scores["nsc"]["total"] == 48
    assert all(point["mechanism"] for point in page.data["treatments"])


def test_a_mechanism_may_hold_for_every_concentration(tmp_path: Path, inputs: ReportInputs) -> None:
    assert inputs.mechanisms is not None
    by_compound = inputs.mechanisms.drop_duplicates("Metadata_Compound").assign(Metadata_Concentration=float("nan"))
    page = write(tmp_path / "report.html", replace(inputs, mechanisms=by_compound))
    assert all(point["mechanism"] for point in page.data["treatments"])


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


@pytest.mark.promise("Nobody let in", "On the report only its own scripts and styles may run (CSP by their hashes)")
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


@pytest.mark.promise("Nobody let in", "The report loads nothing from elsewhere")
def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for tag, attributes, _ in page.found:
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/webp")), (tag, attributes)
    assert not page.all("link")


@pytest.mark.promise("Nobody let in", "Hostile names are text on the report")
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


@pytest.mark.promise("Nobody let in", "The data in the report hold nothing that HTML could read")
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
    assert sum(text.strip().startswith(reason) for _, text in page.all("p")) == 2
    assert page.data["matches"] == {}
    assert {point["mechanism"] for point in page.data["treatments"]} == {None}


def test_two_treatments_are_enough_for_a_page(tmp_path: Path, inputs: ReportInputs) -> None:
    few = inputs.treatments[inputs.treatments["Metadata_Compound"] == "compound 00"]
    wells = inputs.wells[inputs.wells["Metadata_Compound"] == "compound 00"]
    page = write(tmp_path / "report.html", replace(inputs, treatments=few, wells=wells, matches=None))
    assert page.data["layouts"] == {"treatments": [], "wells": []}


def test_a_seed_decides_the_page(tmp_path: Path, report_path: Path, inputs: ReportInputs) -> None:
    write(tmp_path / "again.html", inputs)
    assert hash_file(tmp_path / "again.html") == hash_file(report_path)  # not by bytes: their difference takes minutes


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


def test_no_name_stands_twice_in_the_scripts() -> None:
    """They are parts of one module: a second declaration would stop it, or take the place of the first."""
    declared: dict[str, str] = {}
    for name in SCRIPTS:
        for found in re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", read_script(name), re.MULTILINE):
            assert declared.setdefault(found, name) == name, f"{found} stands in {declared[found]} and {name}"


def read_script(name: str) -> str:
    return (VENDOR.parent / "script" / name).read_text(encoding="utf-8")
