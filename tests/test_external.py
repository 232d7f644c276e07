"""Tables of other programs are scored whatever their shape, and say what they cannot tell."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cytoclr.config import BaselineSettings, EvaluateSettings, ProfileSettings, ProtocolChanges
from cytoclr.errors import DataError, SettingsError
from cytoclr.external import evaluate_table
from cytoclr.results import compare
from cytoclr.storage import read_table
from cytoclr.tables import feature_columns

FEW = EvaluateSettings(bootstraps=100, permutations=100)
ZSCORE = ProfileSettings(normalise="plate-zscore")


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """A screen of four plates in two batches, as others would hand it over: wells, cells, map and mechanisms."""
    rng = np.random.default_rng(0)
    rows = []
    for plate in ("00101", "00102", "00201", "00202"):
        for number in range(20):
            control = number < 6
            compound = "DMSO" if control else f"c{(number - 6) // 2 + 7 * (plate > '002')}"
            rows.append(
                (
                    plate,
                    plate[:3],
                    f"{'BC'[number // 10]}{number % 10 + 2:02d}",
                    compound,
                    0.0 if control else 1.0 + number % 2,
                )
            )
    wells = pd.DataFrame(rows, columns=["Plate", "Batch", "Well", "Compound", "Dose"])
    kind = wells["Compound"].str.removeprefix("c").replace("DMSO", "7").astype(int) % 7
    centres = np.vstack([rng.normal(size=(7, 8)) * 4, np.zeros(8)])
    centres[:, :] = np.where(np.arange(8)[:, None] == 7, 0, centres)
    control = (wells["Compound"] == "DMSO").to_numpy()
    values = np.where(control[:, None], 0.0, centres[kind]) + rng.normal(size=(len(wells), 8)) * 0.5
    features = pd.DataFrame(values, columns=[f"Cells_F{i}" for i in range(8)])
    named = wells[["Plate", "Well"]].add_prefix("Metadata_").join(features)
    named.to_csv(tmp_path / "wells.csv", index=False)
    wells.rename(columns={"Dose": "Concentration"}).to_csv(tmp_path / "map.csv", index=False)
    whole = wells.rename(columns={"Compound": "pert_iname", "Dose": "dose_um"}).add_prefix("Metadata_").join(features)
    whole.to_parquet(tmp_path / "whole.parquet")
    cells = named.loc[named.index.repeat(3)].reset_index(drop=True)
    cells[features.columns] += np.tile([-1.0, 0.0, 1.0], len(named))[:, None]
    cells["ObjectNumber"] = np.tile([1, 2, 3], len(named))
    cells.sample(frac=1, random_state=0).to_csv(tmp_path / "cells.csv.gz", index=False)
    treated = wells[wells["Compound"] != "DMSO"].drop_duplicates(["Compound", "Dose"])
    moa = treated.assign(moa="m" + (treated["Compound"].str[1:].astype(int) % 7).astype(str))
    moa[["Compound", "Dose", "moa"]].rename(columns={"Dose": "Concentration"}).to_csv(tmp_path / "moa.csv", index=False)
    return tmp_path


def score(folder: Path, table: str, out: str = "out", **others: object) -> dict:
    settings = {"screen": folder / "map.csv", "profile_settings": ZSCORE, "evaluate_settings": FEW, **others}
    return evaluate_table(folder / table, folder / out, mechanisms=folder / "moa.csv", **settings)


def test_wells_cells_and_tables_that_tell_everything_score_alike(screen: Path) -> None:
    expected = score(screen, "wells.csv")
    assert expected["nscb"]["correct"] == expected["nscb"]["total"] == 28
    assert read_table(screen / "out/profiles/well.parquet")["Metadata_Plate"].iloc[0] == "00101"
    cells = score(screen, "cells.csv.gz", "cells")
    assert cells["nscb"]["correct"] == expected["nscb"]["correct"]
    averaged = read_table(screen / "cells/profiles/unnormalised.parquet")
    assert set(averaged["Metadata_NumCells"]) == {3}
    wells = read_table(screen / "out/profiles/unnormalised.parquet")
    names = feature_columns(wells)
    np.testing.assert_allclose(averaged[names], wells[names], rtol=1e-9, atol=1e-12)
    columns = {"compound": "Metadata_pert_iname", "concentration": "Metadata_dose_um"}
    whole = score(screen, "whole.parquet", "whole", screen=None, columns=columns)
    assert whole["nscb"] == expected["nscb"]


def test_what_a_folder_of_scores_holds(screen: Path) -> None:
    scores = score(screen, "cells.csv.gz", all_protocols=True)
    written = json.loads((screen / "out/scores.json").read_text())
    report = written.pop("profiles_report")
    assert written == scores
    assert report["num_rows"] == 240
    assert scores["activity"]["active"] <= scores["activity"]["total"] == 28
    names = {path.relative_to(screen / "out").as_posix() for path in (screen / "out").rglob("*") if path.is_file()}
    assert names >= {
        "scores.json",
        "matches.parquet",
        "activity.parquet",
        "provenance.json",
        "profiles/well.parquet",
        "profiles/treatment.parquet",
        "profiles/unnormalised.parquet",
        "profiles/normaliser.safetensors",
    }


def test_all_protocols_stand_side_by_side_each_normalised_as_it_demands(screen: Path) -> None:
    protocols = score(screen, "wells.csv", all_protocols=True)["protocols"]
    assert list(protocols) == ["treatment-mean", "strict", "ljosa-2013", "broad-notebook", "umm", "ws-dino", "unidino"]
    assert protocols["broad-notebook"]["normalisation"] == "broad-notebook"
    assert protocols["umm"]["normalisation"] == "plate-zscore"
    assert protocols["unidino"]["nsc"]["total"] == 56
    assert all("nscb" in scored for scored in protocols.values())


def test_a_fitted_normaliser_is_applied_as_it_is(screen: Path) -> None:
    whitening = ProfileSettings(normalise="whitening")
    score(screen, "wells.csv", profile_settings=whitening)
    half = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str}).query("Metadata_Plate > '00200'")
    half.to_csv(screen / "half.csv", index=False)
    fitted = screen / "out/profiles/normaliser.safetensors"
    scores = score(screen, "half.csv", "half", normaliser=fitted)
    assert scores["normalisation"] == "whitening"
    whole = read_table(screen / "out/profiles/well.parquet").query("Metadata_Plate > '00200'").reset_index(drop=True)
    applied = read_table(screen / "half/profiles/well.parquet")
    np.testing.assert_allclose(applied[feature_columns(applied)], whole[feature_columns(applied)], rtol=1e-9)


def test_other_tables_are_baselines(screen: Path) -> None:
    rng = np.random.default_rng(1)
    noise = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    noise[["Cells_F0", "Cells_F1"]] = rng.normal(size=(len(noise), 2))
    noise.drop(columns=[f"Cells_F{i}" for i in range(2, 8)]).iloc[1:].to_csv(screen / "noise.csv", index=False)
    beside = EvaluateSettings(
        bootstraps=100, permutations=200, baselines={"noise": BaselineSettings(table=screen / "noise.csv")}
    )
    scores = score(screen, "wells.csv", evaluate_settings=beside)
    assert "The baseline noise: it lacks 1 of the 80 wells." in scores["notes"]
    (gain,) = [one for one in scores["comparisons"] if (one["b"], one["score"]) == ("noise", "nscb")]
    assert gain["verdict"] == "a"


def test_counts_are_a_baseline_where_they_are_told_and_vary(screen: Path) -> None:
    table = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    compound = pd.read_csv(screen / "map.csv")["Compound"]
    counts = np.where(compound == "DMSO", 100, 60) + np.arange(len(table)) % 7
    table.assign(Metadata_NumCells=counts).to_csv(screen / "counted.csv", index=False)
    scores = score(screen, "counted.csv")
    assert scores["baselines"]["cell-count"]["metric"] == "euclidean"
    assert scores["baselines"]["cell-count"]["nscb"]["total"] == 28
    least = ProfileSettings(normalise="plate-zscore", min_cells_per_well=62)
    fewer = score(screen, "counted.csv", "fewer", profile_settings=least)
    flagged = read_table(screen / "fewer/profiles/well.parquet")["Metadata_FewCells"]
    assert flagged.sum() == (counts < 62).sum() > 0
    assert fewer["nsc"]["total"] <= scores["nsc"]["total"]
    with pytest.raises(DataError, match="min_cells_per_well is 62, but the table does not tell the number of cells"):
        score(screen, "wells.csv", "none", profile_settings=least)


def test_without_mechanisms_what_needs_none_is_measured(screen: Path) -> None:
    scores = evaluate_table(
        screen / "wells.csv",
        screen / "out",
        screen=screen / "map.csv",
        profile_settings=ZSCORE,
        evaluate_settings=FEW,
    )
    assert scores["nsc"] is None
    assert "No mechanism table was given" in scores["reason"]
    assert scores["activity"]["total"] == 28
    assert scores["nuisance"]["before"]["plate"]["num_classes"] == 4


def test_a_table_that_does_not_tell_its_compounds_is_refused(screen: Path) -> None:
    with pytest.raises(DataError, match=r"does not tell the compound of a well. Name its column \(--column compound="):
        score(screen, "wells.csv", screen=None)


def test_compounds_without_concentrations_are_one_treatment_each(
    screen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = pd.read_parquet(screen / "whole.parquet").drop(columns="Metadata_dose_um")
    whole.rename(columns={"Metadata_pert_iname": "Metadata_Compound"}).to_parquet(screen / "plain.parquet")
    with caplog.at_level(logging.WARNING):
        score(screen, "plain.parquet", screen=None)
    assert "no concentration is told; every compound counts as one treatment" in caplog.text


def test_a_run_is_not_overwritten(screen: Path) -> None:
    (screen / "run").mkdir()
    (screen / "run/config.yaml").write_text("")
    with pytest.raises(SettingsError, match="holds a run, whose scores would be lost"):
        score(screen, "wells.csv", "run")


def test_the_order_of_rows_and_features_does_not_matter(screen: Path) -> None:
    expected = score(screen, "wells.csv")
    table = pd.read_csv(screen / "wells.csv", dtype=str)
    shuffled = table.sample(frac=1, random_state=1)
    shuffled[[*shuffled.columns[:2], *shuffled.columns[:1:-1]]].to_csv(screen / "shuffled.csv", index=False)
    found = score(screen, "shuffled.csv", "shuffled")
    for name in ("nsc", "nscb", "activity"):
        assert found[name] == expected[name], name
    assert found["replicating"]["replicating"] == expected["replicating"]["replicating"]


def beside(folder: Path, name: str, table: str) -> EvaluateSettings:
    return EvaluateSettings(bootstraps=100, permutations=100, baselines={name: BaselineSettings(table=folder / table)})


def test_what_was_fitted_before_is_applied_to_baselines_and_protocols_too(screen: Path) -> None:
    score(screen, "wells.csv")
    fitted = screen / "out/profiles/normaliser.safetensors"
    none = ProfileSettings(normalise="none")
    again = {"profile_settings": none, "normaliser": fitted, "evaluate_settings": beside(screen, "same", "wells.csv")}
    scores = score(screen, "wells.csv", "again", all_protocols=True, **again)
    assert scores["baselines"]["same"]["nsc"] == scores["nsc"]
    assert all(one["gain"] == 0 for one in scores["comparisons"])
    assert scores["protocols"]["treatment-mean"]["normalisation"] == "plate-zscore"
    assert scores["protocols"]["treatment-mean"]["nsc"] == scores["nsc"]
    # other features cannot be mapped by it: the same methods are learnt anew
    table = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    table.rename(columns=lambda name: name.replace("Cells_", "Theirs_")).to_csv(screen / "theirs.csv", index=False)
    again["evaluate_settings"] = beside(screen, "theirs", "theirs.csv")
    assert score(screen, "wells.csv", "others", **again)["baselines"]["theirs"]["nsc"] == scores["nsc"]


def test_changes_of_the_protocol_are_made_to_all(screen: Path) -> None:
    changed = EvaluateSettings(bootstraps=100, permutations=100, protocol_changes=ProtocolChanges(neighbours=3))
    scores = score(screen, "wells.csv", evaluate_settings=changed, all_protocols=True)
    assert scores["protocol"]["name"] == "treatment-mean, neighbours 3"
    assert {scored["protocol"]["neighbours"] for scored in scores["protocols"].values()} == {3}


def test_concentrations_that_passed_through_single_precision_are_the_same_treatment(screen: Path) -> None:
    whole = pd.read_parquet(screen / "whole.parquet")
    whole["Metadata_dose_um"] *= 0.3
    half = whole["Metadata_Plate"].str.endswith("1")
    whole.loc[half, "Metadata_dose_um"] = whole.loc[half, "Metadata_dose_um"].astype(np.float32).astype(float)
    whole.to_parquet(screen / "f32.parquet")
    columns = {"compound": "Metadata_pert_iname", "concentration": "Metadata_dose_um"}
    score(screen, "f32.parquet", screen=None, columns=columns)
    assert len(read_table(screen / "out/profiles/treatment.parquet")) == 28 + 1
    assert set(read_table(screen / "out/profiles/treatment.parquet")["Metadata_NumWells"]) == {2, 24}


def test_what_was_left_out_is_told_with_the_scores(screen: Path) -> None:
    table = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    table.loc[3, [f"Cells_F{i}" for i in range(6)]] = np.nan
    table.assign(Cells_Flat=1.0, Cells_Gone=np.nan).to_csv(screen / "gappy.csv", index=False)
    scores = score(screen, "gappy.csv")
    told = " ".join(scores["notes"])
    assert "1 rows have gaps and were left out, of 1 wells: 00101 B05" in told
    assert "1 of 9 features have no spread on the controls of a plate and were left out: Cells_Flat" in told
    assert scores["counts"]["wells"] == 79


@pytest.mark.promise("Bad input", "Controls that are not found are told of, with those that are there.")
def test_controls_that_are_not_found_are_told_of(screen: Path) -> None:
    none = ProfileSettings(normalise="none")
    scores = score(screen, "wells.csv", profile_settings=none, controls=("dmso",))
    assert any(
        "No well is an untreated control" in note and "(screen.controls); found: DMSO, c0" in note
        for note in scores["notes"]
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("none", "The baseline theirs: .*none of its 80 rows is of a well that is evaluated, first: X00101 B02"),
        ("text", "The baseline theirs: .*no numeric column that could be a feature"),
    ],
)
def test_a_baseline_that_is_wrong_is_named(screen: Path, rows: str, words: str) -> None:
    table = pd.read_csv(screen / "wells.csv", dtype=str)
    if rows == "none":
        table["Metadata_Plate"] = "X" + table["Metadata_Plate"]
    else:
        table = table[["Metadata_Plate", "Metadata_Well"]].assign(Cells_F0="x")
    table.to_csv(screen / "theirs.csv", index=False)
    with pytest.raises(DataError, match=words):
        score(screen, "wells.csv", evaluate_settings=beside(screen, "theirs", "theirs.csv"))


def test_baselines_have_the_columns_that_are_told(screen: Path) -> None:
    renamed = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    renamed = renamed.rename(columns={"Metadata_Plate": "Assay", "Metadata_Well": "Pos"})
    renamed.to_csv(screen / "renamed.csv", index=False)
    columns = {"plate": "Assay", "well": "Pos"}
    scores = score(screen, "renamed.csv", columns=columns, evaluate_settings=beside(screen, "same", "renamed.csv"))
    assert scores["baselines"]["same"]["nsc"] == scores["nsc"]


def test_how_the_scores_came_about_is_kept(screen: Path) -> None:
    score(screen, "wells.csv", evaluate_settings=beside(screen, "same", "wells.csv"))
    told = json.loads((screen / "out/provenance.json").read_text())
    assert set(told) == {"cytoclr", "seed", "profile", "evaluate", "columns", "inputs"}
    assert told["inputs"]["profiles"]["sha256"] == told["inputs"]["baseline same"]["sha256"]
    assert told["inputs"]["normaliser"] is None


def test_seeds_are_runs_in_a_folder_and_what_is_odd_with_them_is_said(
    screen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("seeds/a", "seeds/b", "other"):
        score(screen, "wells.csv", name)
    (screen / "seeds/unfinished").mkdir()
    table = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    table[table["Metadata_Well"] != "C05"].to_csv(screen / "fewer.csv", index=False)
    score(screen, "fewer.csv", "fewer", evaluate_settings=FEW)
    with caplog.at_level(logging.WARNING):
        found = compare(screen / "seeds", screen / "other")
    assert "1 folders without scores are left out: unfinished" in caplog.text
    assert found["a"]["num_seeds"] == 2
    assert found["nscb"]["verdict"] == "undecided"
    assert any("some of the 2 seeds are the same run, to the last bit" in note for note in found["notes"])
    mechanisms = (screen / "moa.csv").read_text().splitlines()
    (screen / "moa.csv").write_text("\n".join(mechanisms[:-4]))
    score(screen, "wells.csv", "half")
    notes = compare(screen / "half", screen / "other")["notes"]
    assert any("treatments answered: " in note and "24; " in note and "by all 24" in note for note in notes)


@pytest.mark.parametrize("what", ["scores", "matches"])
def test_folders_that_do_not_hold_scores_are_refused(screen: Path, what: str) -> None:
    score(screen, "wells.csv")
    if what == "scores":
        (screen / "out/scores.json").write_text("[1]")
    else:
        (screen / "out/matches.parquet").unlink()
    with pytest.raises(DataError, match="Evaluate again"):
        compare(screen / "out", screen / "out")


def test_what_is_odd_with_a_baseline_stands_with_the_scores(screen: Path) -> None:
    table = pd.read_csv(screen / "wells.csv", dtype={"Metadata_Plate": str})
    table["Metadata_NumCells"] = np.where(table["Metadata_Well"] == "C05", 2, 50)
    table.to_csv(screen / "counted.csv", index=False)
    theirs = table.drop(columns="Metadata_NumCells")
    theirs.loc[::8, "Cells_F0"] = np.nan
    theirs[theirs["Metadata_Plate"] != "00202"].to_csv(screen / "theirs.csv", index=False)
    least = ProfileSettings(normalise="plate-zscore", min_cells_per_well=10)
    scores = score(
        screen, "counted.csv", profile_settings=least, evaluate_settings=beside(screen, "theirs", "theirs.csv")
    )
    notes = scores["notes"]
    assert "The baseline theirs: it lacks 19 of the 76 wells." in notes
    assert "The baseline theirs: 1 features have gaps and were left out: Cells_F0." in notes
    assert any(note.startswith("4 wells have fewer than 10 cells and take no part: 00101 C05") for note in notes)
    matches = read_table(screen / "out/matches.parquet")
    counts = matches[matches["score"] == "nsc"].groupby("features").size()
    assert counts["theirs"] == counts["trained"] == 26
    assert not (matches["Metadata_Compound"] == "").any()
