"""Plates as they stand: a number of each well, in its place; and how much of it the place explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cytoclr.data.crops import CropStore
from cytoclr.data.screen import name_well
from cytoclr.errors import list_some
from cytoclr.report.inputs import ReportInputs
from cytoclr.tables import (
    FEW_CELLS,
    NUM_CELLS,
    TREATMENT,
    WELL,
    WELL_METADATA,
    feature_matrix,
    is_control,
    sort_naturally,
    treatment_names,
)

__all__ = ["FORMATS", "Effect", "explain_by_place", "find_place", "fit_format", "lay_out_plates", "name_row"]

#: Rows and columns of the plates that are made, by how many wells they have.
FORMATS = {6: (2, 3), 24: (4, 6), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
#: Crops whose brightness is read: of a well, and of all wells together if these are many.
MAX_CROPS_OF_WELL, MAX_CROPS, MIN_CROPS_OF_WELL = 200, 500_000, 20
BLOCK_BYTES = 64 * 2**20
#: Fewer control wells of a plate than these do not tell how far apart control wells are.
MIN_CONTROLS = 3
#: Fewer control wells in all than these do not tell what their place does; all wells are taken then.
MIN_PLACED_CONTROLS = 10
PERMUTATIONS, PERMUTATIONS_AT_ONCE = 1000, 100
#: An effect is put into words if its p, times the tests that are left (Holm 1979), is at most this.
MAX_P = 0.05

Kind = Literal["count", "number", "share", "ratio", "cosine"]


@dataclass(frozen=True)
class Measure:
    """One number of each well (nan: there is none), its name and unit, and how to say that it is less or more.

    `verb` is of several and of one, as in ``edge wells have`` and ``row A has``.
    """

    key: str
    name: str
    unit: str
    kind: Kind
    about: str
    verb: tuple[str, str]
    less: str
    more: str
    numbers: Float[np.ndarray, " well"] = field(repr=False)


@dataclass(frozen=True)
class Effect:
    """How much of the variance (0..1) groups explain, how much by chance on average, and how often by chance as much.

    `differences`: mean of each group from its plate's mean, by the group's number.
    """

    share: float
    chance: float
    p_value: float
    differences: Mapping[int, float]


def lay_out_plates(inputs: ReportInputs) -> dict[str, Any]:
    """Lay out what is measured of each well.

    Wells are numbered as `inputs.wells` are; after them come those that have no profile (``extra``).
    Plates are in the order of their batch and name.
    """
    wells = _list_wells(inputs)
    measures = _measure_wells(wells, inputs)
    profiled = len(inputs.wells)
    return {
        "measures": [_measure_json(measure) for measure in measures],
        "plates": _list_plates(wells),
        "extra": _describe_wells(wells.iloc[profiled:]),
        "few": _find_few(inputs.wells),
        "positions": _explain_measures(wells, measures),
    }


def fit_format(rows: Int[np.ndarray, " well"], columns: Int[np.ndarray, " well"]) -> int:
    """Find the smallest plate, by its number of wells, that has all these rows and columns (from 0).

    >>> fit_format(np.array([1, 6]), np.array([1, 10])), fit_format(np.array([0]), np.array([2]))
    (96, 6)
    """
    return next(size for size, (height, width) in FORMATS.items() if rows.max() < height and columns.max() < width)


# ---- wells and their places ----


def _list_wells(inputs: ReportInputs) -> pd.DataFrame:
    """List the wells that have a profile, then those that have none; and where each stands.

    `place` is its plate's number, `row` and `column` (from 0, -1 if its name is no position or if another well is
    there) and `format` (0 where no well of the plate has a position) where it stands.
    """
    frames = [inputs.wells[WELL_METADATA], inputs.cells.drop_duplicates(WELL)[WELL_METADATA]]
    if inputs.counted is not None:  # wells in which nothing was found tell most
        frames.append(inputs.counted[WELL_METADATA])
    wells = pd.concat(frames, ignore_index=True).drop_duplicates(WELL, ignore_index=True)
    order = {
        key: {name: i for i, name in enumerate(sort_naturally(wells[key]))}
        for key in ("Metadata_Batch", "Metadata_Plate")
    }
    places = pd.DataFrame({key: wells[key].map(numbers) for key, numbers in order.items()})
    wells["plate"] = places.groupby(list(places), sort=True).ngroup().to_numpy()
    found = [find_place(name) for name in wells["Metadata_Well"]]
    wells["row"], wells["column"] = (np.array(part, dtype=np.int64) for part in zip(*found, strict=True))
    taken = wells.duplicated(["plate", "row", "column"])  # A1 and A01: the first stands there, the other beside
    wells.loc[taken, ["row", "column"]] = -1
    placed = wells[wells["row"] >= 0]
    formats = {
        plate: fit_format(of["row"].to_numpy(), of["column"].to_numpy()) for plate, of in placed.groupby("plate")
    }
    wells["format"] = wells["plate"].map(formats).fillna(0).astype("int64")
    return wells


def find_place(name: str) -> tuple[int, int]:
    """Find row and column, from 0, of a well's name; -1 and -1 where it is no position of a plate.

    >>> find_place("b2"), find_place("AA01"), find_place("blank")
    ((1, 1), (26, 0), (-1, -1))
    """
    text = name_well(name)
    letters, digits = text[:-2], text[-2:]
    # what is no position comes back as it was
    if not (digits.isascii() and digits.isdecimal() and letters.isascii() and letters.isalpha() and letters.isupper()):
        return -1, -1
    row = ord(letters) - 65 if len(letters) == 1 else 26 + ord(letters[-1]) - 65
    named = len(letters) == 1 or (len(letters) == 2 and letters[0] == "A")
    inside = named and row < FORMATS[1536][0] and 1 <= int(digits) <= FORMATS[1536][1]
    return (row, int(digits) - 1) if inside else (-1, -1)


def name_row(row: int) -> str:
    """Name a row by its letters: A to Z, then AA to AF."""
    return chr(65 + row) if row < 26 else f"A{chr(65 + row - 26)}"


def _list_plates(wells: pd.DataFrame) -> list[dict[str, Any]]:
    """Tell each plate's shape; the number and the place (row after row) of its wells, and which stand beside."""
    plates = []
    for _, of in wells.groupby("plate", sort=True):
        size = int(of["format"].iloc[0])
        rows, columns = FORMATS.get(size, (0, 0))
        placed = of[of["row"] >= 0].sort_values(["row", "column"])
        plates.append(
            {
                "batch": str(of["Metadata_Batch"].iloc[0]),
                "name": str(of["Metadata_Plate"].iloc[0]),
                "rows": rows,
                "columns": columns,
                "wells": placed.index.tolist(),
                "places": (placed["row"] * columns + placed["column"]).tolist(),
                "beside": of.index[of["row"] < 0].tolist(),
            }
        )
    return plates


