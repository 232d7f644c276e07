"""What the page shows: the facts its template states, and the data its script draws."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.config import ReportSettings
from cytoclr.data.crops import CropStore
from cytoclr.errors import DataError
from cytoclr.progress import Progress
from cytoclr.report.cells import choose_hues, cut_views, make_strips, pack_tiles, spell_hue
from cytoclr.report.inputs import (
    ReportInputs,
    find_mechanisms,
    leave_out_untreated,
    read_finite,
    round_treatment,
)
from cytoclr.report.maps import MIN_POINTS, lay_out_cells, lay_out_profiles, write_layout
from cytoclr.report.measures import (
    CLASSIFIERS,
    MEASURES,
    describe_geometry,
    explain_measures,
    list_measures,
    list_nuisance,
    list_probes,
)
from cytoclr.report.plates import lay_out_plates
from cytoclr.report.shown import Shown, choose_cells
from cytoclr.report.training import describe_augment, list_curves, say_collapse, thin_steps
from cytoclr.report.treatments import relate_treatments
from cytoclr.report.wording import (
    LABELS_SEEN,
    describe_normalisation,
    describe_protocol,
    describe_selection,
    describe_training,
    list_scores,
    list_stamps,
    name_units,
    say_verdict,
)
from cytoclr.tables import (
    SITE,
    TRAINED,
    TREATMENT,
    WELL,
    feature_matrix,
    is_control,
    sort_naturally,
    treatment_names,
)

__all__ = ["collect_data", "collect_facts"]

#: Treatments shown channel by channel, and cells of each.
MAX_GALLERIES = 6
GALLERY_CELLS = 6


def collect_facts(inputs: ReportInputs, settings: ReportSettings, *, seed: int) -> dict[str, Any]:
    """Collect what the template states in words, numbers and small pictures."""
    cells, crops, scores = inputs.cells, inputs.crops, inputs.scores
    hues = choose_hues(crops.channels)
    return {
        "title": settings.title,
        "counts": {
            "plates": cells["Metadata_Plate"].nunique(),
            "wells": len(cells[WELL].drop_duplicates()),
            "sites": len(cells[SITE].drop_duplicates()),
            "cells": len(cells),
            "treatments": len(cells[TREATMENT].drop_duplicates()),
            "batches": cells["Metadata_Batch"].nunique(),
        },
        "channels": list(crops.channels),
        "crop_size": _describe_size(crops.size_px, crops.pixel_size_um),
        "scores": list_scores(scores),
        "stamps": list_stamps(scores),
        "verdict": say_verdict(scores),
        "units": name_units(scores),
        "votes": int((scores.get("protocol") or {}).get("neighbours", 1)),
        "protocol": describe_protocol(scores),
        "normalisation": describe_normalisation(scores.get("normalisation")),
        "notes": list(scores.get("notes") or []),
        **_collect_measures(scores),
        "warnings": [*inputs.warnings, *([collapse] if (collapse := say_collapse(inputs.metrics)) else [])],
        "left_out": list(inputs.left_out),
        "plates": _count_by_plate(cells),
        "galleries": _make_galleries(inputs, hues, np.random.default_rng([seed, 1])),
        "training": describe_training(inputs.metrics),
        "curves": list_curves(inputs.metrics),
        "views": [] if inputs.views is None else cut_views(inputs.views, crops.channels, hues),
        "augment": [] if inputs.augment is None else describe_augment(inputs.augment),
        "selection": describe_selection(scores.get("selection")),
        "epochs": (scores.get("selection") or {}).get("epochs", []),
        "selected": (scores.get("selection") or {}).get("selected"),
        "labels_seen": _say_labels(scores),
        "min_points": MIN_POINTS,
        "provenance": _flatten(inputs.provenance),
        "settings_text": inputs.settings_text,
        "seed": seed,
    }


def _collect_measures(scores: Mapping[str, Any]) -> dict[str, Any]:
    probes = scores.get("probes") or []
    return {
        "measures": list_measures(scores),
        "columns": MEASURES,
        "explanations": explain_measures(scores),
        "nuisance": list_nuisance(scores),
        "probes": list_probes(scores),
        "classifiers": list(CLASSIFIERS.values()),
        "probed_cells": probes[0]["num_cells"] if probes else 0,
        "no_probe": "No mechanism is known to ask for." if "reason" in scores else "Not measured.",
        "geometry": describe_geometry(scores),
    }


def _say_labels(scores: Mapping[str, Any]) -> str | None:
    told = scores.get("labels_seen")
    return None if told is None else LABELS_SEEN[told]


def collect_data(inputs: ReportInputs, settings: ReportSettings, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Collect what the script draws: points, maps, cells, matches and the training's course."""
    progress.start("report", 4, "parts")
    inputs = replace(inputs, treatments=leave_out_untreated(inputs.treatments, inputs.wells))
    treatments, wells = _list_treatments(inputs), _list_wells(inputs)
    layouts = {}
    for level, frame in (("treatments", inputs.treatments), ("wells", inputs.wells)):
        features = read_finite(frame, f"The profiles of {level}")
        layouts[level] = [
            write_layout(layout) for layout in lay_out_profiles(features, neighbours=settings.neighbours, seed=seed)
        ]
        progress.advance()
    embeddings = None if inputs.embeddings is None else feature_matrix(inputs.embeddings)
    shown = choose_cells(
        inputs.cells,
        embeddings,
        per_well=settings.cells_per_profile,
        pictures=settings.pictures,
        generator=np.random.default_rng(seed),
    )
    _add_cells(wells, inputs.wells, inputs.cells, WELL, shown, settings.cells_per_profile)
    _add_cells(treatments, inputs.treatments, inputs.cells, TREATMENT, shown, settings.cells_per_profile)
    _add_typical(treatments, inputs.treatments, shown)
    progress.advance()
    on_map = lay_out_cells(inputs, shown, settings, seed=seed)
    progress.advance()
    progress.finish()
    return {
        "treatments": treatments,
        "wells": wells,
        "layouts": layouts,
        "tiles": _list_tiles(inputs.crops, shown),
        "cells": on_map,
        "plates": lay_out_plates(inputs),
        "relations": relate_treatments(inputs, shown),
        "asked": name_units(inputs.scores),
        "matches": _list_matches(inputs),
        "training": thin_steps(inputs.metrics),
        "curves": [asdict(curve) for curve in list_curves(inputs.metrics)],
    }


