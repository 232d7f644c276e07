"""`simulate_screen`: a virtual screen on disk, in the shape of BBBC021, with all that was planted beside it."""

import functools
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from jaxtyping import UInt16

from cytoclr.config import VirtualSettings
from cytoclr.data.virtual.camera import Conditions, draw_conditions, expose
from cytoclr.data.virtual.layout import CONTROL, Compound, plan_compounds, plan_wells, tabulate_planted
from cytoclr.data.virtual.paint import CHANNELS, paint_field
from cytoclr.data.virtual.phenotypes import shift_traits
from cytoclr.data.virtual.population import STATES, draw_population
from cytoclr.errors import MachineError
from cytoclr.progress import Progress, Silent
from cytoclr.storage import hash_json, open_atomic, read_json, read_table, write_json, write_table, write_text

__all__ = ["PIXEL_SIZE_UM", "VirtualScreen", "simulate_field", "simulate_screen"]

PIXEL_SIZE_UM = 0.65
#: Raised by hand when the same settings give other bytes.
VERSION = 1
#: BBBC021's numbers of the channels' files.
_WAVES = dict(zip(CHANNELS, ("w1", "w2", "w4"), strict=True))
_WELLS_PER_BLOCK = 6


@dataclass(frozen=True)
class VirtualScreen:
    """Where a virtual screen lies, and its pixel size.

    ``image.csv``, ``moa.csv`` and the images are what BBBC021 has; ``locations.csv`` holds the centres that a
    segmentation would give; ``truth.csv`` the true ones with each cell's state; ``planted.csv`` each treatment's
    mechanism, effect and shift of every trait.
    """

    folder: Path
    pixel_size_um: float = PIXEL_SIZE_UM

    @property
    def images(self) -> Path:
        """Folder that holds the batches' folders of TIFF files."""
        return self.folder / "images"

    @property
    def image_table(self) -> Path:
        """The image table, with the columns of BBBC021_v1_image.csv."""
        return self.folder / "image.csv"

    @property
    def mechanism_table(self) -> Path:
        """Compound, concentration, moa."""
        return self.folder / "moa.csv"

    @property
    def locations(self) -> Path:
        """Cell centres as found by a segmentation: a little, and systematically, off."""
        return self.folder / "locations.csv"

    @property
    def truth(self) -> Path:
        """True centres, state and planted effect, a row a cell, in the order of the locations."""
        return self.folder / "truth.csv"

    @property
    def planted(self) -> Path:
        """What was planted, a row a treatment."""
        return self.folder / "planted.csv"


def simulate_screen(
    settings: VirtualSettings,
    folder: Path,
    progress: Progress | None = None,
    *,
    plates: tuple[str, ...] | None = None,
    workers: int | None = None,
) -> VirtualScreen:
    """Simulate a screen into a folder, or finish one that was begun there.

    Parameters
    ----------
    settings
        Size, seed, effect and nuisances.
    folder
        Made if missing. Fields of the same settings that are already there are kept; those of others are replaced.
    plates
        Only these plates, for instance ``("Week2_20001",)``; their files are byte for byte those of the whole screen.
    workers
        Processes; by default as many as the machine has cores. The bytes do not depend on it. With more than one,
        a script must call this under ``if __name__ == "__main__":``, as `multiprocessing` demands.

    Returns
    -------
    VirtualScreen
        Where everything lies.

    Raises
    ------
    SettingsError
        A batch needs more wells than the largest plate has.
    MachineError
        The folder cannot be written, or a process died.

    Notes
    -----
    About 0.15 s a field of 512 pixels and core, 1.5 MB a field.
    """
    screen = VirtualScreen(Path(folder))
    compounds = plan_compounds(settings)
    wells = plan_wells(settings, compounds)
    wells["block"] = wells.groupby("plate").cumcount() // _WELLS_PER_BLOCK
    if plates is not None:
        wells = wells[wells["Metadata_Plate"].isin(plates)]
    _make_room(screen, settings)
    blocks = [block for _, block in wells.groupby(["plate", "block"])]
    todo = [block for block in blocks if not _is_complete(screen, settings, block)]
    progress = progress or Silent()
    progress.start("simulate", sum(map(len, todo)) * settings.sites_per_well, "fields")
    make = functools.partial(_simulate_block, screen, settings, compounds)
    for num_wells in _run_all(make, todo, workers or _count_cores()):
        progress.advance(num_wells * settings.sites_per_well)
    progress.finish()
    cells = pd.concat([read_table(_part_path(screen, block)) for block in blocks], ignore_index=True)
    _write_tables(screen, settings, compounds, wells, cells)
    return screen


