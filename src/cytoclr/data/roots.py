"""Folders that are never left: what data name is looked for below them, and no link leads out."""

import os
from pathlib import Path, PurePosixPath

from cytoclr.errors import DataError

__all__ = ["Root", "leaves"]


def leaves(name: str) -> bool:
    """Tell whether a path that data name could lead out of the folder it is put behind.

    >>> [leaves(name) for name in ("a/b.tif", "a..b", "../b.tif", "/b.tif", "C:b.tif", "s3://a/b", r"\\\\host\\b")]
    [False, False, True, True, True, True, True]
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return "\0" in name or path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])


class Root:
    """A folder below which data name files.

    A link in it may lead to another place in it, and nowhere else: who sends a folder could otherwise have any file of
    this machine read as if it belonged to the screen. Each folder is asked for its links once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._real = os.path.realpath(folder)
        self._links: dict[str, frozenset[str]] = {}

    def split(self, name: str) -> PurePosixPath:
        """Take a path that data name for one below the folder.

        Raises
        ------
        DataError
            NAME006: it leaves the folder.
        """
        if leaves(name):
            raise DataError(
                f"the image path {name!r} leaves the images' folder. Expected one relative to {self.folder}.",
                code="NAME006",
            )
        return PurePosixPath(name.replace("\\", "/"))

    def check_links(self, folder: str | Path, name: str = "") -> None:
        """Refuse a file (or the folder itself) that links lead out to.

        Raises
        ------
        DataError
            NAME006: the link, and where it leads.
        """
        folder = str(folder)
        if folder not in self._links:
            self._refuse_outside(folder)
            self._links[folder] = _list_links(folder)
        if name in self._links[folder]:
            self._refuse_outside(os.path.join(folder, name))

    def _refuse_outside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self._real):
            raise DataError(
                f"{path}: a link leads out of {self.folder}, to {real}. Expected files below it: put them there, or "
                "name the folder that holds both.",
                code="NAME006",
            )


def _list_links(folder: str) -> frozenset[str]:
    if not os.path.isdir(folder):
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_symlink())
