"""LoadData tables, as CSV or Parquet, with images beside and without."""

import contextlib

from cytoclr.data.readers.loaddata import list_sources, read_cell_locations, read_loaddata
from cytoclr.errors import CytoclrError
from fuzz import make_workplace


def try_one(data: bytes) -> None:
    """Read a LoadData table."""
    with make_workplace() as place:
        path = place / ("t.parquet" if data.startswith(b"PAR1") else "t.csv")
        path.write_bytes(data)
        (place / "images/P1").mkdir(parents=True)
        for name in ("a1.tif", "b1.tif", "a2.tif", "b2.tif"):
            (place / "images/P1" / name).touch()
        for images in (None, str(place / "images")):
            with contextlib.suppress(CytoclrError):
                read_loaddata(str(path), images=images, skip_missing=True)
        with contextlib.suppress(CytoclrError):
            list_sources(str(path))
        with contextlib.suppress(CytoclrError):
            read_cell_locations(path)
