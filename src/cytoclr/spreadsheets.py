"""CSV files that a spreadsheet shows as they are: what it would run as a formula is written as text."""

import contextlib
import gzip
import re
from pathlib import Path
from typing import IO, cast

import pandas as pd

from cytoclr.storage import open_atomic

__all__ = ["neutralise_formulas", "write_csv"]

#: How a formula begins, in the programs that OWASP's page on CSV injection lists, full-width signs too.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
#: A number may begin with a sign, and runs nothing.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def neutralise_formulas(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Put an apostrophe before texts that a spreadsheet would take for formulas; numbers stay as they are.

    Parameters
    ----------
    frame
        Any table. Texts in columns of any kind count, and so do the names of columns; the index does not.

    Returns
    -------
    tuple
        The table, and how many cells were changed.

    References
    ----------
    OWASP, CSV injection, https://owasp.org/www-community/attacks/CSV_Injection

    Examples
    --------
    >>> neutralise_formulas(pd.DataFrame({"compound": ["taxol", "=1+1", "-0.5"]}))[0]["compound"].tolist()
    ['taxol', "'=1+1", '-0.5']
    """
    changed = 0
    result = frame.copy(deep=False)
    for place in range(frame.shape[1]):
        values = frame.iloc[:, place]
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
            continue
        texts = values.astype("object")
        harmful = texts.map(_is_formula).to_numpy(dtype=bool)
        if harmful.any():
            changed += int(harmful.sum())
            result.isetitem(place, texts.mask(harmful, "'" + texts.astype("str")).to_numpy())
    names = [f"'{name}" if _is_formula(name) else name for name in frame.columns]
    changed += sum(name != before for name, before in zip(names, frame.columns, strict=True))
    return result.set_axis(names, axis="columns"), changed


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_FORMULA_STARTS) and _NUMBER.fullmatch(value) is None


def write_csv(path: Path, frame: pd.DataFrame, *, separator: str = ",") -> int:
    """Write a table as CSV atomically, gzipped where the name ends in ``.gz``; no text in it is a formula.

    Parameters
    ----------
    path
        The file.
    frame
        The table; its index is not written.
    separator
        Between cells.

    Returns
    -------
    int
        How many cells were given an apostrophe (`neutralise_formulas`): to a program that reads the file they have
        another name now, so tell it.

    Raises
    ------
    MachineError
        The place cannot be written.
    """
    safe, changed = neutralise_formulas(frame)
    with open_atomic(path) as file, contextlib.ExitStack() as stack:
        target: IO[bytes] = file
        if path.name.endswith(".gz"):
            # a time and a name in the file's head would make equal tables differ
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
            target = cast(IO[bytes], stack.enter_context(packed))
        safe.to_csv(target, index=False, sep=separator, lineterminator="\n")
    return changed
