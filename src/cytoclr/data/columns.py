"""Which column of someone's table is which of ours: as it is told, else by its name."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cytoclr.data.files import EMPTY, METADATA_PREFIXES, check_names, read_any_table, read_header
from cytoclr.errors import DataError, SettingsError, list_some
from cytoclr.tables import CONTROL_TYPES, MECHANISM, Kind

__all__ = [
    "MECHANISM_FIELDS",
    "WELL_FIELDS",
    "Field",
    "as_plain",
    "check_concentrations",
    "find_columns",
    "how_to_tell",
    "is_empty",
    "is_field",
    "read_columns",
    "read_fields",
    "read_with_fields",
    "show_value",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """A metadata column of ours, and the words it goes by in tables of others."""

    column: str
    kind: Kind
    words: tuple[str, ...]

    def match(self, name: str) -> int | None:
        """Rank a column's name: 0 is ours, 1 has a word with any prefix, 2 CellProfiler's suffix (``…_DAPI``) too."""
        words, prefixes = "|".join(self.words), "|".join(METADATA_PREFIXES)
        patterns = (rf"({prefixes}|)({words})", rf"Image_Metadata_({words})_[^_]+")
        if name == self.column:
            return 0
        ranks = (rank for rank, pattern in enumerate(patterns, 1) if re.fullmatch(pattern, name, re.IGNORECASE))
        return next(ranks, None)


_CONTROL = "Metadata_control_type"
_COMPOUND = Field("Metadata_Compound", "text", ("compound",))
_CONCENTRATION = Field("Metadata_Concentration", "number", ("concentration",))
#: What is told of a well, a site or a cell, by the word that `columns` has for it. A compound or a concentration goes
#: by many names and units: what is not spelled out is not guessed.
WELL_FIELDS = {
    "plate": Field("Metadata_Plate", "text", ("plate",)),
    "well": Field("Metadata_Well", "text", ("well",)),
    "batch": Field("Metadata_Batch", "text", ("batch",)),
    "compound": _COMPOUND,
    "concentration": _CONCENTRATION,
    "control_type": Field(_CONTROL, "text", ("control_type",)),
    "site": Field("Metadata_Site", "integer", ("site",)),
    "num_cells": Field("Metadata_NumCells", "integer", ("numcells", "num_cells", "object_count")),
}
#: What is told of a treatment; of no well, so that no table of wells brings its mechanisms along.
MECHANISM_FIELDS = {
    "compound": _COMPOUND,
    "concentration": _CONCENTRATION,
    "mechanism": Field(MECHANISM, "text", ("moa", "mechanism")),
}
_PERTURBATION = Field("Metadata_pert_type", "text", ("pert_type",))
#: What a control type may say: JUMP's word for a well in which is nothing, too.
_CONTROL_WORDS = (*CONTROL_TYPES, "empty")
#: Units that people write behind a concentration, in µM.
_UNITS = {"": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "pm": 1e-6}


def read_fields(
    path: Path, fields: Mapping[str, Field], *, told: Mapping[str, str], needed: Sequence[str]
) -> pd.DataFrame:
    """Read from CSV or Parquet the columns that are fields, under our names.

    Parameters
    ----------
    path
        The table.
    fields
        What to look for.
    told
        The table's own names of some of them.
    needed
        Those without which the table is of no use.

    Raises
    ------
    SettingsError, DataError
        As in `read_with_fields` and `find_columns`; or a concentration is no number of µM.
    """
    frame = read_with_fields(path, fields, told=told)
    found = find_columns(frame, fields, told=told, needed=needed, path=path)
    columns = read_columns(frame, found)
    if _CONCENTRATION in found:
        check_concentrations(columns[_CONCENTRATION.column], found[_CONCENTRATION], str(path))
    return columns


def check_concentrations(values: pd.Series, name: str, source: str) -> None:
    """Refuse what is neither a number of µM, from nought on, nor empty; rows are counted by the index.

    Raises
    ------
    DataError
        Names the first, and what to write where that can be told: 0.3 for ``300 nM``.
    """
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = values[~is_empty(values) & ~(np.isfinite(numbers) & (numbers >= 0))]
    if wrong.empty:
        return
    match = re.fullmatch(r"(\d+)(?:[.,](\d+))?\s*([µμunmp]?[mM])?", str(wrong.iloc[0]).strip())
    advice = "Expected a number of µM, 0 or more, as 0.3."
    if match:
        whole, decimals, unit = match.groups(default="")
        micromolar = float(f"{whole}.{decimals or 0}") * _UNITS[unit.lower().replace("µ", "u").replace("μ", "u")]
        advice = f"Write {micromolar:g}."
    raise DataError(
        f"{source}: {name} is no number of µM in {len(wrong):,} of {len(values):,} rows, first in row "
        f"{wrong.index[0] + 1}: '{show_value(wrong.iloc[0])}'. {advice}",
        code="META003",
    )


def show_value(value: object) -> str:
    """Write a value for a message, as whoever made the table would."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def how_to_tell(word: str) -> str:
    """Say how a field's column is told: at the command line, and in Python or a settings file."""
    in_config = f" (in a config, screen.columns: {{{word}: NAME}})" if word in WELL_FIELDS else ""
    return f"--column {word}=NAME{in_config}"


