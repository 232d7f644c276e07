"""The exceptions a user can meet; the command line turns each into one sentence and an exit code.

::

    CytoclrError           1   our bug, if nothing below it fits
    ├── SettingsError      2   wrong settings or arguments
    ├── DataError          3   wrong data: a table, an image, a location
    ├── MachineError       4   disk, rights, memory, a run folder in use
    └── DamagedError       5   stored bytes are not the bytes that were written

A message says what was found, where (file, row, column), what was expected and what to do. What `cytoclr check` can
find has a code besides, which stays the same when the words change (`CODES`).
"""

from collections.abc import Sequence

__all__ = ["CODES", "CytoclrError", "DamagedError", "DataError", "MachineError", "SettingsError", "list_some"]

#: What each code means. A code is never given another meaning; a new one is added at the end of its group.
CODES = {
    # metadata: screen tables, plate maps, mechanisms
    "META001": "a table of metadata is missing or cannot be read",
    "META002": "a column is missing or ambiguous",
    "META003": "a value is empty or of another kind",
    "META004": "a well has more than one treatment",
    "META005": "a site or a well stands twice",
    "META006": "wells of the images are not on the plate map",
    "META007": "wells of the plate map have no images",
    "META008": "a plate that was asked for is not there",
    "META009": "no well is untreated",
    "META010": "a plate has too few untreated wells",
    "META011": "the batch cannot be told, or all plates are one batch",
    "META012": "compounds of the mechanism table are not in the screen, or the other way round",
    "META013": "no plate map: what is in the wells is not known",
    "META014": "treatments have a single well",
    # names: files, channels
    "NAME001": "no file fits the template",
    "NAME002": "files that do not fit the template are left aside",
    "NAME003": "several files stand for the same site and channel",
    "NAME004": "a channel that was asked for is not there",
    "NAME005": "sites differ in their channels",
    "NAME006": "a path leaves its folder",
    "NAME007": "the template is not one",
    # images
    "IMG001": "an image file is missing",
    "IMG002": "an image cannot be read",
    "IMG003": "an image is cut short",
    "IMG004": "an image is not a grey plane of 8 or 16 bit",
    "IMG005": "images differ in size",
    "IMG006": "images differ in type",
    "IMG007": "an image is constant",
    "IMG008": "many pixels are saturated",
    "IMG009": "two images have the same content",
    "IMG010": "pixels exceed the bit depth that was told",
    "IMG011": "fields are smaller than a crop",
    "IMG012": "an illumination function is missing or does not fit",
    "IMG013": "the images say another pixel size than was told",
    "IMG014": "a plate has few fields to estimate its light from",
    # locations and masks
    "LOC001": "the locations cannot be read",
    "LOC002": "no site of the locations is in the screen",
    "LOC003": "sites have no locations",
    "LOC004": "centres lie outside their field",
    "LOC005": "x and y may be exchanged",
    "LOC006": "many crops cross the border",
    "LOC007": "a mask is missing or does not fit",
    "LOC008": "no or few nuclei are found where they are looked for",
    "LOC009": "nuclei are larger or smaller than told",
    "LOC010": "a cell stands twice",
    "LOC011": "a crop is small or large for a nucleus",
    "LOC012": "there is nothing where cells are said to be",
    # channels: the contract between plate, crops and model
    "CHAN001": "the channels are not those of the model",
    "CHAN002": "a setting names a channel that the screen does not have",
    "CHAN003": "the model to go on from is not there, or does not tell its channels",
    # ready crops
    "CROP001": "a ready crop cannot be read",
    "CROP002": "crops differ in size, type or channels",
    # machine
    "DISK001": "the disk has too little space",
    "NET001": "a remote file cannot be reached",
}


class CytoclrError(Exception):
    """Something cytoclr can put into a sentence for the user; `code`, if it has one, is one of `CODES`."""

    exit_code = 1

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


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
