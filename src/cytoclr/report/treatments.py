"""How treatments relate: their neighbours, their doses, their similarities."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cytoclr.report.inputs import ReportInputs, find_mechanisms
from cytoclr.report.shown import Shown
from cytoclr.tables import (
    TRAINED,
    TREATMENT,
    WELL,
    feature_matrix,
    is_control,
    round_concentrations,
    select_enough_cells,
    treatment_names,
)

__all__ = ["MAX_ROWS", "NUM_NEIGHBOURS", "cluster_rows", "find_neighbours", "relate_treatments", "scale_to_one"]

#: Neighbours listed of each treatment.
NUM_NEIGHBOURS = 5
#: Rows of the heat map at most: more are finer than a screen, and a page of megabytes.
MAX_ROWS = 400
#: Untreated cells shown of each plate, at most.
MAX_UNTREATED = 8
BLOCK_ROWS = 512


def relate_treatments(inputs: ReportInputs, shown: Shown) -> dict[str, Any]:
    """List neighbours, doses and similarities of treatments; the untreated are not among them.

    All similarities are cosines of treatment profiles, whatever the protocol of the scores.

    Returns
    -------
    dict
        A value a treatment, in their order: ``dose`` (µM), ``cells`` (their number), ``length`` of its profile, which
        is the distance to the untreated if ``centred``; ``to_highest``, similarity to the highest dose of its compound
        (None where there is one dose alone); ``map``, ``p`` (corrected) and ``active`` of its replicates (None where
        not measured); ``neighbours``, see `_list_neighbours`. And ``well_length``, the median length of profiles of
        single untreated wells (None without any); ``untreated``, tiles of untreated cells of each plate, drawn by
        chance; ``heat``, see `_draw_heat`.
    """
    treatments = round_concentrations(inputs.treatments).reset_index(drop=True)
    features = feature_matrix(treatments)
    lengths = np.linalg.norm(features, axis=1)
    activity = _align_activity(treatments, inputs.activity)
    controls = inputs.wells[is_control(inputs.wells)]
    well_lengths = np.linalg.norm(feature_matrix(controls), axis=1)
    return {
        "dose": treatments["Metadata_Concentration"].tolist(),
        "cells": _count_cells(treatments, inputs.cells),
        "length": [float(f"{length:.4g}") for length in lengths],
        "centred": inputs.scores.get("normalisation") != "none",
        "well_length": float(f"{np.median(well_lengths):.4g}") if len(controls) else None,
        "to_highest": _compare_doses(treatments, scale_to_one(features)),
        "map": _round_or_none(activity["map"], 3),
        "p": _round_or_none(activity["corrected_p_value"], 6),
        "active": [None if pd.isna(active) else bool(active) for active in activity["active"]],
        "neighbours": _list_neighbours(inputs, treatments, features),
        "untreated": _find_untreated(inputs.cells, shown),
        "heat": _draw_heat(treatments, features, activity["map"].to_numpy(dtype=np.float64)),
    }


def scale_to_one(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    """Scale rows to length one, so that their products are cosines; a row of nothing stays so, and is like no other."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions: np.ndarray = features / np.where(lengths > 0, lengths, 1.0)
    return directions