def _describe_wells(wells: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "well": row["Metadata_Well"],
            "plate": row["Metadata_Plate"],
            "batch": row["Metadata_Batch"],
            "control": row["Metadata_control_type"] == "negcon",
            "cells": [],
        }
        for name, row in zip(treatment_names(wells), wells.to_dict("records"), strict=True)
    ]


def _has_enough(profiles: pd.DataFrame) -> np.ndarray:
    """Tell which wells are not flagged for too few cells."""
    if FEW_CELLS not in profiles.columns:
        return np.ones(len(profiles), dtype=bool)
    enough: np.ndarray = ~profiles[FEW_CELLS].astype(bool).to_numpy()
    return enough


def _find_few(profiles: pd.DataFrame) -> list[int]:
    return [int(number) for number in np.flatnonzero(~_has_enough(profiles))]


# ---- what is measured of them ----


def _measure_wells(wells: pd.DataFrame, inputs: ReportInputs) -> list[Measure]:
    """Measure the wells, by their cells and by their profiles."""
    places = wells[WELL].assign(number=np.arange(len(wells)))
    of_cell = inputs.cells[WELL].merge(places, on=WELL, how="left")["number"].to_numpy(dtype=np.int64)
    return [*_measure_cells(wells, inputs, of_cell), *_measure_profiles(wells, inputs.wells)]


