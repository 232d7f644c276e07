"""The exceptions a user can meet; the command line turns each into one sentence and an exit code.

::

    CytoclrError           1   our bug, if nothing below it fits
    ├── SettingsError      2   wrong settings or arguments
    ├── DataError          3   wrong data: a table, an image, a location
    ├── MachineError       4   disk, rights, memory, a run folder in use
    └── DamagedError       5   stored bytes are not the bytes that were written

A message says what was found, where (file, row, column), what was expected and what to do.
"""

from collections.abc import Sequence

__all__ = ["CytoclrError", "DamagedError", "DataError", "MachineError", "SettingsError", "list_some"]


class CytoclrError(Exception):
    """Something cytoclr can put into a sentence for the user."""

    exit_code = 1


class SettingsError(CytoclrError):
    """Wrong settings or arguments."""

    exit_code = 2


class DataError(CytoclrError):
    """Wrong data: a table, an image, a location."""

    exit_code = 3


class MachineError(CytoclrError):
    """The machine does not allow it: disk, rights, memory, a run folder in use."""

    exit_code = 4


class DamagedError(CytoclrError):
    """Stored bytes are not the bytes that were written."""

    exit_code = 5


def list_some(values: Sequence[object], limit: int = 5) -> str:
    """Name the first few values and count the rest: ``a, b, c and 12 more``.

    >>> list_some(["B02", "B03", "B04"], limit=2)
    'B02, B03 and 1 more'
    """
    shown = ", ".join(str(value) for value in values[:limit])
    rest = len(values) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
