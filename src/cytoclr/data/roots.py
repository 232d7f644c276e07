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
    this machine read as if it belonged to the screen. Each folder is listed once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._real = os.path.realpath(folder)
        self._links: dict[str, frozenset[str]] = {}
        self._files: dict[str, frozenset[str]] = {}
        self._inside: set[str] = set()

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

    def has_file(self, folder: str | Path, name: str) -> bool:
        """Tell whether a folder has a file of this name; a link may stand for it.

        Raises
        ------
        DataError
            NAME006: links lead out of the root to it.
        """
        folder = str(folder)
        if folder not in self._files:
            self._list(folder)
        if name not in self._files[folder]:
            return False
        self.check_links(folder, name)
        return True

    def check_links(self, folder: str | Path, name: str = "") -> None:
        """Refuse a file (or the folder itself) that links lead out to.

        Raises
        ------
        DataError
            NAME006: the link, and where it leads.
        """
        folder = str(folder)
        if folder not in self._inside:
            self._refuse_outside(folder)
            self._inside.add(folder)
        if folder not in self._links:
            self._list(folder)
        if name in self._links[folder]:
            self._refuse_outside(os.path.join(folder, name))

    def _list(self, folder: str) -> None:
        entries = list(os.scandir(folder)) if os.path.isdir(folder) else []
        self._links[folder] = frozenset(entry.name for entry in entries if entry.is_symlink())
        self._files[folder] = frozenset(entry.name for entry in entries if entry.is_file())

    def _refuse_outside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self._real):
            raise DataError(
                f"{path}: a link leads out of {self.folder}, to {real}. Expected files below it: put them there, or "
                "name the folder that holds both.",
                code="NAME006",
            )
