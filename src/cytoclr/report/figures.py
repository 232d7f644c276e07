"""Figures for a paper: what the report shows, each as a file of its own, at the width of a journal's column."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from cytoclr.config import ReportSettings
from cytoclr.errors import SettingsError, list_some
from cytoclr.progress import Progress, Silent
from cytoclr.report.cells import DISPLAY_GAMMA, choose_hues, colour_crops, spell_hue
from cytoclr.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    MM_PER_POINT,
    NARROW_MM,
    QUIET,
    RIGHT,
    SMALL_PT,
    TEXT_PT,
    TINY_PT,
    WIDE_MM,
    WRONG,
    Canvas,
    Format,
    Mark,
    add_axes,
    clean_text,
    draw_legend,
    draw_mark,
    measure_legend,
    measure_text,
    save_figure,
    start_figure,
    use_style,
)
from cytoclr.report.inputs import ReportInputs, check_inputs, find_mechanisms, leave_out_untreated, read_finite
from cytoclr.report.maps import Layout, lay_out_profiles
from cytoclr.report.measures import MEASURES, Figure, list_measures, list_nuisance
from cytoclr.report.plates import FORMATS, find_place, name_row
from cytoclr.report.sheets import write_tables
from cytoclr.report.training import Curve, list_curves, thin_steps
from cytoclr.report.wording import Score, format_percent, list_scores, name_units
from cytoclr.storage import write_text
from cytoclr.tables import (
    MECHANISM,
    TRAINED,
    TREATMENT,
    WELL,
    is_control,
    sort_naturally,
    treatment_names,
)

__all__ = ["write_figures", "write_tables"]

logger = logging.getLogger(__name__)

#: Panels of plates, rows of cells and names in a legend, at most: what a page holds.
MAX_PLATES = 24
MAX_ROWS = 12
MAX_NAMES = 48
#: Cells of a row.
ROW_CELLS = 8
#: Treatments in a heat map, at most: more than it has pixels. Up to the second number the order of leaves is the best.
MAX_TREATMENTS = 3000
MAX_ORDERED = 800
#: Rows and columns of the plates that are drawn: smaller ones as parts of one of 96 wells.
_PLATES = tuple(FORMATS[size] for size in (96, 384, 1536))
#: Lengths that a scale bar may have, µm.
_BARS_UM = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class Drawing:
    """A figure, and what must be told beside it."""

    canvas: Canvas
    caption: str


def write_figures(
    folder: Path,
    inputs: ReportInputs,
    settings: ReportSettings,
    *,
    formats: Sequence[Format] = ("svg", "png", "pdf"),
    seed: int,
    progress: Progress | None = None,
) -> list[Path]:
    """Write every figure that a run has data for, and a ``README.txt`` that says what each shows.

    Parameters
    ----------
    folder
        Where to; files of the same names there are replaced.
    inputs
        Tables, crops and scores of a run, as for `write_report`.
    settings
        Title, and neighbours of the maps.
    formats
        Of each figure. In SVG, text stays text in the font DejaVu Sans; PDF embeds it; PNG has 300 dots an inch.
    seed
        Decides the maps and which cells are shown.

    Returns
    -------
    list of Path
        The files, figure by figure, and ``README.txt`` last, with captions, and with the reason for each figure that is
        not there.

    Raises
    ------
    SettingsError
        No format is asked for.
    DataError
        A table lacks a column, or `cells` and `crops` differ in number.
    MachineError
        A file cannot be written.

    Notes
    -----
    The same inputs give the same bytes with the same version of matplotlib. While figures are drawn, matplotlib's
    settings are those of the figures, in all threads.
    """
    if not formats:
        raise SettingsError("formats: none is named. Expected some of svg, png, pdf.")
    progress = progress or Silent()
    checked = check_inputs(inputs)
    material = _Material(checked, settings, seed)
    paths, captions, reasons = [], [], []
    progress.start("figures", len(_DRAWN), "figures")
    with use_style():
        for name, draw in _DRAWN.items():
            drawn = draw(material)
            if isinstance(drawn, Drawing):
                for kind in formats:
                    paths.append(folder / f"{name}.{kind}")
                    save_figure(drawn.canvas, paths[-1], kind)
                captions.append(f"{name}\n    {drawn.caption}")
            else:
                logger.info("figure %s is left out: %s", name, drawn)
                reasons.append(f"{name}\n    Not drawn: {drawn}.")
            progress.advance()
    progress.finish()
    paths.append(folder / "README.txt")
    head = f"{clean_text(settings.title, limit=200)}: figures, {NARROW_MM:.0f} or {WIDE_MM:.0f} mm wide."
    write_text(paths[-1], "\n\n".join([head, *captions, *reasons]) + "\n")
    return paths


@dataclass(frozen=True)
class _Material:
    """What several figures are made of, computed once."""

    inputs: ReportInputs
    settings: ReportSettings
    seed: int

    @cached_property
    def treatments(self) -> pd.DataFrame:
        """All but the untreated, whose profile points nowhere; with the mechanism, None where it is not known."""
        kept = leave_out_untreated(self.inputs.treatments, self.inputs.wells).reset_index(drop=True)
        return kept.assign(**{MECHANISM: find_mechanisms(kept, self.inputs.mechanisms)})

    @cached_property
    def features(self) -> Float[np.ndarray, "treatment feature"]:
        return read_finite(self.treatments, "The profiles of treatments")

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        laid_out = lay_out_profiles(self.features, neighbours=self.settings.neighbours, seed=self.seed)
        return {layout.method: layout for layout in laid_out}

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """How each mechanism is marked: in colours as on the page, and in shapes of its own too, for grey prints."""
        names = sort_naturally(self.treatments[MECHANISM].dropna())
        count = len(COLOURS)
        return {name: Mark(COLOURS[i % count], MARKERS[(i + i // count) % count]) for i, name in enumerate(names)}


_NOT_KNOWN = Mark("#8b939b")


# Dots with intervals: scores, measures, batch.


@dataclass(frozen=True)
class _Panel:
    """Dots in a column: a heading, a dot or a gap for each row, and whether its numbers are shares or means."""

    title: str
    figures: Sequence[Figure]
    is_share: bool


def _draw_scores(material: _Material) -> Drawing | str:
    scores = material.inputs.scores
    rows = list_scores(scores)
    if not rows:
        return str(scores.get("reason") or "there are no scores").rstrip(".")
    panels = [
        _Panel("NSCB", [_show_score(row.nscb, "in one batch only") for row in rows], is_share=True),
        _Panel("NSC", [_show_score(row.nsc, "none") for row in rows], is_share=True),
    ]
    told = [row.name for row in rows if row.told]
    leaks = f" Not to be compared, for their models were told the labels: {list_some(told)}." if told else ""
    caption = (
        f"Share of {name_units(scores)} whose nearest neighbour has the same mechanism, by the protocol "
        f"{(scores.get('protocol') or {}).get('name', 'not named')}. Bars: 95 % intervals by bootstrap over compounds. "
        f"Grey: mechanisms dealt out at random, mean and 95th percentile.{leaks}"
    )
    return Drawing(
        _draw_dots([row.name for row in rows], panels, is_first=[r.features == TRAINED for r in rows]), caption
    )


def _show_score(score: Score | None, missing: str) -> Figure:
    if not score:
        return Figure(missing=missing)
    chance = score.get("chance") or {}
    return Figure(
        score["score"],
        format_percent(score["score"]),
        cases=f"{score['correct']} of {score['total']}",
        chance=chance.get("mean"),
        p95=chance.get("p95"),
        interval=score.get("interval"),
    )


def _draw_measures(material: _Material) -> Drawing | str:
    rows = list_measures(material.inputs.scores)
    if all(figure.value is None for row in rows for figure in row.figures):
        return rows[0].missing or "nothing was measured"
    panels = [
        _Panel(measure.short, [row.figures[i] for row in rows], is_share=measure.kind != "mAP")
        for i, measure in enumerate(MEASURES)
    ]
    caption = (
        "Do replicates and mechanisms find each other? Bars: 95 % intervals by bootstrap. Grey: to be expected by "
        "chance. Gaps: not measured."
    )
    shown = _draw_dots([row.name for row in rows], panels, is_first=[row.features == TRAINED for row in rows])
    return Drawing(shown, caption)


def _draw_dots(names: Sequence[str], panels: Sequence[_Panel], *, is_first: Sequence[bool]) -> Canvas:
    """Draw rows of dots side by side, names at the left, numbers at the right of each panel."""
    names = [clean_text(name, limit=26) for name in names]
    row_mm, top_mm, has_cases = 5.0, 6.0, len(panels) <= 2
    left_mm = max(measure_text(names, TEXT_PT)) + 4.0
    numbers = [[_write_number(figure, has_cases=has_cases) for figure in panel.figures] for panel in panels]
    number_mm = max(measure_text([text for column in numbers for text in column], SMALL_PT)) + 2.5
    panel_mm = (WIDE_MM - left_mm - 1.0) / len(panels)
    height_mm = row_mm * len(names)
    canvas = start_figure(WIDE_MM, top_mm + height_mm + 12.0)
    for place, (panel, texts) in enumerate(zip(panels, numbers, strict=True)):
        axes = add_axes(canvas, left_mm + place * panel_mm, top_mm, panel_mm - number_mm - 3.0, height_mm)
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
        axes.set_yticklabels(names if place == 0 else [""] * len(names), fontsize=TEXT_PT)
        axes.set_title(panel.title, pad=4)
        _scale_shares(axes, is_share=panel.is_share)
        for row, (figure, text) in enumerate(zip(panel.figures, texts, strict=True)):
            _draw_dot(axes, row, figure, Mark(RIGHT if is_first[row] else QUIET))
            axes.annotate(
                text, (1, row), (2.0, 0), textcoords="offset points", fontsize=SMALL_PT, va="center_baseline",
                color=INK if figure.value is not None else QUIET, annotation_clip=False,
            )  # fmt: skip
    draw_legend(
        canvas,
        [Mark(RIGHT), Mark(QUIET), Mark("#8b939b", "|", is_hollow=True)],
        ["trained, with 95 % interval", "others", "by chance"],
        left_mm=left_mm,
        top_mm=top_mm + height_mm + 6.5,
        width_mm=WIDE_MM - left_mm,
    )
    return canvas


def _write_number(figure: Figure, *, has_cases: bool) -> str:
    if figure.value is None:
        return "–"
    return f"{figure.text} ({figure.cases})" if has_cases and figure.cases else figure.text


def _scale_shares(axes: Axes, *, is_share: bool) -> None:
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"] if is_share else ["0", "0.5", "1"])
    axes.set_xticks([0.25, 0.75], minor=True)
    axes.grid(axis="x", which="both")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="minor", length=0)


def _draw_dot(axes: Axes, row: float | int, figure: Figure, mark: Mark) -> None:
    """Draw what was measured with its interval, and behind it what is to be expected by chance."""
    if figure.chance is not None:
        if figure.p95 is not None:
            axes.plot([figure.chance, figure.p95], [row, row], c="#c9ced2", lw=4.0, solid_capstyle="butt", zorder=1)
        axes.plot([figure.chance] * 2, [row - 0.3, row + 0.3], c="#8b939b", lw=1.2, solid_capstyle="butt", zorder=2)
    if figure.value is None:
        return
    if figure.interval is not None:
        axes.plot(list(figure.interval), [row, row], c=mark.colour, lw=1.2, solid_capstyle="round", zorder=3)
    draw_mark(axes, figure.value, row, mark)


def _draw_batch(material: _Material) -> Drawing | str:
    rows = list_nuisance(material.inputs.scores)
    if all(figure.value is None for row in rows for figure in (row.before, row.after)):
        return "it was not measured how well batch and plate can be told"
    names = [f"{row.name} told" for row in rows]
    left_mm, top_mm, row_mm = max(measure_text(names, TEXT_PT)) + 4.0, 3.0, 11.0
    height_mm, number_mm = row_mm * len(rows), 11.0
    canvas = start_figure(NARROW_MM, top_mm + height_mm + 12.0)
    axes = add_axes(canvas, left_mm, top_mm, NARROW_MM - left_mm - number_mm, height_mm)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels(names, fontsize=TEXT_PT)
    _scale_shares(axes, is_share=True)
    before, after = Mark(QUIET, is_hollow=True), Mark(RIGHT)
    for place, row in enumerate(rows):
        for figure, mark, shift in ((row.before, before, -0.18), (row.after, after, 0.18)):
            _draw_dot(axes, place + shift, replace(figure, interval=None), mark)
            text = figure.text or "–"
            axes.annotate(
                text, (1, place + shift), (2.0, 0), textcoords="offset points", fontsize=SMALL_PT,
                va="center_baseline", annotation_clip=False,
            )  # fmt: skip
    draw_legend(
        canvas,
        [before, after, Mark("#8b939b", "|", is_hollow=True)],
        ["before normalisation", "after", "by chance"],
        left_mm=3.0,
        top_mm=top_mm + height_mm + 6.5,
        width_mm=NARROW_MM - 4.0,
    )
    asked = "; ".join(f"{row.name.lower()}: {row.asked}" for row in rows if row.asked)
    caption = (
        f"How well batch and plate can be told from untreated wells, balanced accuracy ({asked}). The less, the "
        "better. Grey: by chance, mean and 95th percentile."
    )
    return Drawing(canvas, caption)


# Maps.


def _draw_map(material: _Material, method: str) -> Drawing | str:
    layout = material.layouts.get(method)
    if layout is None:
        return "there are too few treatments, or all have the same profile"
    groups = _group_by_mechanism(material)
    names = [clean_text(name) for name, _, _ in groups[:MAX_NAMES]]
    width_mm, margin_mm, legend_left_mm = NARROW_MM - 7.0, 5.0, 3.0
    legend_mm = measure_legend(names, NARROW_MM - legend_left_mm - 1)
    canvas = start_figure(NARROW_MM, width_mm + margin_mm + 4.0 + legend_mm)
    axes = add_axes(canvas, margin_mm, 1.5, width_mm, width_mm)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(layout.axes[0] or f"{method} 1", labelpad=3, color=QUIET, fontsize=SMALL_PT)
    axes.set_ylabel(layout.axes[1] or f"{method} 2", labelpad=3, color=QUIET, fontsize=SMALL_PT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    axes.spines[:].set_color(FAINT)
    axes.margins(0.05)
    size = 16.0 if len(layout.x) <= 300 else 7.0
    for _, mark, rows in groups:
        axes.scatter(
            layout.x[rows],
            layout.y[rows],
            s=size,
            c=mark.colour,
            marker=mark.marker,
            linewidths=0.3,
            edgecolors="white",
        )
    draw_legend(
        canvas,
        [mark for _, mark, _ in groups[:MAX_NAMES]],
        names,
        left_mm=legend_left_mm,
        top_mm=width_mm + margin_mm + 2.5,
        width_mm=NARROW_MM - legend_left_mm - 1,
    )
    more = len(groups) - MAX_NAMES
    left_out = f" The legend leaves out {more} mechanisms." if more > 0 else ""
    caption = f"Profiles of {len(layout.x)} treatments laid out by {method}; a mark is a treatment.{left_out}"
    return Drawing(canvas, caption)


def _group_by_mechanism(material: _Material) -> list[tuple[str, Mark, Bool[np.ndarray, " treatment"]]]:
    mechanisms = material.treatments[MECHANISM]
    groups = [(name, mark, (mechanisms == name).to_numpy(dtype=bool)) for name, mark in material.marks.items()]
    unknown = mechanisms.isna().to_numpy()
    return [*groups, ("mechanism not known", _NOT_KNOWN, unknown)] if unknown.any() else groups


# Matrices: confusion, similarity.


def _draw_confusion(material: _Material, score: Literal["nsc", "nscb"]) -> Drawing | str:
    scores = material.inputs.scores
    confusion = (scores.get(score) or {}).get("confusion")
    if not confusion:
        return f"there is no {score.upper()}"
    names = [clean_text(name, limit=32) for name in confusion["mechanisms"]]
    counts = np.array(confusion["counts"])
    own = counts.sum(axis=1)
    side_mm, total_mm = max(measure_text(names, TEXT_PT)) + 3.5, 15.0
    width_mm, cell_mm = NARROW_MM, (NARROW_MM - side_mm - total_mm) / len(names)
    if cell_mm < 4.0:
        width_mm, cell_mm = WIDE_MM, min(8.0, (WIDE_MM - side_mm - total_mm) / len(names))
    size_pt = min(TEXT_PT, 0.9 * cell_mm / MM_PER_POINT)
    side_mm = side_mm if size_pt >= TINY_PT else 16.0
    whole_mm = cell_mm * len(names)
    top_mm = max(6.0, side_mm) if size_pt >= TINY_PT else 8.0
    canvas = start_figure(width_mm, top_mm + whole_mm + 2.0)
    left_mm = side_mm + max(0.0, (width_mm - side_mm - total_mm - whole_mm) / 2)
    axes = add_axes(canvas, left_mm, top_mm, whole_mm, whole_mm)
    shares = counts / np.maximum(own, 1)[:, None]
    axes.imshow(_tint_confusion(shares), aspect="auto", extent=(-0.5, len(names) - 0.5, len(names) - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2, top=True, labeltop=True, bottom=False, labelbottom=False)
    if size_pt >= TINY_PT:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size_pt)
        axes.set_yticks(range(len(names)), names, fontsize=size_pt)
    else:
        axes.set(xticks=[], yticks=[])
    for place in np.arange(len(names) - 1) + 0.5:
        axes.axhline(place, c="white", lw=0.6)
        axes.axvline(place, c="white", lw=0.6)
    for shift, text in ((9.0, "columns: found"), (2.0, "rows: true")):
        axes.annotate(
            text, (0, 1), (-3.0, shift), xycoords="axes fraction", textcoords="offset points", ha="right",
            fontsize=SMALL_PT, color=QUIET, annotation_clip=False,
        )  # fmt: skip
    _write_counts(axes, counts, shares, size_pt, cell_mm)
    told = "" if size_pt >= TINY_PT else " There are too many mechanisms to name here."
    caption = (
        f"{score.upper()}: which mechanism was found (columns) for {name_units(scores)} of each mechanism (rows), "
        f"counts; depth of colour: share of the row; at the right: how many were right.{told}"
    )
    return Drawing(canvas, caption)


def _tint_confusion(shares: Float[np.ndarray, "mechanism found"]) -> Float[np.ndarray, "mechanism found 3"]:
    """Colour right answers blue and wrong ones red, the deeper the more of them."""
    right = np.eye(len(shares), dtype=bool)
    ink = np.where(right[..., None], to_rgb(RIGHT), to_rgb(WRONG))
    depth = np.where(shares > 0, 0.12 + 0.8 * shares, 0.0)[..., None]
    ground = np.array(to_rgb("#f4f5f5"))
    tinted: np.ndarray = np.where(depth > 0, 1 - depth * (1 - ink), ground)
    return tinted


def _write_counts(
    axes: Axes, counts: np.ndarray, shares: np.ndarray, size_pt: float | int, cell_mm: float | int
) -> None:
    if size_pt < TINY_PT:
        return
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if shares[row, column] > 0.5 else INK
        text = f"{counts[row, column]:,}"
        fitting = min(size_pt, size_pt * 0.85 * cell_mm / measure_text([text], size_pt)[0])
        axes.text(column, row, text, color=ink, fontsize=fitting, ha="center", va="center_baseline")
    for row, own in enumerate(counts.sum(axis=1)):
        text = f"{counts[row, row]:,} of {own:,}" if own else "–"
        axes.text(len(counts) - 0.35, row, text, fontsize=min(size_pt, SMALL_PT), va="center_baseline", color=QUIET)


def _draw_similarity(material: _Material) -> Drawing | str:
    from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
    from scipy.spatial.distance import squareform

    count = len(material.treatments)
    lengths = np.linalg.norm(material.features, axis=1)
    if count < 3 or not (lengths > 0).all():
        return "there are fewer than three treatments, or one has a profile of nought"
    if count > MAX_TREATMENTS:
        return f"{count:,} treatments are more than a heat map can show ({MAX_TREATMENTS:,})"
    directions = material.features / lengths[:, None]
    similarities = np.clip(directions @ directions.T, -1.0, 1.0)
    distances = 1 - (similarities + similarities.T) / 2
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=count <= MAX_ORDERED)
    order = leaves_list(tree)
    names = [clean_text(name, limit=28) for name in treatment_names(material.treatments).iloc[order]]

    groups = _group_by_mechanism(material)
    is_marked = material.inputs.mechanisms is not None and len(groups) <= MAX_NAMES
    legend = [clean_text(name) for name, _, _ in groups]
    tree_mm, top_mm, marks_mm = 14.0, 9.0, 3.0 if is_marked else 0.0
    rest_mm = WIDE_MM - 1.5 - tree_mm - marks_mm - 1.5
    label_mm = max(measure_text(names, SMALL_PT)) + 1.5
    size_pt = min(SMALL_PT, 0.95 * (rest_mm - label_mm) / count / MM_PER_POINT)
    if size_pt < TINY_PT:
        label_mm = 0.0
    side_mm = min(rest_mm - label_mm, 6.0 * count)
    legend_mm = measure_legend(legend, WIDE_MM - 4) + 3.0 if is_marked else 0.0
    canvas = start_figure(WIDE_MM, top_mm + side_mm + 1.5 + legend_mm)

    left = add_axes(canvas, 1.5, top_mm, tree_mm - 0.7, side_mm)
    drawn = dendrogram(tree, no_plot=True)
    for heights, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        left.plot(heights, (np.array(places) - 5) / 10, c=QUIET, lw=0.5, solid_joinstyle="miter")
    left.set(xlim=(left.dataLim.x1 * 1.02 or 1.0, 0), ylim=(count - 0.5, -0.5))
    left.axis("off")

    axes = add_axes(canvas, 1.5 + tree_mm, top_mm, side_mm, side_mm)
    image = axes.imshow(similarities[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    right_mm = 1.5 + tree_mm + side_mm
    strip = add_axes(canvas, right_mm, top_mm, marks_mm + label_mm + 1.0, side_mm)
    strip.set(xlim=(0, marks_mm + label_mm + 1.0), ylim=(count - 0.5, -0.5))
    strip.axis("off")
    if is_marked:
        diameter_pt = min(4.0, 0.85 * side_mm / count / MM_PER_POINT)
        places = np.argsort(order)
        for _, mark, rows in groups:
            strip.scatter(
                np.full(rows.sum(), 0.5 * marks_mm), places[rows], s=diameter_pt**2, c=mark.colour, marker=mark.marker,
                linewidths=0,
            )  # fmt: skip
        draw_legend(
            canvas, [mark for _, mark, _ in groups], legend, left_mm=2.0, top_mm=top_mm + side_mm + 3.0,
            width_mm=WIDE_MM - 4,
        )  # fmt: skip
    if label_mm:
        for place, name in enumerate(names):
            strip.text(marks_mm + 0.3, place, name, fontsize=size_pt, va="center_baseline")
    scale = add_axes(canvas, 1.5 + tree_mm, 4.5, 40.0, 1.8)
    canvas.colorbar(image, cax=scale, orientation="horizontal", ticks=[-1, 0, 1])
    scale.xaxis.set_ticks_position("top")
    scale.tick_params(pad=1)
    scale.text(1.06, 0.5, "cosine similarity", transform=scale.transAxes, fontsize=SMALL_PT, va="center_baseline")
    told = "" if label_mm else " There are too many to name them here."
    caption = (
        f"Cosine similarity of the profiles of {count:,} treatments, ordered by average linkage "
        f"({'best' if count <= MAX_ORDERED else 'any'} order of leaves).{told}"
    )
    return Drawing(canvas, caption)


# Training.


def _draw_training(material: _Material) -> Drawing | str:
    metrics = thin_steps(material.inputs.metrics)
    curves = list_curves(metrics)
    if not curves:
        return "nothing was trained in this run"
    columns, left_mm, panel_mm, row_mm = 3, 11.0, WIDE_MM / 3, 41.0
    num_rows = -(-len(curves) // columns)
    canvas = start_figure(WIDE_MM, row_mm * num_rows + 1.0)
    for number, curve in enumerate(curves):
        row, column = divmod(number, columns)
        axes = add_axes(
            canvas, column * panel_mm + left_mm, row * row_mm + 9.0, panel_mm - left_mm - 3.0, row_mm - 18.0
        )
        _draw_curve(axes, curve, metrics)
    return Drawing(canvas, " ".join(f"{curve.title}: {curve.sentence}" for curve in curves))


def _draw_curve(axes: Axes, curve: Curve, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw a panel; lines of steps lie faint behind those of epochs, as on the page."""
    own = [line for line in curve.lines if line.event == "epoch"]
    inks = (RIGHT, WRONG, *COLOURS[2:5], *COLOURS[6:])
    for line in curve.lines:
        told = [of for of in metrics if (of.get("event") == "step") == (line.event == "step")]
        told = [of for of in told if _is_finite(of.get(line.key))]
        beside = [place for place, other in enumerate(own) if other.key == line.key]
        ink = inks[(beside[0] if beside else 0) % len(inks)]
        is_faint = line.event == "step" and bool(beside)
        x, y = _place_in_epochs(told, metrics), [of[line.key] for of in told]
        is_short = line.event == "epoch" and len(told) <= 30
        axes.plot(
            x, y, c=ink, lw=0.6 if is_faint else 1.2, alpha=0.35 if is_faint else 1.0, marker="o" if is_short else None,
            ms=2.2,
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_title(curve.title, pad=11 if len(own) > 1 else 4)
    axes.set_xlabel("epoch", labelpad=1.5, fontsize=SMALL_PT, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _scale_curve(axes, curve.axis)
    if len(own) > 1:
        _name_lines(axes, [clean_text(line.name, limit=26) for line in own], inks)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _place_in_epochs(told: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """Say at which epoch each line was written, steps as parts of one."""
    counted = next((of for of in reversed(metrics) if of.get("event") != "step" and of.get("epoch", 0) > 0), None)
    if counted is None or not counted.get("step"):
        return [float(of["epoch"]) for of in told]
    return [float(of["step"]) * counted["epoch"] / counted["step"] for of in told]


def _scale_curve(axes: Axes, axis: str) -> None:
    if axis == "log":
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="y", which="minor", length=0)
        return
    if axis == "share":
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        return
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))
    if axis == "from-nought":
        axes.set_ylim(bottom=0)


