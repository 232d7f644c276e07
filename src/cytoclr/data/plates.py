"""The way of each plate: looked at, cut in blocks, finished; wherever tasks run, however often they are stopped."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cytoclr.config import Flag
from cytoclr.data.blocks import (
    MIN_READY,
    MIN_SITES,
    Block,
    Cut,
    PlateFiles,
    cut_block,
    cut_sites,
    finish_plate,
    split_blocks,
)
from cytoclr.data.cluster import Cluster, Task
from cytoclr.data.crops import Shard, write_crop_manifest
from cytoclr.data.cut import CutRules
from cytoclr.data.locations import Centres
from cytoclr.data.ready import pack_ready
from cytoclr.data.survey import choose_rows, finish_survey, look_at_ready, look_at_sites, needs_survey
from cytoclr.errors import DataError, list_some
from cytoclr.progress import Progress
from cytoclr.storage import read_json, read_table
from cytoclr.tables import CELLS, SITE, check_table

__all__ = ["cut_plates"]

CentresOf = Callable[[tuple[str, str, int]], Centres | None]


def cut_plates(
    rows: pd.DataFrame,
    folder: Path,
    *,
    rules: CutRules,
    centres: CentresOf | None,
    drop: Sequence[Flag],
    num_overlays: int,
    stains: Mapping[str, str],
    cluster: Cluster,
    progress: Progress,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut the crops of a screen into a folder, a shard a plate; what an earlier call finished is not cut again.

    Parameters
    ----------
    rows
        One row a site, with the paths of its images; or one a ready crop, with ``Path_Crop``.
    rules, drop
        How, and which flagged crops are left out.
    centres
        Gives a site's centres; None: they are found.
    num_overlays
        Fields to draw with their cells, into ``overlays`` beside the folder.
    cluster
        Where.

    Returns
    -------
    cells
        The cells table; row i is crop i of the folder's `CropStore`.
    left_out
        One row a cell or site left out, with the reason.

    Raises
    ------
    DataError
        An image cannot be read, plates differ in type, or no cell is left.
    """
    unit = "cells" if "Path_Crop" in rows.columns else "sites"
    (folder / "plates").mkdir(parents=True, exist_ok=True)
    progress.start("crop", len(rows), unit)
    drawn = _choose_overlays(rows, num_overlays) if unit == "sites" else frozenset()
    plates = [
        _Plate(
            PlateFiles(folder, str(plate)), of_plate, rules, centres, drop, drawn, folder.parent / "overlays", progress
        )
        for plate, of_plate in rows.groupby("Metadata_Plate", sort=True)
    ]
    cluster.run(task for plate in plates for task in plate.begin())
    progress.finish()
    parts = [_read_plate(plate.files) for plate in plates]
    left_out = pd.concat([part[2] for part in parts], ignore_index=True)
    filled = [part for part in parts if part[0]]
    if not filled:
        reasons = list_some([f"{reason}: {count:,}" for reason, count in left_out["reason"].value_counts().items()])
        raise DataError(f"no crop could be cut from {len(rows):,} {unit} ({reasons}).", code="LOC008")
    dtypes = {part[3] for part in filled}
    if len(dtypes) > 1:
        raise DataError(
            f"plates differ in type: {', '.join(sorted(dtypes))}. Expected 8 or 16 bit in all of them.", code="IMG006"
        )
    cells = pd.concat([part[1] for part in filled], ignore_index=True)
    write_crop_manifest(
        folder,
        [shard for part in filled for shard in part[0]],
        channels=rules.channels,
        size_px=rules.size_px,
        pixel_size_um=rules.pixel_size_um,
        dtype=np.dtype(dtypes.pop()),
        intensity=asdict(rules.intensity),
        stains=stains,
        bit_depth=rules.bit_depth,
    )
    return check_table(cells, CELLS, "cells"), left_out


def _choose_overlays(rows: pd.DataFrame, number: int) -> frozenset[tuple[str, str, int]]:
    """Choose fields evenly spread over the screen."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int))
    return frozenset(rows[SITE].iloc[places].itertuples(index=False, name=None))


@dataclass
class _Plate:
    """A plate on its way; its state is what is still awaited."""

    files: PlateFiles
    rows: pd.DataFrame
    rules: CutRules
    centres: CentresOf | None
    drop: Sequence[Flag]
    overlays: frozenset[tuple[str, str, int]]
    overlay_folder: Path
    progress: Progress
    looks_left: int = 0
    blocks_left: int = 0

    @property
    def is_ready_crops(self) -> bool:
        return "Path_Crop" in self.rows.columns

    def split(self, rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
        return list(enumerate(split_blocks(rows, least=MIN_READY if self.is_ready_crops else MIN_SITES)))

    def begin(self) -> Iterator[Task]:
        """Yield the first tasks: to look at the plate, or to cut it; none if it is finished."""
        if self.files.note.is_file():
            self.progress.advance(len(self.rows))
            return
        if not needs_survey(self.rules) or self.files.survey.is_file():
            yield from self.cut()
            return
        chosen = self.split(self.rows.iloc[choose_rows(len(self.rows))])
        self.looks_left = len(chosen)
        look = look_at_ready if self.is_ready_crops else look_at_sites
        for number, rows in chosen:
            block = Block(self.files.plate, number, _records(rows))
            yield Task(look, (block, self.files, self.rules), partial(self.after_look, len(chosen)))

    def after_look(self, num_blocks: int, _: None) -> Iterable[Task]:
        """When all has been looked at, learn from it, and go on to cut."""
        self.looks_left -= 1
        if self.looks_left:
            return ()
        return (Task(finish_survey, (self.files, num_blocks, self.rules), lambda _: self.cut()),)

    def cut(self) -> Iterator[Task]:
        """Yield the tasks that cut the plate's blocks."""
        blocks = self.split(self.rows)
        self.blocks_left = len(blocks)
        how: Cut = pack_ready if self.is_ready_crops else cut_sites
        for number, rows in blocks:
            if self.files.part(number).is_file() and self.blocks_left > 1:
                self.progress.advance(len(rows))
                self.blocks_left -= 1
                continue
            block = self.make_block(number, rows)
            arguments = (block, self.files, self.rules, self.overlay_folder, how)
            yield Task(cut_block, arguments, partial(self.after_block, len(blocks)))

    def after_block(self, num_blocks: int, num_rows: int) -> Iterable[Task]:
        """When all blocks are cut, go on to finish the plate."""
        self.progress.advance(num_rows)
        self.blocks_left -= 1
        if self.blocks_left:
            return ()
        return (Task(finish_plate, (self.files, num_blocks, self.rules, self.drop), lambda _: ()),)

    def make_block(self, number: int, rows: pd.DataFrame) -> Block:
        """Take the rows of a block, with their centres."""
        records = _records(rows)
        sites = [tuple(record[name] for name in SITE) for record in records]
        centres = (
            () if self.is_ready_crops else tuple(None if self.centres is None else self.centres(site) for site in sites)
        )
        return Block(self.files.plate, number, records, centres, self.overlays.intersection(sites))


def _records(rows: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    return tuple({str(name): value for name, value in row.items()} for row in rows.to_dict("records"))


def _read_plate(files: PlateFiles) -> tuple[list[Shard], pd.DataFrame, pd.DataFrame, str]:
    about = read_json(files.note)
    return (
        [Shard.parse(shard) for shard in about["shards"]],
        read_table(files.note.with_suffix(".parquet")),
        read_table(files.note.with_suffix(".left_out.parquet")),
        about["dtype"],
    )