def _describe_size(size_px: int, pixel_size_um: float | None) -> str:
    if pixel_size_um is None:
        return f"{size_px} × {size_px} px"
    return f"{size_px} × {size_px} px ({size_px * pixel_size_um:.0f} × {size_px * pixel_size_um:.0f} µm)"


def _count_by_plate(cells: pd.DataFrame) -> list[dict[str, Any]]:
    wells = cells.groupby(["Metadata_Batch", *WELL], sort=True).agg(
        sites=("Metadata_Site", "nunique"), cells=("Metadata_Site", "size"), kind=("Metadata_control_type", "first")
    )
    rows: list[dict[str, Any]] = []
    for (batch, plate), of in wells.groupby(level=[0, 1]):
        counts = {"wells": len(of), "sites": int(of["sites"].sum()), "cells": int(of["cells"].sum())}
        controls = int((of["kind"] == "negcon").sum())
        rows.append(
            {
                "batch": str(batch),
                "plate": str(plate),
                "controls": controls,
                "per_well": float(of["cells"].median()),
                **counts,
            }
        )
    places = {
        key: {name: i for i, name in enumerate(sort_naturally(row[key] for row in rows))} for key in ("batch", "plate")
    }
    return sorted(rows, key=lambda row: [places[key][row[key]] for key in ("batch", "plate")])