def _measure_cells(wells: pd.DataFrame, inputs: ReportInputs, of_cell: Int[np.ndarray, " cell"]) -> list[Measure]:
    cells, crops, num_wells = inputs.cells, inputs.crops, len(wells)
    counts = np.bincount(of_cell, minlength=num_wells).astype(np.float64)
    about = "Cells that were kept of the well: few may mean toxicity, poor seeding, or nuclei that were not found."
    measures = [
        Measure("cells", "Cells", "cells", "count", about, ("have", "has"), "fewer cells", "more cells", counts)
    ]
    limit = max(MIN_CROPS_OF_WELL, min(MAX_CROPS_OF_WELL, MAX_CROPS // max(1, num_wells)))
    brightness = _read_brightness(crops, of_cell, num_wells, limit=limit)
    for number, name in enumerate(crops.channels):
        about = (
            "Mean of all pixels of its crops, in the camera’s numbers, before anything is done to them; of a well "
            f"with more than {limit} crops, {limit} are read."
        )
        words = (f"dimmer in {name}", f"brighter in {name}")
        values = brightness[:, number]
        measures.append(
            Measure(
                f"brightness-{number}", f"Intensity, {name}", "counts", "number", about, ("are", "is"), *words, values
            )
        )
    if "Quality_Focus" in cells and cells["Quality_Focus"].notna().any():
        focus = pd.Series(cells["Quality_Focus"].to_numpy(dtype=np.float64)).groupby(of_cell).median()
        values = focus.reindex(range(num_wells)).to_numpy(dtype=np.float64)
        about = "Median sharpness of the nuclei: the inverse of how many pixels an edge is wide. Low is out of focus."
        measures.append(
            Measure("focus", "Focus", "per px", "number", about, ("are", "is"), "less sharp", "sharper", values)
        )
    if "Metadata_Flags" in cells:
        flagged = (cells["Metadata_Flags"].fillna("").astype("str").str.strip() != "").to_numpy(dtype=np.float64)
        sums = np.bincount(of_cell, weights=flagged, minlength=num_wells)
        values = np.divide(sums, counts, out=np.full(num_wells, np.nan), where=counts > 0)
        about = "Share of its crops with something that may be wrong: blurred, saturated, dark, bright, in pieces."
        words = ("fewer flagged crops", "more flagged crops")
        measures.append(Measure("flagged", "Crops flagged", "", "share", about, ("have", "has"), *words, values))
    if inputs.counted is not None:
        measures.append(_measure_left_out(wells, inputs.counted))
    return measures


def _measure_left_out(wells: pd.DataFrame, counted: pd.DataFrame) -> Measure:
    of = wells[WELL].merge(counted, on=WELL, how="left")
    left_out = of["Metadata_NumLeftOut"].to_numpy(dtype=np.float64)
    found = left_out + of[NUM_CELLS].to_numpy(dtype=np.float64)
    values = np.divide(left_out, found, out=np.full(len(of), np.nan), where=found > 0)
    about = "Share of the cells that were found and not kept: too near to an edge or to others, or flagged and dropped."
    words = ("fewer cells left out", "more cells left out")
    return Measure("left-out", "Cells left out", "", "share", about, ("have", "has"), *words, values)


def _read_brightness(
    crops: CropStore, of_cell: Int[np.ndarray, " cell"], num_wells: int, *, limit: int
) -> Float[np.ndarray, "well channel"]:
    """Mean of the stored pixels of at most `limit` crops of each well, evenly spaced in their order."""
    order = np.argsort(of_cell, kind="stable")
    sizes = np.bincount(of_cell, minlength=num_wells)
    ends = np.cumsum(sizes)
    size = sizes[of_cell[order]]
    turn = np.arange(len(order)) - (ends - sizes)[of_cell[order]]
    wanted = np.minimum(size, limit)
    rows = np.sort(order[(turn + 1) * wanted // size > turn * wanted // size])
    sums, counts = np.zeros((num_wells, len(crops.channels))), np.zeros(num_wells)
    at_once = max(1, BLOCK_BYTES // (len(crops.channels) * crops.size_px**2 * crops.dtype.itemsize))
    for start in range(0, len(rows), at_once):
        block = rows[start : start + at_once]
        means = crops.read(block).mean(axis=(2, 3), dtype=np.float64)
        np.add.at(sums, of_cell[block], means)
        np.add.at(counts, of_cell[block], 1)
    blank = np.full_like(sums, np.nan)
    result: np.ndarray = np.divide(sums, counts[:, None], out=blank, where=counts[:, None] > 0)
    return result


def _measure_profiles(wells: pd.DataFrame, profiles: pd.DataFrame) -> list[Measure]:
    """Measure the wells that have a profile; the others come after them and have none."""
    features, enough = feature_matrix(profiles), _has_enough(profiles)
    plates = wells["plate"].to_numpy()[: len(profiles)]
    blank = np.full(len(wells) - len(profiles), np.nan)
    distance = _measure_distances(features, plates, is_control(profiles).to_numpy() & enough)
    treatments = profiles.groupby(TREATMENT, sort=True).ngroup().to_numpy()
    agreement = _measure_agreement(features, treatments, enough)
    return [
        Measure(
            "distance",
            "Distance to controls",
            "× that of controls",
            "ratio",
            "How far the profile is from the mean of its plate’s untreated wells (Euclidean), over the median of the "
            f"same of those wells, each left out in turn. Not known on plates with fewer than {MIN_CONTROLS} of them.",
            ("are", "is"),
            "nearer to the untreated",
            "farther from the untreated",
            np.concatenate([distance, blank]),
        ),
        Measure(
            "agreement",
            "Replicate agreement",
            "cosine similarity",
            "cosine",
            "Mean cosine similarity of the profile to those of the other wells of its treatment, on any plate; not "
            "known of treatments with one well.",
            ("are", "is"),
            "less like replicates",
            "more like replicates",
            np.concatenate([agreement, blank]),
        ),
    ]


def _measure_distances(
    features: Float[np.ndarray, "well feature"], plates: Int[np.ndarray, " well"], controls: np.ndarray
) -> Float[np.ndarray, " well"]:
    """Distance to the mean of the plate's other control wells, over the median of the same of its control wells."""
    ratios = np.full(len(features), np.nan)
    for plate in np.unique(plates):
        rows = np.flatnonzero(plates == plate)
        untreated = controls[rows]
        count = int(untreated.sum())
        if count < MIN_CONTROLS:
            continue
        of = features[rows]
        total = of[untreated].sum(axis=0)
        # a control well is compared with the others, never with itself
        means = np.where(untreated[:, None], (total - of) / (count - 1), total / count)
        distances = np.linalg.norm(of - means, axis=1)
        usual = float(np.median(distances[untreated]))
        if usual > 0:
            ratios[rows] = distances / usual
    return ratios


def _measure_agreement(
    features: Float[np.ndarray, "well feature"], treatments: Int[np.ndarray, " well"], enough: np.ndarray
) -> Float[np.ndarray, " well"]:
    """Mean cosine similarity to the other wells of the treatment, of those that have enough cells."""
    lengths = np.linalg.norm(features, axis=1)
    counted = enough & (lengths > 0)
    units = features / np.where(lengths > 0, lengths, 1.0)[:, None]
    sums = np.zeros((int(treatments.max(initial=-1)) + 1, features.shape[1]))
    np.add.at(sums, treatments[counted], units[counted])
    counts = np.bincount(treatments[counted], minlength=len(sums))
    others = counts[treatments] - counted
    # the mean of cosines is the cosine with the sum of all, less that with itself
    total = np.einsum("wf,wf->w", units, sums[treatments]) - counted
    known = (others > 0) & (lengths > 0)
    return np.where(known, total / np.maximum(others, 1), np.nan)


def _measure_json(measure: Measure) -> dict[str, Any]:
    known = measure.numbers[np.isfinite(measure.numbers)]
    low, high = np.percentile(known, [2, 98]) if len(known) else (0.0, 0.0)
    if low == high and len(known):  # all but a few are the same
        low, high = known.min(), known.max()
    return {
        "key": measure.key,
        "name": measure.name,
        "unit": measure.unit,
        "kind": measure.kind,
        "about": measure.about,
        "low": _round(float(low)),
        "high": _round(float(high)),
        "values": [int(value) if measure.kind == "count" else _round(float(value)) for value in measure.numbers],
    }


def _round(value: float) -> float | None:
    """Round to four significant digits; None for nan."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


# ---- what their place explains ----


def explain_by_place(
    values: Float[np.ndarray, " well"],
    plates: Int[np.ndarray, " well"],
    groupings: Sequence[Int[np.ndarray, " well"]],
    *,
    permutations: int,
    generator: np.random.Generator,
) -> list[Effect]:
    """Measure how much of the variance each grouping of wells explains, once every plate's own mean is taken off.

    Eta squared: the sum of squares between groups over the whole sum of squares. Its p is the share of permutations
    of wells within their plates that explain as much or more, the observed order counted among them.

    Parameters
    ----------
    values
        Of the wells; finite, and not the same in all wells of every plate.
    plates
        The plate of each well.
    groupings
        Each the number of every well's group.
    permutations
        The same are used for all groupings.
    generator
        Permutes.

    References
    ----------
    Fisher 1925 (eta squared); Phipson and Smyth 2010 (p of permutations), doi:10.2202/1544-6115.1585.
    """
    order = np.argsort(plates, kind="stable")
    _, plates = np.unique(plates[order], return_inverse=True)
    sizes = np.bincount(plates)
    rest = values[order] - (np.bincount(plates, weights=values[order]) / sizes)[plates]
    total = float(rest @ rest)
    names, members, chance = [], [], []
    for groups in groupings:
        found, numbers = np.unique(groups[order], return_inverse=True)
        names.append(found)
        members.append(np.equal.outer(np.arange(len(found)), numbers).astype(np.float64))
    blocks = np.split(rest, np.cumsum(sizes)[:-1])
    for start in range(0, permutations, PERMUTATIONS_AT_ONCE):
        count = min(PERMUTATIONS_AT_ONCE, permutations - start)
        shuffled = [generator.permuted(np.tile(block, (count, 1)), axis=1) for block in blocks]
        together = np.concatenate(shuffled, axis=1)
        chance.append([_share_between(member, together) / total for member in members])
    effects = []
    for number, (found, member) in enumerate(zip(names, members, strict=True)):
        by_chance = np.concatenate([part[number] for part in chance])
        share = float(_share_between(member, rest[None])[0]) / total
        # what is equal but for the order of its sums counts as equal
        p_value = (1 + int((by_chance >= share - 1e-12).sum())) / (1 + permutations)
        means = (member @ rest) / member.sum(axis=1)
        differences = {int(group): float(mean) for group, mean in zip(found, means, strict=True)}
        effects.append(Effect(share, float(by_chance.mean()), p_value, differences))
    return effects


def _share_between(
    members: Float[np.ndarray, "group well"], rest: Float[np.ndarray, "permutation well"]
) -> Float[np.ndarray, " permutation"]:
    """Sum of squares between groups."""
    between: np.ndarray = ((rest @ members.T) ** 2 / members.sum(axis=1)).sum(axis=1)
    return between


GROUPINGS = ("row", "column", "edge")


def _explain_measures(wells: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Any]:
    """Tell of each measure what row, column and edge explain, and of which wells that is told."""
    asked, sentence = _choose_wells(wells)
    notes = _describe_layout(wells)
    generator = np.random.default_rng(0)
    tested = [_explain_measure(asked, measure.numbers[asked.index.to_numpy()], generator) for measure in measures]
    marks = _mark_effects(tested)
    is_mixed = len(set(asked["format"])) > 1
    rows = []
    for number, (measure, effects) in enumerate(zip(measures, tested, strict=True)):
        words = []
        for grouping in GROUPINGS:
            if (number, grouping) in marks:
                effect = effects[grouping]
                assert isinstance(effect, Effect)
                usual = float(np.nanmean(measure.numbers[asked.index.to_numpy()]))
                words.append(_say_effect(measure, grouping, effect, usual, mixed=is_mixed))
        cells = [_effect_json(effects[grouping], (number, grouping) in marks) for grouping in GROUPINGS]
        rows.append({"measure": measure.key, "effects": cells, "words": words})
    tests = sum(isinstance(effect, Effect) for effects in tested for effect in effects.values())
    return {"wells": sentence, "notes": notes, "rows": rows, "tests": tests, "permutations": PERMUTATIONS}


def _choose_wells(wells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Choose the control wells that stand in a place, or all wells where these are few; and say so."""
    placed = wells[wells["row"] >= 0]
    controls = placed[is_control(placed)]
    controls = controls[controls.groupby("plate")["row"].transform("size") > 1]
    if len(controls) >= MIN_PLACED_CONTROLS:
        count, plates = len(controls), controls["plate"].nunique()
        return controls, f"Of {count:,} untreated wells on {plates:,} plate{'s' * (plates > 1)}."
    chosen = placed[placed.groupby("plate")["row"].transform("size") > 1] if len(placed) else placed
    return chosen, (
        f"Of all {len(chosen):,} wells, for fewer than {MIN_PLACED_CONTROLS} untreated wells share a plate with "
        "another: what treatments do may pass for what their places do."
    )


def _describe_layout(wells: pd.DataFrame) -> list[str]:
    """Say where the untreated wells stand, if that keeps position and treatment from being told apart."""
    placed = wells[wells["row"] >= 0]
    untreated = is_control(placed).to_numpy()
    if untreated.all() or not untreated.any():
        return []
    notes = []
    for axis, name in (("column", lambda number: str(number + 1)), ("row", name_row)):
        of_controls, of_others = set(placed.loc[untreated, axis]), set(placed.loc[~untreated, axis])
        names = [name(int(number)) for number in sorted(of_controls)]
        where = f"Untreated wells stand in {axis}{'s' * (len(names) > 1)} {_join(names)} alone"
        if not of_controls & of_others:
            notes.append(f"{where}, and no treated well does: position and treatment cannot be told apart.")
        elif len(of_controls) <= 2 < len(of_others):
            notes.append(f"{where}: they tell nothing of the other {axis}s.")
    edge = _find_edge(placed) == 1
    if edge[untreated].all() and not edge[~untreated].any():
        notes.append("All untreated wells stand at the edge and no treated one does: the two cannot be told apart.")
    elif edge[untreated].all() or not edge[untreated].any():
        there = "at the edge" if edge[untreated].all() else "inside"
        if edge.any() and not edge.all():
            notes.append(f"All untreated wells stand {there}: they do not tell what the edge does.")
    return notes


def _find_edge(wells: pd.DataFrame) -> Int[np.ndarray, " well"]:
    """Tell which wells (1) stand in the outermost row or column of their plate."""
    shapes = np.array([FORMATS[size] for size in wells["format"]], dtype=np.int64).reshape(-1, 2)
    places = wells[["row", "column"]].to_numpy()
    edge: np.ndarray = ((places == 0) | (places == shapes - 1)).any(axis=1).astype(np.int64)
    return edge


def _explain_measure(
    wells: pd.DataFrame, values: Float[np.ndarray, " well"], generator: np.random.Generator
) -> dict[str, Effect | str]:
    """Tell what each grouping explains, or why that is not known."""
    known = wells[np.isfinite(values)]
    known = known[known.groupby("plate")["row"].transform("size") > 1] if len(known) else known
    values = values[wells.index.get_indexer(known.index)]
    if len(known) < MIN_PLACED_CONTROLS:
        return dict.fromkeys(GROUPINGS, "too few wells")
    plates = known["plate"].to_numpy()
    if not np.any(pd.Series(values).groupby(plates).transform(np.ptp).to_numpy() > 1e-9 * np.abs(values).max()):
        return dict.fromkeys(GROUPINGS, "the same in all wells")
    # a row of one format is not that of another
    size = known["format"].to_numpy() * 100
    groups = {
        "row": size + known["row"].to_numpy(),
        "column": size + known["column"].to_numpy(),
        "edge": _find_edge(known),
    }
    several = {name: numbers for name, numbers in groups.items() if len(np.unique(numbers)) > 1}
    effects = explain_by_place(values, plates, list(several.values()), permutations=PERMUTATIONS, generator=generator)
    missing = {"row": "in one row", "column": "in one column"}
    missing["edge"] = "all at the edge" if groups["edge"].all() else "none at the edge"
    found: dict[str, Effect | str] = dict(zip(several, effects, strict=True))
    return {name: found.get(name, missing[name]) for name in GROUPINGS}


def _mark_effects(tested: Sequence[Mapping[str, Effect | str]]) -> set[tuple[int, str]]:
    """Choose the effects that stay when all tests of the table are counted (Holm 1979)."""
    found = sorted(
        (effect.p_value, number, grouping)
        for number, effects in enumerate(tested)
        for grouping, effect in effects.items()
        if isinstance(effect, Effect)
    )
    marks = set()
    for rank, (p_value, number, grouping) in enumerate(found):
        if p_value * (len(found) - rank) > MAX_P:
            break
        marks.add((number, grouping))
    return marks


def _effect_json(effect: Effect | str, is_marked: bool) -> dict[str, Any]:
    if isinstance(effect, str):
        return {"missing": effect}
    return {
        "share": round(effect.share, 4),
        "chance": round(effect.chance, 4),
        "p": round(effect.p_value, 4),
        "marked": is_marked,
    }


def _say_effect(measure: Measure, grouping: str, effect: Effect, usual: float, *, mixed: bool) -> str:
    """Say what differs: edge from inside, or the lowest and the highest row or column from their plates."""
    p_value = f"p = {effect.p_value:.2g}"
    if grouping == "edge":
        difference = effect.differences[1] - effect.differences[0]
        told = _say_difference(measure, difference, usual + effect.differences[0])  # of what is usual inside
        return f"Edge wells {measure.verb[0]} {told} ({p_value})."
    ordered = sorted(effect.differences.items(), key=lambda pair: pair[1])
    clauses = []
    for number, difference in (ordered[-1], ordered[0]):
        size, place = divmod(number, 100)
        name = name_row(place) if grouping == "row" else str(place + 1)
        of_format = f" of {size}-well plates" if mixed else ""
        told = _say_difference(measure, difference, usual)
        clauses.append(f"{grouping} {name}{of_format} {measure.verb[1]} {told}")
    text = f"{clauses[0]} than its plate, {clauses[1]} ({p_value})."
    return text[0].upper() + text[1:]


def _say_difference(measure: Measure, difference: float, usual: float) -> str:
    """Write a difference as ``12 % fewer cells``: part of what is usual, points of a share, or as it is."""
    direction = measure.less if difference < 0 else measure.more
    size = abs(difference)
    if measure.kind == "share":
        return f"{100 * size:.1f} points {direction}"
    if measure.kind == "cosine" or usual <= 0:
        return f"{size:.2g} {direction}"
    percent = 100 * size / usual
    return f"{percent:.{0 if percent >= 9.5 else 1}f}\N{NO-BREAK SPACE}% {direction}"


def _join(names: Sequence[str]) -> str:
    if len(names) > 6:
        return list_some(list(names), 6)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
