"""Numbers that are none, and tables too small to score: a sentence, or what was left out is counted and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import EvaluateSettings, ProfileSettings
from cytoclr.config.stages import Normalisation
from cytoclr.errors import DataError
from cytoclr.external import evaluate_table
from cytoclr.storage import read_table
from cytoclr.tables import feature_columns

FEATURES = [f"F{number}" for number in range(6)]
#: An infinite or missing number, or one that other programs write for "none".
NO_NUMBERS = {"NaN": np.nan, "infinite": np.inf, "-infinite": -np.inf, "huge": 1.7e308}


def draw_table() -> pd.DataFrame:
    """Two plates of four controls and four compounds, two wells each."""
    rows = [
        (plate, f"B{well + 1:02d}", "DMSO" if well < 4 else f"c{well // 2 - 2}", 0.0 if well < 4 else 0.3)
        for plate in ("W1_1", "W2_2")
        for well in range(12)
    ]
    table = pd.DataFrame(rows, columns=["plate", "well", "compound", "concentration"])
    values = np.random.default_rng(3).normal(size=(len(rows), len(FEATURES)))
    return pd.concat([table, pd.DataFrame(values, columns=FEATURES)], axis=1)


def score(table: pd.DataFrame, folder: Path, normalise: Normalisation = "plate-zscore") -> dict:
    table.to_parquet(folder / "wells.parquet", index=False)
    (folder / "moa.csv").write_text("compound,concentration,moa\nc0,0.3,a\nc1,0.3,a\nc2,0.3,b\nc3,0.3,b\n")
    return evaluate_table(
        folder / "wells.parquet",
        folder / "out",
        mechanisms=folder / "moa.csv",
        profile_settings=ProfileSettings(normalise=normalise),
        evaluate_settings=EvaluateSettings(bootstraps=100, permutations=100),
    )


def check_all_finite(folder: Path) -> list[str]:
    """Look at what was written, and name the features that are left."""
    wells = read_table(folder / "out/profiles/well.parquet")
    assert np.isfinite(wells[feature_columns(wells)].to_numpy()).all()
    json.loads((folder / "out/scores.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    return feature_columns(wells)


@pytest.mark.promise("Bad input", "A well with a number that is none (NaN, infinite, huge) is left out, and named.")
@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
@pytest.mark.parametrize("normalise", ["none", "plate-zscore", "plate-mad", "whitening", "tvn"])
def test_a_row_with_no_number_is_named(tmp_path: Path, value: float, normalise: Normalisation) -> None:
    table = draw_table()
    scores = score(table.assign(F0=table["F0"].mask(table.index == 5, value)), tmp_path, normalise)
    assert scores["notes"][0] == "1 rows have gaps and were left out, of 1 wells: W1_1 B06."
    assert len(check_all_finite(tmp_path)) == 6


@pytest.mark.promise("Bad input", "A feature of numbers that are none (NaN, infinite, huge) is left out, and named.")
@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_a_feature_of_no_numbers_is_named(tmp_path: Path, value: float) -> None:
    scores = score(draw_table().assign(F0=value), tmp_path)
    assert scores["notes"][0] == "1 features have gaps and were left out: F0."
    assert check_all_finite(tmp_path) == FEATURES[1:]


@pytest.mark.promise("Bad input", "A constant feature is left out, and named.")
def test_a_constant_feature_is_named(tmp_path: Path) -> None:
    scores = score(draw_table().assign(F0=1.0), tmp_path)
    assert scores["notes"][0].startswith("1 of 6 features have no spread on the controls of a plate and were left out")
    assert check_all_finite(tmp_path) == FEATURES[1:]


def only(*compounds: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table[table["compound"].isin(compounds)]


@pytest.mark.promise("Bad input", "No controls, controls alone, one well or features without spread are refused.")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (only("c0", "c1", "c2"), r"found 0 control wells .* among 12\. .*needs at least 2; mark them, or normalise"),
        (only("DMSO"), r"all 8 wells are untreated controls .*Expected treated ones too"),
        (lambda table: table.iloc[[5]], r"found 0 control wells .* among 1\."),
        (lambda table: table.iloc[:0], r"the table has no rows\. Expected one a well"),
        (lambda table: table.drop_duplicates(["plate", "compound"]), r"2 of 2 plates have fewer than 2 control wells"),
        (lambda table: table.assign(**dict.fromkeys(FEATURES, 1.0)), r"each of the 6 features is constant"),
        (lambda table: table.assign(**dict.fromkeys(FEATURES, np.nan)), r"nothing is left of 24 rows and 6 features"),
        (lambda table: table.assign(**dict.fromkeys(FEATURES, 1.7e308)), r"infinite or beyond 1e\+100\) nothing is"),
        (lambda table: table.drop(columns=FEATURES), r"no numeric column that could be a feature"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        score(change(draw_table()), tmp_path)


@pytest.mark.promise("Bad input", "One treatment, or one plate, is profiled; what cannot be scored of it is told.")
def test_little_is_scored_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    scores = score(only("DMSO", "c1")(draw_table()), tmp_path / "one")
    assert "NSC needs at least two compounds with a mechanism." in scores["notes"]
    assert scores["nsc"] is None
    check_all_finite(tmp_path / "one")
    table = draw_table()
    scores = score(table[table["plate"] == "W1_1"], tmp_path)
    assert any("one batch" in note for note in scores["notes"])
    check_all_finite(tmp_path)


@pytest.mark.promise("Bad input", "A concentration that is none is refused with its row and what to write.")
@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("10 uM", r"first in row 5: '10 uM'\. Write 10\."),
        ("300 nM", r"first in row 5: '300 nM'\. Write 0\.3\."),
        ("0,3", r"first in row 5: '0,3'\. Write 0\.3\."),
        ("-1", r"first in row 5: '-1'\. Expected a number of µM, 0 or more"),
        ("inf", r"first in row 5: 'inf'\. Expected a number"),
        ("high", r"first in row 5: 'high'\. Expected a number"),
        ("", r"concentration is empty in 16 of 24 rows, first in row 5 \(W1_1 B05 c0\)"),
    ],
)
def test_a_concentration_that_is_none(tmp_path: Path, value: str, match: str) -> None:
    table = draw_table()
    doses = table["concentration"].astype("str").mask(table["compound"] != "DMSO", value)
    with pytest.raises(DataError, match=match) as refusal:
        score(table.assign(concentration=doses), tmp_path)
    assert refusal.value.code == "META003"