def _make_room(screen: VirtualScreen, settings: VirtualSettings) -> None:
    """Remove what a screen of other settings left in the folder."""
    about = screen.folder / "virtual.json"
    identity = {"version": VERSION, "settings": settings.model_dump(mode="json")}
    digest = hash_json(identity)
    if not about.is_file() or read_json(about).get("hash") != digest:
        for place in (screen.images, screen.folder / "parts"):
            shutil.rmtree(place, ignore_errors=True)
        for table in (screen.image_table, screen.mechanism_table, screen.locations, screen.truth, screen.planted):
            table.unlink(missing_ok=True)
        write_json(about, {**identity, "hash": digest})


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(make: "functools.partial[int]", blocks: list[pd.DataFrame], workers: int) -> Iterator[int]:
    """Call `make` on each block, in processes of their own if there is enough to do."""
    if workers == 1 or len(blocks) < 2:
        yield from map(make, blocks)
        return
    # spawned, not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(blocks)), mp_context=context, initializer=_end_with_parent)
    try:
        for done in as_completed([pool.submit(make, block) for block in blocks]):
            yield done.result()
    except BrokenProcessPool as error:
        raise MachineError(
            "simulate: a process ended early, for want of memory or because the calling script does not begin its "
            'work under `if __name__ == "__main__":`. Correct that, or pass workers=1.'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if that was killed: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _part_path(screen: VirtualScreen, block: pd.DataFrame) -> Path:
    first = block.iloc[0]
    return screen.folder / "parts" / f"{first['Metadata_Plate']}-{first['block']}.parquet"


def _file_name(plate: str, well: str, site: int, channel: str) -> str:
    return f"{plate}_{well}_s{site}_{_WAVES[channel]}.tif"


def _is_complete(screen: VirtualScreen, settings: VirtualSettings, block: pd.DataFrame) -> bool:
    """Tell whether a block's cells were written, which comes after its images, and its images are still there."""
    return _part_path(screen, block).is_file() and all(
        (screen.images / batch / plate / _file_name(plate, well, site, channel)).is_file()
        for batch, plate, well in block[["Metadata_Batch", "Metadata_Plate", "Metadata_Well"]].itertuples(index=False)
        for site in range(1, settings.sites_per_well + 1)
        for channel in CHANNELS
    )


def _simulate_block(
    screen: VirtualScreen, settings: VirtualSettings, compounds: list[Compound], block: pd.DataFrame
) -> int:
    """Simulate some wells of one plate: their images, then the table of their cells; return how many wells."""
    shifts = {compound.name: compound.shifts for compound in compounds} | {CONTROL: {}}
    found = []
    for well in block.to_dict("records"):
        conditions = draw_conditions(
            settings,
            batch=well["batch"],
            plate=well["plate"],
            well=_well_number(well["Metadata_Well"]),
            row=well["row"],
            column=well["column"],
        )
        planted = {name: well["effect"] * shift for name, shift in shifts[well["Metadata_Compound"]].items()}
        folder = screen.images / well["Metadata_Batch"] / well["Metadata_Plate"]
        folder.mkdir(parents=True, exist_ok=True)
        for site in range(1, settings.sites_per_well + 1):
            seed = [settings.screen_seed, 6, well["plate"], _well_number(well["Metadata_Well"]), site]
            image, cells = simulate_field(np.random.default_rng(seed), settings, conditions, planted)
            for pixels, channel in zip(image, CHANNELS, strict=True):
                name = _file_name(well["Metadata_Plate"], well["Metadata_Well"], site, channel)
                with open_atomic(folder / name) as file:
                    tifffile.imwrite(file, pixels, software="cytoclr virtual screen")
            found.append(
                cells.assign(
                    Metadata_Plate=well["Metadata_Plate"],
                    Metadata_Well=well["Metadata_Well"],
                    Metadata_Site=site,
                    Metadata_Compound=well["Metadata_Compound"],
                    Metadata_Concentration=well["Metadata_Concentration"],
                    Metadata_Effect=well["effect"],
                )
            )
    write_table(_part_path(screen, block), pd.concat(found, ignore_index=True))
    return len(block)


def _well_number(well: str) -> int:
    """A number that a well keeps whatever else lies on its plate."""
    return int.from_bytes(well.encode(), "big")


def simulate_field(
    rng: np.random.Generator, settings: VirtualSettings, conditions: Conditions, planted: dict[str, float]
) -> tuple[UInt16[np.ndarray, "channel height width"], pd.DataFrame]:
    """Simulate one field, and list its cells in the order of their rows.

    Parameters
    ----------
    rng
        Decides everything but the conditions.
    settings
        Size of the field and mean number of cells.
    conditions
        What the well meets besides its treatment.
    planted
        Shifts of the traits by the treatment.

    Returns
    -------
    image, cells
        The camera's numbers; and ``Metadata_Object`` (from 1), ``x``, ``y`` (px, as a segmentation finds them),
        ``true_x``, ``true_y`` and ``state`` of every cell whose true centre lies in the field.
    """
    size = settings.field_size_px
    names = sorted({*planted, *conditions.shifts})
    traits = shift_traits({name: planted.get(name, 0.0) + conditions.shifts.get(name, 0.0) for name in names})
    mean_cells = settings.cells_per_site * conditions.density
    population = draw_population(rng, traits, field_size_px=size, mean_cells=mean_cells)
    image = expose(rng, paint_field(rng, population, size), conditions)
    jitter = rng.normal(0.0, 0.6, (2, len(population)))
    found = np.stack([population.x, population.y]) + conditions.offset_px[:, None] + jitter
    found = np.clip(found, 0.0, size - 1.0).round(2)
    seen = (population.x >= 0) & (population.y >= 0) & (population.x < size) & (population.y < size)
    rows = np.flatnonzero(seen)[np.argsort(population.y[seen], kind="stable")]
    cells = pd.DataFrame(
        {
            "Metadata_Object": np.arange(1, len(rows) + 1),
            "x": found[0, rows],
            "y": found[1, rows],
            "true_x": population.x[rows].round(2),
            "true_y": population.y[rows].round(2),
            "state": np.array(STATES)[population.state[rows]],
        }
    )
    return image, cells


def _write_tables(
    screen: VirtualScreen,
    settings: VirtualSettings,
    compounds: list[Compound],
    wells: pd.DataFrame,
    cells: pd.DataFrame,
) -> None:
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Object"]
    planted = tabulate_planted(compounds)
    mechanisms = planted[["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA"]].copy()
    mechanisms.columns = pd.Index(["compound", "concentration", "moa"])
    control = pd.DataFrame({"compound": [CONTROL], "concentration": [0.0], "moa": [CONTROL]})
    about = ["state", "Metadata_Compound", "Metadata_Concentration", "Metadata_Effect"]
    truth = cells[[*keys, "true_x", "true_y", *about]].rename(columns={"true_x": "x", "true_y": "y"})
    _write_csv(screen.planted, planted)
    _write_csv(screen.truth, truth)
    _write_csv(screen.mechanism_table, pd.concat([mechanisms, control]))
    _write_csv(screen.image_table, _tabulate_images(settings, wells))
    _write_csv(screen.locations, cells[[*keys, "x", "y"]])


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _tabulate_images(settings: VirtualSettings, wells: pd.DataFrame) -> pd.DataFrame:
    """One row a site, with exactly the columns of BBBC021_v1_image.csv."""
    rows: list[dict[str, object]] = []
    for well in wells.to_dict("records"):
        plate, name = well["Metadata_Plate"], well["Metadata_Well"]
        for site in range(1, settings.sites_per_well + 1):
            row = {"TableNumber": well["plate"] + 1, "ImageNumber": len(rows) + 1}
            for channel in CHANNELS:
                row[f"Image_FileName_{channel}"] = _file_name(plate, name, site, channel)
                row[f"Image_PathName_{channel}"] = f"{well['Metadata_Batch']}/{plate}"
            row |= {
                "Image_Metadata_Plate_DAPI": plate,
                "Image_Metadata_Well_DAPI": name,
                "Replicate": well["replicate"],
                "Image_Metadata_Compound": well["Metadata_Compound"],
                "Image_Metadata_Concentration": well["Metadata_Concentration"],
            }
            rows.append(row)
    return pd.DataFrame(rows)