def read_with_fields(path: Path, fields: Mapping[str, Field], *, told: Mapping[str, str]) -> pd.DataFrame:
    """Read CSV or Parquet as it stands; in CSV, a column that is a field stays text, whatever its prefix.

    Raises
    ------
    DataError
        The file is missing or neither; two columns have the same name.
    """
    header = read_header(path)
    check_names(header, path)
    texts = [name for name in header if is_field(name, fields)]
    frame = read_any_table(path, texts=[*texts, *told.values()])
    named_index = any(name is not None for name in frame.index.names)
    frame = frame.reset_index(drop=not named_index)
    return frame.set_axis(frame.columns.astype("str"), axis="columns")


def is_field(name: str, fields: Mapping[str, Field]) -> bool:
    """Tell whether a column's name could be that of a field."""
    return any(field.match(name) is not None for field in fields.values())


def find_columns(
    frame: pd.DataFrame, fields: Mapping[str, Field], *, told: Mapping[str, str], needed: Sequence[str], path: Path
) -> dict[Field, str]:
    """Find the table's column of each field: as told, else by its spelling; a field that is not there is left out.

    Raises
    ------
    SettingsError
        `told` has a word that is none of the fields.
    DataError
        A column that is told or needed is not there; or several could be the same field, and differ.
    """
    unknown = [name for name in told if name not in fields]
    if unknown:
        raise SettingsError(f"columns: {list_some(unknown)} is not known. Expected some of {', '.join(fields)}.")
    found: dict[Field, str] = {}
    for name, field in fields.items():
        theirs = _find_named(frame, name, told[name], path) if name in told else _find_spelled(frame, field, name, path)
        if name == "control_type" and theirs is None:
            theirs = _find_perturbations(frame, path)
        if theirs is not None:
            found[field] = theirs
    doses = found.get(_CONCENTRATION, "")
    if re.search(r"(?:^|[\W_])(?:[npm]M|M)\W*$", doses):
        logger.warning(
            "%s: the numbers of %s are taken as µM, though its name says otherwise. Convert them, and call it so. "
            "(META003)",
            path,
            doses,
        )
    missing = [name for name in needed if fields[name] not in found]
    if missing:
        ours = ", ".join(fields[name].column for name in missing)
        raise DataError(
            f"{path}: no column of the {' and the '.join(missing)}. Expected {ours}; if it has another name, tell it: "
            f"{how_to_tell(missing[0])}. Found: {list_some(list(frame.columns), 12)}.",
            code="META002",
        )
    return found


def _find_named(frame: pd.DataFrame, name: str, told: str, path: Path) -> str:
    for theirs in (told, f"Metadata_{told}"):  # AnnData's obs have no prefix in the file
        if theirs in frame.columns:
            return theirs
    raise DataError(
        f"{path}: no column {told}, told as the {name}. Found: {list_some(list(frame.columns), 12)}.", code="META002"
    )