def find_neighbours(
    directions: Float[np.ndarray, "row feature"], groups: Int[np.ndarray, " row"], *, number: int
) -> tuple[Int[np.ndarray, "row neighbour"], Float[np.ndarray, "row neighbour"]]:
    """Find the most similar rows of other groups, nearest first, and how similar; row -1 where there are no more.

    Parameters
    ----------
    directions
        Rows of length one.
    groups
        What may not be a neighbour: another row of the same number.
    number
        How many; ties go to the earlier row.

    Notes
    -----
    Block by block: memory grows with the rows, time with their square.
    """
    found = np.full((len(directions), number), -1, dtype=np.int64)
    similarities = np.zeros((len(directions), number))
    few = min(number, len(directions))
    for start in range(0, len(directions), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        # rounded, so that rows which are alike but for rounding are ties
        of = (directions[rows] @ directions.T).round(12)
        of[groups[rows, None] == groups] = -np.inf
        worst = np.partition(of, -few, axis=1)[:, -few]
        for row, (its, least) in enumerate(zip(of, worst, strict=True), start):
            candidates = np.flatnonzero((its >= least) & np.isfinite(its))
            order = candidates[np.argsort(-its[candidates], kind="stable")][:few]
            found[row, : len(order)] = order
            similarities[row, : len(order)] = its[order]
    return found, similarities


def cluster_rows(similarities: Float[np.ndarray, "row row"]) -> Int[np.ndarray, " row"]:
    """Order rows so that the similar are together: average linkage of cosine distances, leaves in optimal order.

    References
    ----------
    doi:10.1093/bioinformatics/17.suppl_1.S22 (Bar-Joseph et al. 2001, optimal leaf ordering).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(similarities) < 2:
        return np.arange(len(similarities))
    distances = np.clip(1.0 - (similarities + similarities.T) / 2, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=True)
    return np.asarray(leaves_list(tree), dtype=np.int64)


# ---- neighbours, and which of them the scores admit ----


def _list_neighbours(
    inputs: ReportInputs, treatments: pd.DataFrame, features: Float[np.ndarray, "treatment feature"]
) -> list[list[list[Any]]]:
    """List of each treatment its neighbours of other compounds, nearest first.

    Each is number, similarity, whether it lies in other batches alone, whether NSC and whether NSCB admits it; None
    where the protocol decides by something that is not in the page.
    """
    compounds = pd.factorize(treatments["Metadata_Compound"])[0]
    found, similarities = find_neighbours(scale_to_one(features), compounds, number=NUM_NEIGHBOURS)
    batches = _mark_batches(inputs.wells, treatments, "Metadata_Batch")
    judge = _Judge(inputs, treatments)
    return [
        [
            [
                other,
                round(similarity, 3),
                not bool((batches[asker] & batches[other]).any()),
                judge.admits_nsc(other),
                judge.admits_nscb(asker, other),
            ]
            for other, similarity in zip(others, of, strict=True)
            if other >= 0
        ]
        for asker, (others, of) in enumerate(zip(found.tolist(), similarities.tolist(), strict=True))
    ]


class _Judge:
    """Tells which treatments a protocol admits as references, from the run's tables."""

    def __init__(self, inputs: ReportInputs, treatments: pd.DataFrame) -> None:
        protocol: Mapping[str, Any] = inputs.scores.get("protocol") or {}
        self.scored = inputs.mechanisms is not None and bool(protocol)
        self.by_well = protocol.get("level") == "well"
        self.shared = protocol.get("shared_batches", "exclude")
        wells = select_enough_cells(inputs.wells)
        positive = wells["Metadata_control_type"] == "poscon"
        rule = protocol.get("positive_controls", "keep")
        column = protocol.get("batch", "Metadata_Batch")
        taking_part = wells[~positive] if rule == "drop" else wells
        self.batches = _mark_batches(taking_part, treatments, column if column in wells else "Metadata_Batch")
        # a positive control keeps the wells of its first batch alone: not told here
        self.unclear = _mark_batches(wells[positive], treatments, "Metadata_Batch").any(axis=1) & (
            rule == "first-batch"
        )
        nscb = inputs.scores.get("nscb") or {}
        self.asks_batches = bool(nscb)
        drops = protocol.get("single_batch_mechanisms") == "drop"
        self.dropped = set(nscb.get("dropped_mechanisms") or ()) if drops else set()
        self.mechanisms: list[str | None] = find_mechanisms(treatments, inputs.mechanisms).tolist()

    def admits_nsc(self, other: int) -> bool | None:
        """Tell whether it may answer at all: it has a mechanism, and wells that take part."""
        if not self.scored:
            return None
        return self.mechanisms[other] is not None and bool(self.batches[other].any())

    def admits_nscb(self, asker: int, other: int) -> bool | None:
        """Tell whether it may answer this one across batches."""
        if not self.scored or not self.asks_batches:
            return None
        if not self.admits_nsc(other) or self.mechanisms[other] in self.dropped:
            return False
        if self.by_well or self.unclear[asker] or self.unclear[other]:
            return None
        own, its = self.batches[asker], self.batches[other]
        same_mechanism = self.mechanisms[asker] == self.mechanisms[other]
        match self.shared:
            case "exclude":
                return not bool((own & its).any())
            case "recompute":
                return bool((its & ~own).any())
            case "joined":
                return bool((own != its).any())
            case "same-mechanism":
                return not (same_mechanism and bool((own & its).any()))
            case _:
                return None


def _mark_batches(wells: pd.DataFrame, treatments: pd.DataFrame, column: str) -> Bool[np.ndarray, "treatment batch"]:
    """Mark the batches that each treatment has wells in."""
    numbers = _number_rows(wells, treatments)
    codes, names = pd.factorize(wells[column])
    marked = np.zeros((len(treatments), max(1, len(names))), dtype=bool)
    marked[numbers[numbers >= 0], codes[numbers >= 0]] = True
    return marked


def _number_rows(frame: pd.DataFrame, treatments: pd.DataFrame) -> Int[np.ndarray, " row"]:
    """Number of the treatment of each row; -1 where it is none of them (the untreated are not)."""
    keys = treatments[TREATMENT].drop_duplicates()
    rows = pd.MultiIndex.from_frame(round_concentrations(frame[TREATMENT]))
    places = pd.MultiIndex.from_frame(keys).get_indexer(rows)
    return np.where(places >= 0, keys.index.to_numpy()[places], -1).astype(np.int64)


# ---- doses, replicates, cells ----


def _list_compounds(treatments: pd.DataFrame) -> list[Int[np.ndarray, " _row"]]:
    """List the rows of each compound, compounds by name."""
    groups = treatments.groupby("Metadata_Compound", sort=True).indices
    return [np.asarray(rows, dtype=np.int64) for rows in groups.values()]


def _compare_doses(treatments: pd.DataFrame, directions: Float[np.ndarray, "treatment feature"]) -> list[float | None]:
    """Tell how similar each is to the highest dose of its compound; None where there is one dose alone."""
    similar: list[float | None] = [None] * len(treatments)
    doses = treatments["Metadata_Concentration"].to_numpy()
    for rows in _list_compounds(treatments):
        if len(rows) < 2:
            continue
        highest = rows[np.argmax(doses[rows])]
        for row, similarity in zip(rows, directions[rows] @ directions[highest], strict=True):
            similar[int(row)] = round(float(similarity), 3)
    return similar


def _align_activity(treatments: pd.DataFrame, activity: pd.DataFrame | None) -> pd.DataFrame:
    """Find the row of each treatment; empty where its replicates were not measured."""
    columns = ["map", "corrected_p_value", "active"]
    if activity is None:
        return pd.DataFrame(np.nan, index=treatments.index, columns=columns, dtype=object)
    own = round_concentrations(activity[activity["features"] == TRAINED])[[*TREATMENT, *columns]]
    return treatments[TREATMENT].merge(own, on=TREATMENT, how="left", validate="many_to_one")[columns]


def _round_or_none(values: pd.Series, digits: int) -> list[float | None]:
    return [None if pd.isna(value) else round(float(value), digits) for value in values]


def _count_cells(treatments: pd.DataFrame, cells: pd.DataFrame) -> list[int]:
    numbers = _number_rows(cells, treatments)
    return [int(count) for count in np.bincount(numbers[numbers >= 0], minlength=len(treatments))]


def _find_untreated(cells: pd.DataFrame, shown: Shown) -> dict[str, list[int]]:
    """Find tiles of the untreated cells of each plate, drawn by chance, going through its wells in turn."""
    drawn = cells.iloc[shown.by_chance].set_axis(shown.by_chance)
    untreated = drawn[is_control(drawn)]
    turn = untreated.groupby(WELL).cumcount().sort_values(kind="stable").index
    plates = untreated.loc[turn].groupby("Metadata_Plate", sort=True).groups
    return {str(plate): shown.tiles_of(list(rows[:MAX_UNTREATED])) for plate, rows in plates.items()}


# ---- the heat map ----


def _draw_heat(
    treatments: pd.DataFrame,
    features: Float[np.ndarray, "treatment feature"],
    activity: Float[np.ndarray, " treatment"],
) -> dict[str, Any]:
    """Cluster treatments (or compounds, or the most active, where these are too many) by their similarity.

    Returns
    -------
    dict
        ``rows``: number of the treatment of each row, as clustered (of compounds: of that with the longest profile);
        ``names`` of the rows; ``of``, ``treatments`` or ``compounds``; ``left_out``: how many are not shown; ``by``,
        what the shown were chosen by; ``similarities``: the lower triangle, row after row with its diagonal, times
        127 in bytes with a sign, in base64.
    """
    rows, of, by = np.arange(len(treatments)), "treatments", None
    if len(rows) > MAX_ROWS:
        groups = _list_compounds(treatments)
        if len(groups) <= MAX_ROWS:
            lengths = np.linalg.norm(features, axis=1)
            rows = np.array([own[np.argmax(lengths[own])] for own in groups])
            features, of = np.stack([features[own].mean(axis=0) for own in groups]), "compounds"
        else:
            rows, by = _choose_active(features, activity)
            features = features[rows]
    directions = scale_to_one(features)
    similarities = np.clip(directions @ directions.T, -1.0, 1.0)
    order = cluster_rows(similarities)
    triangle = similarities[np.ix_(order, order)][np.tril_indices(len(order))]
    rows = rows[order]
    names = treatment_names(treatments) if of == "treatments" else treatments["Metadata_Compound"]
    return {
        "rows": [int(row) for row in rows],
        "names": [str(name) for name in names.iloc[rows]],
        "of": of,
        "left_out": len(treatments) - len(rows) if of == "treatments" else 0,
        "by": by,
        "similarities": base64.b64encode((127 * triangle).round().astype(np.int8).tobytes()).decode(),
    }


def _choose_active(
    features: Float[np.ndarray, "treatment feature"], activity: Float[np.ndarray, " treatment"]
) -> tuple[Int[np.ndarray, " row"], str]:
    """Choose the treatments whose replicates agree best (or whose profiles are longest, where that is not measured)."""
    measured = bool(np.isfinite(activity).any())
    strength = np.nan_to_num(activity, nan=-1.0) if measured else np.linalg.norm(features, axis=1)
    chosen = np.argsort(-strength, kind="stable")[:MAX_ROWS]
    return np.sort(chosen), "activity" if measured else "length"
