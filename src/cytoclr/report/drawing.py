"""How figures for a paper look and become files: sizes, colours, plain text, and bytes that depend on nothing else."""

import contextlib
import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties, findfont, get_font

from cytoclr.storage import open_atomic

__all__ = [
    "COLOURS",
    "FAINT",
    "INK",
    "MARKERS",
    "MM_PER_POINT",
    "NARROW_MM",
    "QUIET",
    "RIGHT",
    "SMALL_PT",
    "TEXT_PT",
    "TINY_PT",
    "WIDE_MM",
    "WRONG",
    "Canvas",
    "Format",
    "Mark",
    "add_axes",
    "clean_text",
    "draw_legend",
    "draw_mark",
    "measure_legend",
    "measure_text",
    "save_figure",
    "start_figure",
    "use_style",
]

Format = Literal["svg", "png", "pdf"]

#: One and two columns of a journal.
NARROW_MM, WIDE_MM = 85.0, 180.0
#: Text of figures: as read, beside it, and the least that can be read in print.
TEXT_PT, SMALL_PT, TINY_PT = 7.0, 6.0, 4.8
#: The page's own colours on paper.
INK, QUIET, FAINT = "#1c2024", "#5d6670", "#dcdfe0"
RIGHT, WRONG = "#0072b2", "#d55e00"
#: Okabe and Ito 2008, its yellow darkened for paper, as on the page.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8d7bd8", "#a8a000")
MARKERS = ("o", "D", "^", "s", "v", "p", "*", "P")
_MM_PER_INCH, MM_PER_POINT = 25.4, 25.4 / 72
_FONT = "DejaVu Sans"
#: Height of a legend's row; what an entry takes beside its text.
_LEGEND_ROW_MM, _ENTRY_MM = 3.3, 6.0
#: What text may not hold: control characters, which XML forbids, and those that turn the direction of what follows.
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}

_STYLE: dict[str, Any] = {
    # matplotlib brings this font along: every machine draws the same
    "font.family": [_FONT],
    "font.size": TEXT_PT,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "white",
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT_PT,
    "axes.linewidth": 0.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT_PT,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "image.interpolation": "nearest",
    "legend.fontsize": SMALL_PT,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "savefig.bbox": None,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "cytoclr",
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": SMALL_PT,
    "xtick.major.size": 2.0,
    "xtick.major.width": 0.5,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": SMALL_PT,
    "ytick.major.size": 2.0,
    "ytick.major.width": 0.5,
}
#: What would tell when, or by which version, a file was made.
_METADATA: dict[Format, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True)
class Mark:
    """A point's look."""

    colour: str
    marker: str = "o"
    is_hollow: bool = False


@contextlib.contextmanager
def use_style() -> Iterator[None]:
    """Draw and save in here: everything made meanwhile looks as said above, whatever a user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, _STYLE))
        # names may hold any script; what the font lacks is a box in PNG and PDF, and itself in SVG
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support", category=UserWarning)
        yield


def start_figure(width_mm: float | int, height_mm: float | int) -> Canvas:
    """Begin an empty figure of this size."""
    return Canvas(figsize=(width_mm / _MM_PER_INCH, height_mm / _MM_PER_INCH))


def add_axes(
    canvas: Canvas, left_mm: float | int, top_mm: float | int, width_mm: float | int, height_mm: float | int
) -> Axes:
    """Add axes at a place measured from the upper left corner."""
    width, height = (float(side) * _MM_PER_INCH for side in canvas.get_size_inches())
    return canvas.add_axes((left_mm / width, 1 - (top_mm + height_mm) / height, width_mm / width, height_mm / height))


def draw_mark(axes: Axes, x: float | int, y: float | int, mark: Mark, *, size_pt: float | int = 4.5) -> None:
    """Draw one mark where the data say."""
    face = "white" if mark.is_hollow else mark.colour
    axes.plot(
        [x], [y], marker=mark.marker, ms=size_pt, mfc=face, mec=mark.colour, mew=0.9 if mark.is_hollow else 0.0,
        ls="", clip_on=False, zorder=4,
    )  # fmt: skip


def measure_legend(names: Sequence[str], width_mm: float | int) -> float:
    """Measure how high `draw_legend` makes a legend of these names, mm."""
    return _LEGEND_ROW_MM * (1 + max((row for _, row in _place_entries(names, width_mm)), default=-1))


def draw_legend(
    canvas: Canvas,
    marks: Sequence[Mark],
    names: Sequence[str],
    *,
    left_mm: float | int,
    top_mm: float | int,
    width_mm: float | int,
) -> None:
    """Draw a legend, its upper left corner at a place: in one row if it fits, else in columns, read down first."""
    height_mm = measure_legend(names, width_mm)
    axes = add_axes(canvas, left_mm, top_mm, width_mm, height_mm)
    axes.set(xlim=(0, width_mm), ylim=(height_mm, 0))
    axes.axis("off")
    for mark, name, (left, row) in zip(marks, names, _place_entries(names, width_mm), strict=True):
        y = _LEGEND_ROW_MM * (row + 0.5)
        draw_mark(axes, left + 1.2, y, mark)
        axes.text(left + 3.2, y, name, fontsize=SMALL_PT, va="center_baseline")


def _place_entries(names: Sequence[str], width_mm: float | int) -> list[tuple[float, int]]:
    """Say how far from the left, mm, and in which row each name of a legend stands."""
    widths = [width + _ENTRY_MM for width in measure_text(names, SMALL_PT)]
    if sum(widths) <= width_mm + 2.0:
        return [(sum(widths[:number], 0.0), 0) for number in range(len(widths))]
    num_rows = -(-len(names) // max(1, int(width_mm // max(widths))))
    num_columns = -(-len(names) // num_rows)
    step_mm = min(width_mm / num_columns, max(widths) + 3.0)
    return [(step_mm * (number // num_rows), number % num_rows) for number in range(len(names))]


def clean_text(text: object, limit: int = 40) -> str:
    """Make one line of any name: what cannot be seen becomes a blank, and what is too long is cut.

    >>> clean_text("two\\nlines of $x_1$"), clean_text("a" * 9, limit=5)
    ('two lines of $x_1$', 'aaaa…')
    """
    seen = "".join(" " if unicodedata.category(sign) in _INVISIBLE else sign for sign in str(text))
    words = " ".join(seen.split()) or "–"
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def measure_text(texts: Sequence[str], size_pt: float | int) -> list[float]:
    """Measure how wide each text is, mm."""
    font = get_font(findfont(FontProperties(family=_FONT)))
    # so large that hinting to whole pixels does not matter
    font.set_size(100.0, 72)
    widths = []
    for text in texts:
        font.set_text(text)
        widths.append(font.get_width_height()[0] / 64 * size_pt / 100 * MM_PER_POINT)
    return widths


def save_figure(canvas: Canvas, path: Path, kind: Format) -> None:
    """Write a figure atomically; the same figure always has the same bytes."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, dpi=300, metadata=_METADATA[kind])
    with open_atomic(path) as file:
        file.write(buffer.getvalue())
