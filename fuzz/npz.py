"""Arrays and crops of others: ``.npz`` of DeepProfiler, ``.npy`` masks and illumination, tables of ready crops."""

import contextlib

from cytoclr.data.illumination import read_illumination
from cytoclr.data.masks import check_labels, find_label_centres, read_mask
from cytoclr.data.profiles import read_profiles
from cytoclr.data.readers.single_cell import find_strips, read_single_cells
from cytoclr.errors import CytoclrError
from fuzz import make_workplace


def try_one(data: bytes) -> None:
    """Read bytes as what they begin as: an archive, an array, else a table."""
    with make_workplace() as place, contextlib.suppress(CytoclrError):
        if data.startswith(b"PK"):
            path = place / "P1/B02/1.npz"
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            read_profiles(place)
        elif data.startswith(b"\x93NUMPY"):
            path = place / "a.npy"
            path.write_bytes(data)
            with contextlib.suppress(CytoclrError):
                read_illumination({"DNA": str(path)}, (4, 4))
            labels = read_mask(path)
            check_labels(labels, str(path))
            find_label_centres(labels)
        else:
            path = place / "sc-metadata.csv"
            path.write_bytes(data)
            find_strips(read_single_cells(path, controls=("DMSO",)), place, skip_missing=True)
