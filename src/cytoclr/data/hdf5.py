"""HDF5 files from strangers: nothing outside the file is read, and no memory is taken that the file could not fill."""

from pathlib import Path

import h5py

from cytoclr.data.arrays import MAX_RATIO, is_bomb

__all__ = ["check_hdf5"]


def check_hdf5(file: h5py.File, path: Path) -> None:
    """Refuse links to other files, numbers that lie in other files, and sizes that the file could not fill.

    HDF5 would follow all of these without a word: what is read as pixels could be any file of this machine.

    Raises
    ------
    ValueError
        Tells which entry it is.
    """
    claimed = 0

    # HDF5 calls these, and what they raise is lost on the way: they return what they find
    def find_link(name: str, link: object) -> str | None:
        return f"{name!r} is a link to {link.filename!r}" if isinstance(link, h5py.ExternalLink) else None

    def find_entry(name: str, entry: object) -> str | None:
        nonlocal claimed
        if not isinstance(entry, h5py.Dataset):
            return None
        claimed += (entry.size or 0) * entry.dtype.itemsize
        return f"{name!r} lies in another file" if entry.external or entry.is_virtual else None

    found = file.visititems_links(find_link) or file.visititems(find_entry)
    if found:
        raise ValueError(f"{found}; nothing but this file is read")
    stored = path.stat().st_size
    if is_bomb(claimed, stored):
        raise ValueError(f"it says it holds {claimed:,} bytes, and has {stored:,}; at most {MAX_RATIO} times as many")
