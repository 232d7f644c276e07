"""Figures and tables as files: whole, the same again, and safe whatever names hold."""

import copy
import logging
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from cytoclr.config import ReportSettings
from cytoclr.errors import DataError, SettingsError
from cytoclr.report import ReportInputs
from cytoclr.report.drawing import (
    NARROW_MM,
    WIDE_MM,
    Mark,
    clean_text,
    draw_legend,
    measure_text,
    save_figure,
    start_figure,
    use_style,
)
from cytoclr.report.figures import write_figures, write_tables
from cytoclr.storage import read_table

ALL = [
    "scores",
    "measures",
    "batch",
    "map-treatments-tsne",
    "map-treatments-umap",
    "map-treatments-pca",
    "confusion-nscb",
    "confusion-nsc",
    "similarity",
    "training",
    "plate-cells",
    "cells",
]


def read_texts(path: Path) -> list[str]:
    """What an SVG file says, element by element; it must be well-formed."""
    texts = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in texts]


def draw(folder: Path, inputs: ReportInputs, *formats: str) -> Path:
    write_figures(folder, inputs, ReportSettings(), formats=formats or ("svg",), seed=0)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, inputs: ReportInputs) -> Path:
    return draw(tmp_path_factory.mktemp("figures"), inputs, "svg", "png", "pdf")


def test_every_figure_is_there_at_the_width_of_a_column(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {
        "README.txt",
        *(f"{name}.{kind}" for name in ALL for kind in ("svg", "png", "pdf")),
    }
    for name in ALL:
        with Image.open(drawn / f"{name}.png") as image:
            width_mm = image.width / image.info["dpi"][0] * 25.4
            assert min(abs(width_mm - NARROW_MM), abs(width_mm - WIDE_MM)) < 0.2
            assert image.height / image.info["dpi"][1] * 25.4 < 260
            border = np.asarray(image.convert("L")).astype(int)
        # nothing runs off the page
        edges = [border[0], border[-1], border[:, 0], border[:, -1]]
        assert min(edge.min() for edge in edges) > 250, name
        pdf = (drawn / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF")
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf


def test_figures_say_what_the_scores_say(drawn: Path, inputs: ReportInputs) -> None:
    texts = read_texts(drawn / "scores.svg")
    for of in (inputs.scores, *inputs.scores["baselines"].values()):
        for score in ("nsc", "nscb"):
            shown = f"{100 * of[score]['score']:.1f}\xa0% ({of[score]['correct']} of {of[score]['total']})"
            assert shown in texts
    confusion = inputs.scores["nscb"]["confusion"]
    found = read_texts(drawn / "confusion-nscb.svg")
    numbers = sorted(int(text) for text in found if text.isdecimal())
    assert numbers == sorted(count for row in confusion["counts"] for count in row if count)
    assert set(confusion["mechanisms"]) <= set(found)
    assert set(confusion["mechanisms"]) <= set(read_texts(drawn / "map-treatments-umap.svg"))
    assert "compound 07 0.1 µM" in read_texts(drawn / "similarity.svg")
    assert {"Loss", "Learning rate", "Probe"} <= set(read_texts(drawn / "training.svg"))
    assert {"B1_P1", "A", "H", "12", "untreated"} <= set(read_texts(drawn / "plate-cells.svg"))
    assert {"untreated", "DMSO", "DNA damage", "5 µm", "Tubulin"} <= set(read_texts(drawn / "cells.svg"))


def test_the_same_run_gives_the_same_bytes_whatever_the_users_settings(
    drawn: Path, inputs: ReportInputs, tmp_path: Path
) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.hashsalt": "x", "lines.markersize": 40}):
        again = draw(tmp_path, inputs, "svg", "png", "pdf")
        assert matplotlib.rcParams["font.size"] == 30
    for path in drawn.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


SCRIPT = """
import sys
from pathlib import Path
from cytoclr.report.drawing import add_axes, save_figure, start_figure, use_style
with use_style():
    canvas = start_figure(85, 30)
    add_axes(canvas, 5, 5, 70, 20).set_title("Ωabc µ <x> مركب")
    for kind in ("svg", "png", "pdf"):
        save_figure(canvas, Path(sys.argv[1]) / f"a.{kind}", kind)
"""


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / seed)], env=environment, check=True)
    for kind in ("svg", "png", "pdf"):
        assert (tmp_path / "1" / f"a.{kind}").read_bytes() == (tmp_path / "2" / f"a.{kind}").read_bytes()


