"""Tables: CSV (also gzipped) and Parquet, as profiles, plate maps, locations and image tables."""

import contextlib

from cytoclr.data.files import read_any_table, read_header
from cytoclr.data.locations import read_locations
from cytoclr.data.profiles import read_profiles, read_wells
from cytoclr.data.readers.bbbc021 import read_image_table
from cytoclr.errors import CytoclrError
from fuzz import make_workplace


def try_one(data: bytes) -> None:
    """Read a file as every kind of table there is."""
    with make_workplace() as place:
        path = place / ("table.parquet" if data.startswith(b"PAR1") else "table.csv")
        path.write_bytes(data)
        read_header(path)
        for read in (read_any_table, read_profiles, read_wells, read_locations, read_image_table):
            with contextlib.suppress(CytoclrError):
                read(path)