def _make_galleries(
    inputs: ReportInputs, hues: Sequence[tuple[float, float, float]], generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Show untreated cells and a treatment of each mechanism (or any, where none is known), channel by channel."""
    about = inputs.cells[[*TREATMENT, "Metadata_control_type"]].assign(name=treatment_names(inputs.cells))
    about["mechanism"] = find_mechanisms(about, inputs.mechanisms)
    sizes = about.groupby("name").size()
    treated = about.drop_duplicates("name").assign(size=lambda frame: frame["name"].map(sizes))
    # the untreated first, then of each mechanism the treatment with most cells
    treated["control"] = is_control(treated)
    treated = treated.sort_values(["control", "size", "name"], ascending=[False, False, True])
    group = treated["mechanism"].fillna("").where(treated["mechanism"].notna() & ~treated["control"], treated["name"])
    chosen = treated[~group.duplicated()].head(MAX_GALLERIES)
    galleries = []
    for row in chosen.itertuples():
        found = np.flatnonzero(about["name"] == row.name)
        drawn = np.sort(generator.choice(found, size=min(GALLERY_CELLS, len(found)), replace=False))
        kind = "untreated" if row.control else row.mechanism
        strips = make_strips(inputs.crops, drawn, hues)
        galleries.append({"name": row.name, "mechanism": kind or "", "strips": strips})
    return galleries


def _list_wells(inputs: ReportInputs) -> list[dict[str, Any]]:
    wells = inputs.wells
    names = treatment_names(wells)
    keys = _treatment_numbers(inputs.treatments)
    mechanisms = find_mechanisms(wells, inputs.mechanisms)
    return [
        {
            "name": name,
            "well": row["Metadata_Well"],
            "plate": row["Metadata_Plate"],
            "batch": row["Metadata_Batch"],
            "compound": row["Metadata_Compound"],
            "dose": float(row["Metadata_Concentration"]),
            "mechanism": mechanism,
            "control": row["Metadata_control_type"] == "negcon",
            "treatment": keys.get(round_treatment(row["Metadata_Compound"], row["Metadata_Concentration"])),
        }
        for name, mechanism, row in zip(names, mechanisms, wells.to_dict("records"), strict=True)
    ]


def _list_treatments(inputs: ReportInputs) -> list[dict[str, Any]]:
    treatments = inputs.treatments
    about = inputs.wells.groupby(TREATMENT).agg(
        batch=("Metadata_Batch", _one_or_several),
        plate=("Metadata_Plate", _one_or_several),
    )
    rows = []
    names, mechanisms = treatment_names(treatments), find_mechanisms(treatments, inputs.mechanisms)
    for name, mechanism, row in zip(names, mechanisms, treatments.to_dict("records"), strict=True):
        key = (row["Metadata_Compound"], row["Metadata_Concentration"])
        if key not in about.index:
            raise DataError(f"treatment profiles: {name} has no well profile. Run the profile stage again.")
        of = about.loc[key]
        rows.append(
            {
                "name": name,
                "compound": row["Metadata_Compound"],
                "dose": float(row["Metadata_Concentration"]),
                "mechanism": mechanism,
                "batch": of["batch"],
                "plate": of["plate"],
            }
        )
    return rows


def _one_or_several(names: pd.Series) -> str:
    return str(names.iloc[0]) if (names == names.iloc[0]).all() else "several"


def _treatment_numbers(treatments: pd.DataFrame) -> dict[tuple[str, float], int]:
    pairs = zip(treatments["Metadata_Compound"], treatments["Metadata_Concentration"], strict=True)
    return {round_treatment(*pair): number for number, pair in enumerate(pairs)}


def _list_tiles(crops: CropStore, shown: Shown) -> dict[str, Any]:
    tiles = pack_tiles(crops, shown.rows)
    hues = [spell_hue(hue) for hue in choose_hues(crops.channels)]
    return {
        "px": tiles.tile_px,
        "um_a_px": tiles.um_a_px,
        "channels": [{"name": name, "hue": hue} for name, hue in zip(crops.channels, hues, strict=True)],
        "sheets": tiles.sheets,
    }


def _add_cells(
    points: list[dict[str, Any]],
    profiles: pd.DataFrame,
    cells: pd.DataFrame,
    keys: Sequence[str],
    shown: Shown,
    limit: int,
) -> None:
    """Tell each well or treatment which of the tiles drawn by chance are its own."""
    drawn = cells.iloc[shown.by_chance].set_axis(shown.by_chance)
    # in an order that goes through a treatment's wells in turn
    turn = drawn.groupby(WELL).cumcount().sort_values(kind="stable").index
    own = {key: list(rows[:limit]) for key, rows in drawn.loc[turn].groupby(list(keys), sort=False).groups.items()}
    for point, key in zip(points, profiles[list(keys)].itertuples(index=False), strict=True):
        point["cells"] = shown.tiles_of(own.get(tuple(key), []))


def _add_typical(points: list[dict[str, Any]], treatments: pd.DataFrame, shown: Shown) -> None:
    """Tell each treatment which tiles are its most, and its least, typical cells."""
    for point, key in zip(points, treatments[TREATMENT].itertuples(index=False), strict=True):
        point["typical"] = shown.tiles_of(shown.typical.get(tuple(key), []))
        point["untypical"] = shown.tiles_of(shown.untypical.get(tuple(key), []))


def _list_matches(inputs: ReportInputs) -> dict[str, list[list[Any]]]:
    """List who asked, its neighbour, similarity, right or wrong, and the mechanism predicted, for each score.

    Of the trained encoder. Who asked is the number of a treatment, or of a well if the protocol is of wells; its
    neighbour is a treatment in any case, for matches do not tell which of its wells is the nearest.
    """
    if inputs.matches is None:
        return {}
    numbers = _treatment_numbers(inputs.treatments)
    wells = {key: number for number, key in enumerate(inputs.wells[WELL].itertuples(index=False, name=None))}
    asks_wells = name_units(inputs.scores) == "wells"
    listed: dict[str, list[list[Any]]] = {}
    trained = inputs.matches[inputs.matches["features"] == TRAINED]
    for row in trained.to_dict("records"):
        pair = round_treatment(row["Metadata_Compound"], row["Metadata_Concentration"])
        match = round_treatment(row["Match_Compound"], row["Match_Concentration"])
        if pair not in numbers or match not in numbers:
            lost = pair if pair not in numbers else match
            raise DataError(f"matches: {lost[0]} {lost[1]:g} has no treatment profile. Run evaluate again.")
        asker = numbers[pair]
        if asks_wells:
            well = (row["Metadata_Plate"], row["Metadata_Well"])
            if well not in wells:
                raise DataError(f"matches: {' '.join(well)} has no well profile. Run evaluate again.")
            asker = wells[well]
        similarity = round(float(row["similarity"]), 4)
        line = [asker, numbers[match], similarity, bool(row["correct"]), row["Predicted_MoA"]]
        listed.setdefault(row["score"], []).append(line)
    return listed


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name} · ")
        else:
            rows.append((prefix + str(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