def test_hostile_names_are_text(hostile_inputs: ReportInputs, tmp_path: Path) -> None:
    """Warnings are errors here: no glyph that the font lacks may raise one."""
    draw(tmp_path, hostile_inputs, "svg", "png", "pdf")
    for path in tmp_path.glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
        assert not tags & {"script", "b", "i", "br", "a", "foreignObject"}, path.name
    found = read_texts(tmp_path / "confusion-nsc.svg")
    assert {"<script>alert(1)</script>", "🧪 evil", "<br>%{x}"} <= set(found)


def test_dollars_and_underscores_are_not_mathematics(inputs: ReportInputs, tmp_path: Path) -> None:
    renamed = {"DNA damage": "_$\\frac{x}_1$", "Epithelial": "$unclosed", "Eg5 inhibitors": "x" * 300}

    def rename(names: list[str]) -> list[str]:
        return [renamed.get(name, name) for name in names]

    assert inputs.mechanisms is not None
    scores = copy.deepcopy(dict(inputs.scores))
    for score in ("nsc", "nscb"):
        scores[score]["confusion"]["mechanisms"] = rename(scores[score]["confusion"]["mechanisms"])
    changed = inputs.mechanisms.assign(Metadata_MoA=rename(list(inputs.mechanisms["Metadata_MoA"])))
    draw(tmp_path, replace(inputs, mechanisms=changed, scores=scores), "svg", "pdf")
    for name in ("map-treatments-pca", "confusion-nsc", "similarity", "cells"):
        texts = set(read_texts(tmp_path / f"{name}.svg"))
        assert {"_$\\frac{x}_1$", "$unclosed"} <= texts, name
        assert max(map(len, texts)) <= 120


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=60))
def test_any_name_can_be_drawn(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    with use_style():
        canvas = start_figure(NARROW_MM, 10)
        draw_legend(canvas, [Mark("black")], [clean_text(text)], left_mm=2, top_mm=2, width_mm=80)
        save_figure(canvas, folder / "a.svg", "svg")
        save_figure(canvas, folder / "a.png", "png")
    # SVG may add blanks up; the name itself is all there
    assert ["".join(read.split()) for read in read_texts(folder / "a.svg")] == ["".join(clean_text(text).split())]


def test_names_are_cleaned() -> None:
    assert clean_text("a\nb\0c\u202ed\u2028") == "a b c d"
    assert clean_text("\u200b") == "–"
    assert len(clean_text("ab " * 100, limit=30)) <= 30


def test_text_is_measured_as_it_is_drawn() -> None:
    with use_style():
        canvas = start_figure(WIDE_MM, 10)
        text = canvas.text(0, 0, "Aurora kinase inhibitors", fontsize=7)
        canvas.set_dpi(720)
        extent_mm = text.get_window_extent(FigureCanvasAgg(canvas).get_renderer()).width / 720 * 25.4
        assert measure_text(["Aurora kinase inhibitors"], 7)[0] == pytest.approx(extent_mm, rel=0.02)


def test_what_a_run_lacks_is_left_out_with_a_reason(
    inputs: ReportInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = replace(inputs, scores={"nsc": None, "reason": "No mechanism table was given."}, mechanisms=None, metrics=())
    with caplog.at_level(logging.INFO, logger="cytoclr"):
        paths = write_figures(tmp_path, bare, ReportSettings(title="My run"), formats=["svg"], seed=0)
    expected = [
        "map-treatments-tsne",
        "map-treatments-umap",
        "map-treatments-pca",
        "similarity",
        "plate-cells",
        "cells",
    ]
    assert [path.stem for path in paths] == [*expected, "README"]
    told = (tmp_path / "README.txt").read_text()
    assert told.startswith("My run: figures")
    assert "scores\n    Not drawn: No mechanism table was given." in told
    assert "training\n    Not drawn: nothing was trained in this run." in told
    assert "figure confusion-nsc is left out: there is no NSC" in caplog.text
    assert "compound 00 0.1 µM" in read_texts(tmp_path / "cells.svg")
    assert "mechanism not known" in read_texts(tmp_path / "map-treatments-pca.svg")


def move_cells(inputs: ReportInputs, plates: list[str], wells: list[str]) -> ReportInputs:
    """The same cells on other plates and in other wells, in turn."""
    places = np.arange(len(inputs.cells))
    named = inputs.cells.assign(
        Metadata_Plate=[plates[i % len(plates)] for i in places],
        Metadata_Well=[wells[i // len(plates) % len(wells)] for i in places],
    )
    # so few treatments that none of the maps, which take long, is drawn
    few = inputs.treatments.head(4)
    return replace(inputs, cells=named.assign(Metadata_Batch="one", Metadata_Site=1), treatments=few)


@pytest.mark.parametrize(
    ("well", "shape", "letter"), [("P24", "384", "P"), ("i01", "384", "P"), ("AF48", "1,536", "AE"), ("H12", "96", "H")]
)
def test_plates_are_the_smallest_that_hold_all_wells(
    inputs: ReportInputs, tmp_path: Path, well: str, shape: str, letter: str
) -> None:
    draw(tmp_path, move_cells(inputs, ["a", "b"], ["A01", well]))
    assert f"2 plates of {shape} wells" in (tmp_path / "README.txt").read_text()
    assert letter in read_texts(tmp_path / "plate-cells.svg")


def test_plates_and_wells_that_are_not_shown_are_counted(inputs: ReportInputs, tmp_path: Path) -> None:
    draw(tmp_path, move_cells(inputs, [f"plate {i}" for i in range(30)], ["A01", "B02", "../../x"]))
    told = (tmp_path / "README.txt").read_text()
    assert "30 plates of 96 wells, of which the first 24 are shown and 6 left out; white: none." in told
    assert "30 wells are left out" in told
    shown = [text for text in read_texts(tmp_path / "plate-cells.svg") if text.startswith("plate ")]
    assert shown == [f"plate {i}" for i in range(24)]


def test_a_scale_bar_needs_a_pixel_size(inputs: ReportInputs, tmp_path: Path) -> None:
    crops = copy.copy(inputs.crops)
    crops.pixel_size_um = None
    draw(tmp_path, replace(inputs, crops=crops, treatments=inputs.treatments.head(4)))
    assert not any(re.fullmatch(r"\d+ µm", text) for text in read_texts(tmp_path / "cells.svg"))


def test_wrong_calls_are_refused(inputs: ReportInputs, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none is named"):
        write_figures(tmp_path, inputs, ReportSettings(), formats=(), seed=0)
    with pytest.raises(DataError, match="Expected a row a crop"):
        write_figures(tmp_path, replace(inputs, cells=inputs.cells.iloc[1:]), ReportSettings(), seed=0)
    assert not list(tmp_path.iterdir())


def test_tables_go_out_as_csv_and_parquet(inputs: ReportInputs, tmp_path: Path) -> None:
    paths = write_tables(tmp_path, inputs)
    assert [path.name for path in paths] == [
        f"{name}.{kind}" for name in ("wells", "treatments", "matches", "scores") for kind in ("csv", "parquet")
    ]
    for name in ("wells", "treatments", "matches", "scores"):
        exact = read_table(tmp_path / f"{name}.parquet")
        read = pd.read_csv(
            tmp_path / f"{name}.csv", float_precision="round_trip", keep_default_na=False, na_values=[""]
        )
        for column in exact.select_dtypes("float"):
            np.testing.assert_array_equal(read[column], exact[column])
        for column in exact.select_dtypes(["object", "string"]):
            assert read[column].fillna("").tolist() == exact[column].tolist()
    assert read_table(tmp_path / "wells.parquet").equals(inputs.wells)


def test_scores_are_listed_one_a_row(inputs: ReportInputs, tmp_path: Path) -> None:
    write_tables(tmp_path, inputs)
    table = read_table(tmp_path / "scores.parquet").set_index(["features", "score"])
    of = inputs.scores["baselines"]["intensities"]["nscb"]
    row = table.loc[("intensities", "nscb")]
    told = [row["value"], row["low"], row["high"], row["correct"], row["total"], row["chance"], row["protocol"]]
    expected = [of["score"], *of["interval"], of["correct"], of["total"], of["chance"]["mean"], "treatment-mean"]
    assert told == expected
    assert table.loc[("trained", "activity"), "value"] == inputs.scores["activity"]["map"]
    assert table.index.is_unique
    assert ("cell-count", "activity") not in table.index


def test_formulas_in_tables_are_text(inputs: ReportInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wells = inputs.wells.assign(Metadata_Batch="=cmd|' /C calc'!A0")
    bare = replace(inputs, wells=wells, matches=None, scores={"nsc": None, "reason": "none"})
    paths = write_tables(tmp_path, bare)
    assert "matches.csv" not in [path.name for path in paths]
    assert f"before {len(wells)} texts" in caplog.text
    assert set(pd.read_csv(tmp_path / "wells.csv")["Metadata_Batch"]) == {"'=cmd|' /C calc'!A0"}
    assert set(read_table(tmp_path / "wells.parquet")["Metadata_Batch"]) == {"=cmd|' /C calc'!A0"}
    assert list(read_table(tmp_path / "scores.parquet").columns)[:3] == ["features", "score", "value"]