def _find_spelled(frame: pd.DataFrame, field: Field, word: str, path: Path) -> str | None:
    """Find the field by its nearest spelling; several columns as near as that must agree."""
    ranks = {name: field.match(name) for name in frame.columns}
    best = min((rank for rank in ranks.values() if rank is not None), default=None)
    if best is None:
        return None
    first, *others = (name for name, rank in ranks.items() if rank == best)
    texts = _as_texts(frame[first])
    for other in others:
        differing = int((_as_texts(frame[other]) != texts).sum())
        if differing:
            raise DataError(
                f"{path}: {first} and {other} could both be {field.column}, and differ in {differing:,} of "
                f"{len(frame):,} rows. Name the right one: {how_to_tell(word)}.",
                code="META002",
            )
    return str(first)


def _find_perturbations(frame: pd.DataFrame, path: Path) -> str | None:
    """Find JUMP's and LINCS's word for the control type; there it may say no more than "control"."""
    theirs = _find_spelled(frame, _PERTURBATION, "control_type", path)
    if theirs is None:
        return None
    words = _read_control_types(frame[theirs])
    unknown = words[~words.isin([*_CONTROL_WORDS, ""])].value_counts()
    if unknown.empty:
        return theirs
    counted = [f"{word} ({number:,} row{'s' if number > 1 else ''})" for word, number in unknown.items()]
    logger.warning(
        "%s: %s says %s, which are none of %s, so it is not used; controls are told by their compounds. If another "
        "column tells them, name it: %s; or name the controls' compound: --set 'screen.controls=[NAME]'.",
        path,
        theirs,
        list_some(counted),
        ", ".join(_CONTROL_WORDS),
        how_to_tell("control_type"),
    )
    return None


def read_columns(frame: pd.DataFrame, found: Mapping[Field, str]) -> pd.DataFrame:
    """Take the columns that were found, under our names, as the texts and numbers that they are of.

    Texts: empty is ``""``. Values that are no numbers where there should be, stay as they are, for
    `cytoclr.tables.check_table` to name them.
    """
    return pd.DataFrame({field.column: _read_column(frame[theirs], field) for field, theirs in found.items()})


def _read_column(values: pd.Series, field: Field) -> pd.Series:
    if field.column == _CONTROL:
        return _read_control_types(values)
    return _as_texts(values) if field.kind == "text" else _as_numbers(values, whole=field.kind == "integer")


def _read_control_types(values: pd.Series) -> pd.Series:
    """Read control types as JUMP writes them, in any case: ``poscon_cp`` and ``poscon_diverse`` are positive controls.

    ``empty`` is a well in which is nothing. Words that are not known stay as they are. Where no well is called
    ``trt``, those that are called nothing are the treated ones.
    """
    texts = _as_texts(values)
    words = texts.str.strip().str.lower()
    words = words.mask(words.str.startswith("poscon"), "poscon")
    texts = texts.mask(words.isin([*_CONTROL_WORDS, ""]), words)
    return texts if (texts == "trt").any() else texts.mask(texts == "", "trt")


def as_plain(values: pd.Series) -> pd.Series:
    """Undo categories."""
    return values.astype("object").infer_objects() if isinstance(values.dtype, pd.CategoricalDtype) else values


def _as_texts(values: pd.Series) -> pd.Series:
    """Write values as texts; 22123.0 as ``22123``, which it was before a gap made it a float; a gap as ``""``."""
    plain = as_plain(values)
    if pd.api.types.is_float_dtype(plain) and (plain.dropna() % 1 == 0).all():
        plain = plain.astype("Int64")
    return plain.astype("object").map(str).mask(plain.isna(), "").astype("str")


def _as_numbers(values: pd.Series, *, whole: bool) -> pd.Series:
    """Read numbers; values that are none stay as they are, for `check_table` to name them, beside gaps."""
    plain = as_plain(values)
    numbers = pd.to_numeric(plain, errors="coerce").astype("float64")
    empty = is_empty(plain)
    if (numbers.isna() & ~empty).any():
        return plain.mask(empty)
    return numbers.astype("int64") if whole and np.isfinite(numbers).all() and (numbers % 1 == 0).all() else numbers


def is_empty(values: pd.Series) -> pd.Series:
    """Tell which values are nothing, or a word that stands for nothing among numbers."""
    return values.isna() | values.isin(EMPTY)