def _name_lines(axes: Axes, names: Sequence[str], inks: Sequence[str]) -> None:
    """Name the lines in a row under the title, each behind a piece of its colour."""
    place_pt = 0.0
    for number, name in enumerate(names):
        for text, ink, offset in (("●", inks[number % len(inks)], 0.0), (name, INK, 5.0)):
            axes.annotate(
                text, (0, 1), (place_pt + offset, 4), xycoords="axes fraction", textcoords="offset points",
                fontsize=SMALL_PT if text != "●" else 4.5, color=ink, va="baseline", annotation_clip=False,
            )  # fmt: skip
        place_pt += measure_text([name], SMALL_PT)[0] / MM_PER_POINT + 12.0


# Plates and cells.


def _draw_plates(material: _Material) -> Drawing | str:
    cells = material.inputs.cells
    wells = cells.groupby(["Metadata_Batch", *WELL], as_index=False).agg(
        cells=("Metadata_CellID", "size"), kind=("Metadata_control_type", "first")
    )
    places = np.array([find_place(name) for name in wells["Metadata_Well"]], dtype=int).reshape(-1, 2)
    has_place = places[:, 0] >= 0
    placed = wells[has_place].reset_index(drop=True)
    rows, columns = places[has_place].T
    if placed.empty:
        return "no well's name says where on a plate it is"
    shape = next(shape for shape in _PLATES if rows.max() < shape[0] and columns.max() < shape[1])
    plates = [
        (batch, plate)
        for batch in sort_naturally(placed["Metadata_Batch"])
        for plate in sort_naturally(placed.loc[placed["Metadata_Batch"] == batch, "Metadata_Plate"])
    ]
    shown = plates[:MAX_PLATES]
    top = max(1, int(placed["cells"].max()))
    across = 2 if len(shown) <= 4 else 4
    panel_mm, left_mm = WIDE_MM / across, 6.0
    map_mm = panel_mm - left_mm - 2.0
    map_height_mm = map_mm * shape[0] / shape[1]
    row_mm = map_height_mm + 12.0
    canvas = start_figure(WIDE_MM, row_mm * -(-len(shown) // across) + 10.0)
    for number, key in enumerate(shown):
        row, column = divmod(number, across)
        own = ((placed["Metadata_Batch"] == key[0]) & (placed["Metadata_Plate"] == key[1])).to_numpy()
        counts = np.full(shape, np.nan)
        counts[rows[own], columns[own]] = placed.loc[own, "cells"]
        untreated = own & is_control(placed.rename(columns={"kind": "Metadata_control_type"})).to_numpy()
        axes = add_axes(canvas, column * panel_mm + left_mm, row * row_mm + 8.0, map_mm, map_height_mm)
        image = axes.imshow(counts, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        _dress_plate(axes, shape, map_mm / shape[1])
        axes.scatter(
            columns[untreated],
            rows[untreated],
            s=min(5.0, (map_mm / shape[1]) ** 2),
            c="white",
            marker="o",
            linewidths=0.4,
            edgecolors="black",
        )
        title = clean_text(key[1], limit=int(map_mm / 1.75))
        axes.set_title(title, pad=10, fontsize=TEXT_PT)
    scale_top_mm = row_mm * -(-len(shown) // across) + 3.0
    scale = add_axes(canvas, left_mm, scale_top_mm, 40.0, 1.8)
    canvas.colorbar(image, cax=scale, orientation="horizontal", ticks=[0, top])
    scale.text(1.08, 0.5, "cells in a well", transform=scale.transAxes, fontsize=SMALL_PT, va="center_baseline")
    draw_legend(
        canvas, [Mark("black", "o", is_hollow=True)], ["untreated"], left_mm=left_mm + 65.0, top_mm=scale_top_mm - 0.8,
        width_mm=30.0,
    )  # fmt: skip
    return Drawing(canvas, _caption_plates(plates, shape, len(wells) - len(placed)))


def _dress_plate(axes: Axes, shape: tuple[int, int], well_mm: float | int) -> None:
    """Write row letters and column numbers, as many as fit, and part the wells."""
    num_rows, num_columns = shape
    row_step = max(1, math.ceil(2.1 / well_mm))
    column_step = max(1, math.ceil(3.0 / well_mm))
    letters = [name_row(row) for row in range(num_rows)]
    axes.set_yticks(range(0, num_rows, row_step), letters[::row_step], fontsize=TINY_PT)
    columns = range(0, num_columns, column_step)
    axes.set_xticks(columns, [str(column + 1) for column in columns], fontsize=TINY_PT)
    axes.tick_params(length=0, pad=1.5, top=True, labeltop=True, bottom=False, labelbottom=False)
    for place in range(1, num_columns):
        axes.axvline(place - 0.5, c="white", lw=min(0.5, 0.2 * well_mm))
    for place in range(1, num_rows):
        axes.axhline(place - 0.5, c="white", lw=min(0.5, 0.2 * well_mm))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(FAINT)


def _caption_plates(plates: Sequence[tuple[str, str]], shape: tuple[int, int], num_lost: int) -> str:
    caption = f"Cells in each well of {len(plates):,} plates of {shape[0] * shape[1]:,} wells; white: none."
    if len(plates) > MAX_PLATES:
        caption = caption.replace(
            ";", f", of which the first {MAX_PLATES} are shown and {len(plates) - MAX_PLATES:,} left out;"
        )
    if num_lost:
        caption += f" {num_lost:,} wells are left out: their names do not say where on a plate they are."
    return caption


@dataclass(frozen=True)
class _Row:
    """Cells of one treatment: what is written beside them, and their numbers."""

    title: str
    treatment: str
    cells: np.ndarray


def _draw_cells(material: _Material) -> Drawing | str:
    crops = material.inputs.crops
    rows = list(_choose_rows(material))
    if not rows:
        return "there are no cells"
    shown, label_mm, gap_mm = rows[:MAX_ROWS], 40.0, 0.6
    tile_mm = (WIDE_MM - label_mm - 1.0) / ROW_CELLS
    hues = choose_hues(crops.channels)
    canvas = start_figure(WIDE_MM, tile_mm * len(shown) + 8.0)
    for number, row in enumerate(shown):
        top_mm = number * tile_mm + 1.0
        pixels = colour_crops(crops, row.cells, hues)
        for place, tile in enumerate(pixels):
            axes = add_axes(canvas, label_mm + place * tile_mm, top_mm, tile_mm - gap_mm, tile_mm - gap_mm)
            axes.imshow(tile, aspect="auto")
            axes.axis("off")
            if (number, place) == (0, len(pixels) - 1) and crops.pixel_size_um is not None:
                _draw_scale_bar(axes, crops.size_px, crops.pixel_size_um)
        beside = add_axes(canvas, 0.0, top_mm, label_mm, tile_mm - gap_mm)
        beside.axis("off")
        beside.set(xlim=(0, 1), ylim=(0, 1))
        beside.text(0.03, 0.55, row.title, fontsize=TEXT_PT, fontweight="bold", va="bottom")
        beside.text(0.03, 0.45, row.treatment, fontsize=SMALL_PT, color=QUIET, va="top")
    if len(hues) > 1:
        draw_legend(
            canvas,
            [Mark(spell_hue(hue), "s") for hue in hues],
            [clean_text(channel) for channel in crops.channels],
            left_mm=label_mm,
            top_mm=tile_mm * len(shown) + 3.0,
            width_mm=WIDE_MM - label_mm - 1.0,
        )
    left_out = f" {len(rows) - MAX_ROWS:,} more are left out." if len(rows) > MAX_ROWS else ""
    known = (
        "each mechanism's treatment with most cells" if material.marks else "treatments, those with most cells first"
    )
    caption = (
        f"Cells drawn at random: untreated, and of {known}. All have the same contrast on a plate, channel by "
        f"channel, and their dim parts are brightened alike (gamma {DISPLAY_GAMMA:g}).{left_out}"
    )
    return Drawing(canvas, caption)


def _choose_rows(material: _Material) -> Iterator[_Row]:
    """Choose the untreated, then of each mechanism the treatment with most cells (or any, where none is known)."""
    cells = material.inputs.cells
    generator = np.random.default_rng([material.seed, 2])
    about = cells[[*TREATMENT, "Metadata_control_type"]].reset_index(drop=True)
    about = about.assign(treatment=treatment_names(about))
    treated = about.drop_duplicates("treatment").reset_index(drop=True)
    treated = treated.assign(
        size=treated["treatment"].map(about["treatment"].value_counts()),
        mechanism=find_mechanisms(treated, material.inputs.mechanisms),
        control=is_control(treated),
    )
    treated = treated.sort_values(["control", "size", "treatment"], ascending=[False, False, True])
    known = treated["mechanism"].notna() & ~treated["control"]
    if known.any():
        untreated, rest = treated[treated["control"]], treated[known].drop_duplicates("mechanism")
        order = sort_naturally(rest["mechanism"])
        treated = pd.concat([untreated, rest.set_index("mechanism").loc[order].reset_index()])
    for row in treated.itertuples():
        found = np.flatnonzero(about["treatment"] == row.treatment)
        drawn = np.sort(generator.choice(found, size=min(ROW_CELLS, len(found)), replace=False))
        title = "untreated" if row.control else row.mechanism if isinstance(row.mechanism, str) else ""
        name = clean_text(row.treatment, limit=34)
        yield _Row(clean_text(title, limit=24), name, drawn) if title else _Row(clean_text(name, limit=24), "", drawn)


def _draw_scale_bar(axes: Axes, size_px: int, pixel_size_um: float | int) -> None:
    fitting = [length for length in _BARS_UM if length <= 0.45 * size_px * pixel_size_um]
    if not fitting:
        return
    length_px = fitting[-1] / pixel_size_um
    right, bottom = 0.94 * size_px, 0.92 * size_px
    axes.plot([right - length_px, right], [bottom, bottom], c="white", lw=1.5, solid_capstyle="butt")
    axes.text(
        right - length_px / 2, bottom - 0.03 * size_px, f"{fitting[-1]} µm", color="white", fontsize=5.0, ha="center",
        va="bottom",
    )  # fmt: skip


_DRAWN: dict[str, Callable[[_Material], Drawing | str]] = {
    "scores": _draw_scores,
    "measures": _draw_measures,
    "batch": _draw_batch,
    "map-treatments-tsne": lambda material: _draw_map(material, "t-SNE"),
    "map-treatments-umap": lambda material: _draw_map(material, "UMAP"),
    "map-treatments-pca": lambda material: _draw_map(material, "PCA"),
    "confusion-nscb": lambda material: _draw_confusion(material, "nscb"),
    "confusion-nsc": lambda material: _draw_confusion(material, "nsc"),
    "similarity": _draw_similarity,
    "training": _draw_training,
    "plate-cells": _draw_plates,
    "cells": _draw_cells,
}
