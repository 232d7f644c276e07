"""The page that compares runs, and the page in a real browser."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import CHROMIUM, assert_fits
from conftest import blur_profiles, make_metrics

from cytoclr.config import EvaluateSettings
from cytoclr.evaluate import compare_runs, evaluate
from cytoclr.report import ComparedRun, ReportInputs, leave_out_untreated, write_comparison
from cytoclr.report.comparison import list_differing, list_disagreements
from cytoclr.tables import TREATMENT


def make_run(inputs: ReportInputs, name: str, noise: float, **settings: object) -> ComparedRun:
    """The same screen, its profiles drowned in noise."""
    wells = blur_profiles(inputs.wells, noise, np.random.default_rng(5))
    numbers = [column for column in wells if str(column).startswith("Cells_")]
    treatments = wells.groupby(TREATMENT, as_index=False)[numbers].mean()
    how = EvaluateSettings(bootstraps=100, permutations=100, probe=False)
    found = evaluate(wells, inputs.mechanisms, how, seed=0, normalisation="none")
    return ComparedRun(
        name,
        found.scores,
        leave_out_untreated(treatments, wells),
        found.matches,
        make_metrics(10),
        {"seed": 0, **settings},
    )


@pytest.fixture(scope="module")
def runs(inputs: ReportInputs) -> list[ComparedRun]:
    return [
        make_run(inputs, "clear", 0.0, **{"train.epochs": 10}),
        make_run(inputs, "noisy <b>", 6.0, **{"train.epochs": 20}),
    ]


def compare(runs: list[ComparedRun]) -> list[dict]:
    first, *others = [(run.scores, run.matches) for run in runs]
    return [
        compare_runs([first], [other], names=(runs[0].name, run.name), seed=0)
        for run, other in zip(runs[1:], others, strict=True)
    ]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, runs: list[ComparedRun]) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "comparison.html"
    write_comparison(path, runs, compare(runs), title="clear against noisy", seed=0)
    return path


def test_the_page_says_who_is_better_and_in_what_they_differ(page_path: Path, runs: list[ComparedRun]) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert "NSCB: clear is better than noisy &lt;b&gt;. On the same" in text
    for run in runs:
        assert f'<data value="{run.scores["nscb"]["correct"]}">' in text
    assert re.search(r"<code>train.epochs</code></th><td>10</td><td>20</td>", text)
    assert "<code>seed</code>" not in text
    assert "http" not in re.search(r'Security-Policy" content="([^"]*)"', text)[1]


def test_settings_that_are_not_known_are_not_compared(runs: list[ComparedRun]) -> None:
    assert list_differing(runs) == [{"key": "train.epochs", "values": ["10", "20"]}]
    assert list_differing([runs[0], replace(runs[1], settings=None)]) == []


@pytest.mark.parametrize("score", ["nsc", "nscb"])
def test_disagreements_are_where_one_is_right(runs: list[ComparedRun], score: str) -> None:
    found = list_disagreements(runs, score)
    of = compare(runs)[0][score]
    first_right = sum(row["answers"][0]["right"] for row in found)
    assert (first_right, len(found) - first_right) == (of["only_a_right"], of["only_b_right"])


def test_a_table_without_matches_disagrees_with_nobody(runs: list[ComparedRun]) -> None:
    assert list_disagreements([runs[0], replace(runs[1], matches=pd.DataFrame())], "nsc") == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
def test_maps_are_linked(page_path: Path, open_page: Callable) -> None:
    page, complaints = open_page(page_path)
    page.wait_for_selector("#map-1 .points path")
    names = page.locator("#map-point option").all_text_contents()
    assert len(names) == 49  # 48 treatments, and none
    page.locator("#map-point").select_option(names[5])
    rings = "all => all.filter(one => one.style.fill === 'none' || one.style.fillOpacity === '0').length"
    for number in (0, 1):
        assert page.eval_on_selector_all(f"#map-{number} .scatterlayer .trace:last-child .points path", rings) <= 1
        assert page.locator(f"#map-{number} .scatterlayer .trace:last-child .points path").count() == 1
    page.locator("#map-colour").select_option("nscb")
    assert set(page.locator("#map-legend .entry").all_text_contents()) <= {"right", "wrong", "not scored"}
    assert page.locator("#curve-loss .scatterlayer .trace").count() == 4  # two runs, training and validation
    assert page.locator("main b").count() == 0
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        assert_fits(page, width)
    assert complaints == []
