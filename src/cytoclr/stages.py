"""Finished stages of a run folder: not done again while nothing changed, kept until a replacement is whole.

A stage works in ``RUN/unfinished/<stage>-<key>/``, which mirrors the run folder, and may go on there after a stop.
When it is done, its manifest is written beside its files, the files are moved into place one by one, and the
manifest moves last. Wherever the power goes in between, the next run goes on from there.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytoclr.errors import DamagedError
from cytoclr.storage import TEMPORARY, Manifest, hash_json, recover_folder, replace_folder, sync_folder, sync_tree

__all__ = ["StageFolder"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageFolder:
    """The stages of one run folder."""

    folder: Path

    def manifest_path(self, stage: str) -> Path:
        """Where a finished stage's manifest lies."""
        return self.folder / "manifests" / f"{stage}.json"

    def read_finished(self, stage: str) -> Manifest:
        """Read the manifest of a stage that is finished."""
        return Manifest.read(self.manifest_path(stage))

    def is_finished(self, stage: str, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a stage was finished from these inputs and its files are there in full size."""
        path = self.manifest_path(stage)
        if not path.is_file():
            return False
        manifest = Manifest.read(path)
        if manifest.key != hash_json(inputs):
            return False
        damage = manifest.find_damage(self.folder)
        if damage:
            logger.warning("%s: %s. The stage is run again.", stage, damage[0])
        return not damage

    def finish(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], Mapping[str, Any]],
        *,
        read_hashes: Callable[[Path], Mapping[str, str]] = lambda _: {},
    ) -> Manifest:
        """Do a stage unless it is finished.

        Parameters
        ----------
        stage
            Its name.
        inputs
            All that decides its result, as JSON values: version, settings, hashes of what it reads.
        work
            Writes the stage's files under the folder it is given, laid out as in the run folder, and returns what
            the stage has to say of itself. If an earlier call was stopped, the folder holds what that one left.
        read_hashes
            Given that folder, returns the SHA-256 of files whose writers hashed them, by their names in it.

        Returns
        -------
        Manifest
            Of the finished stage.
        """
        if self.is_finished(stage, inputs):
            self._sweep(stage)
            return self.read_finished(stage)
        key = hash_json(inputs)
        place = self.folder / "unfinished" / f"{stage}-{key[:12]}"
        place.mkdir(parents=True, exist_ok=True)
        written = place / "manifest.json"
        if not written.is_file():
            began_s = time.monotonic()
            for leftover in place.rglob(TEMPORARY):
                leftover.unlink()
            told = work(place)
            sync_tree(place)  # not every writer does
            files = [path for path in place.rglob("*") if path.is_file()]
            report = {**told, "elapsed_s": round(time.monotonic() - began_s, 3)}
            Manifest.describe(stage, key, place, files, report, hashes=read_hashes(place)).write(written)
        self._publish(stage, place)
        return self.read_finished(stage)

    def find_damage(self, *, done: Callable[[int], None] = lambda _: None) -> dict[str, list[str]]:
        """Read every byte of the finished stages; name, by stage, what is not as it was written.

        `done` is told how many bytes were read.
        """
        found: dict[str, list[str]] = {}
        for path in sorted((self.folder / "manifests").glob("*.json")):
            try:
                manifest = Manifest.read(path)
            except DamagedError as error:
                found[path.stem] = [str(error)]
                continue
            damage = manifest.find_damage(self.folder, read_all=True, done=done)
            if damage:
                found[path.stem] = damage
        return found

    def count_bytes(self) -> int:
        """How many bytes finished stages have written, as far as their manifests can be read."""
        total = 0
        for path in (self.folder / "manifests").glob("*.json"):
            with contextlib.suppress(DamagedError):
                total += sum(record.bytes for record in Manifest.read(path).files.values())
        return total

    def forget(self, stage: str) -> None:
        """Forget that a stage was finished, so that it is done again; its files stay until then."""
        path, place = self.manifest_path(stage), self.folder / "unfinished" / f"{stage}-forgotten"
        try:
            Manifest.read(path)
        except (DamagedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        place.mkdir(parents=True, exist_ok=True)
        path.replace(place / "before.json")  # which tells what to remove

    def _publish(self, stage: str, place: Path) -> None:
        """Move the files of a finished stage into place; may be cut short and called again."""
        new, path = Manifest.read(place / "manifest.json"), self.manifest_path(stage)
        if path.is_file():
            path.replace(place / "before.json")  # from here on it is not true of the files any more
        path.parent.mkdir(exist_ok=True)
        sync_folder(path.parent)
        for entry in sorted(_entries(new)):
            source, target = place / entry, self.folder / entry
            recover_folder(target)
            if source.is_dir():
                replace_folder(source, target)
            elif source.exists():
                source.replace(target)
        for entry in self._find_old_entries(stage) - _entries(new):
            _remove(self.folder / entry)
        sync_folder(self.folder)
        (place / "manifest.json").replace(path)
        sync_folder(path.parent)
        self._sweep(stage)

    def _find_old_entries(self, stage: str) -> set[str]:
        """What the stage left before: as it was finished last, and in publications that were cut short."""
        places = (self.folder / "unfinished").glob(f"{stage}-*")
        manifests = [place / name for place in places for name in ("manifest.json", "before.json")]
        return set().union(*(_entries(Manifest.read(path)) for path in manifests if path.is_file()))

    def _sweep(self, stage: str) -> None:
        """Remove what is left of a stage that is finished: its workplaces, and replaced folders."""
        for orphan in (self.folder / "unfinished").glob(f"{stage}-*"):
            shutil.rmtree(orphan)
        for entry in _entries(self.read_finished(stage)):
            recover_folder(self.folder / entry)


def _entries(manifest: Manifest) -> set[str]:
    """Files and folders of a stage, at the top of the run folder."""
    return {name.split("/", 1)[0] for name in manifest.files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
