"""Example cells: drawn at random, coloured by channel with one contrast for all, packed into sheets of tiles."""

import base64
import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from PIL import Image

from cytoclr.data.crops import CropStore, scale_crops
from cytoclr.errors import DataError

__all__ = [
    "DISPLAY_GAMMA",
    "TILE_PX",
    "Strip",
    "Tiles",
    "choose_hues",
    "colour_crops",
    "cut_views",
    "draw_cells",
    "make_strips",
    "pack_tiles",
    "spell_hue",
]

#: Height and width of a cell on the page; larger crops are made smaller.
TILE_PX = 64
#: Tiles of a sheet: across, and in all.
COLUMNS = 32
PER_SHEET = COLUMNS * 32
#: Brightens the dim parts of all cells alike.
DISPLAY_GAMMA = 0.75

Hue = tuple[float, float, float]
BLUE, GREEN, RED = (0.30, 0.45, 1.0), (0.25, 0.90, 0.35), (1.0, 0.30, 0.42)
_HUES = (BLUE, GREEN, RED, (0.95, 0.80, 0.20), (0.20, 0.85, 0.90), (0.85, 0.35, 0.95))
_CUSTOMARY = {BLUE: ("dna", "dapi", "hoechst", "nucle"), GREEN: ("tub", "gfp"), RED: ("actin", "agp", "phall")}


def draw_cells(
    cells: pd.DataFrame, groups: Sequence[str], *, per_group: int, generator: np.random.Generator
) -> Int[np.ndarray, " cell"]:
    """Draw up to `per_group` cells of each group (well, treatment) without replacement; return their row numbers."""
    order = generator.permutation(len(cells))
    keys = cells[list(groups)].reset_index(drop=True).iloc[order]
    drawn = keys.groupby(list(groups), sort=False).head(per_group)
    return drawn.index.to_numpy(dtype=np.int64)


def choose_hues(channels: Sequence[str]) -> list[Hue]:
    """Give each channel a colour: blue to DNA, green to tubulin, red to actin, and to others what is left.

    >>> choose_hues(["Actin", "DNA"]) == [RED, BLUE]
    True
    """
    if len(channels) == 1:
        return [(1.0, 1.0, 1.0)]
    chosen: dict[int, Hue] = {}
    for hue, words in _CUSTOMARY.items():
        fitting = [i for i, name in enumerate(channels) if any(word in name.lower() for word in words)]
        if fitting:
            chosen.setdefault(fitting[0], hue)
    left = [hue for hue in _HUES if hue not in chosen.values()]
    left += [colorsys.hsv_to_rgb(i / len(channels), 0.6, 1.0) for i in range(len(channels))]
    return [chosen[i] if i in chosen else left.pop(0) for i in range(len(channels))]


def spell_hue(hue: Hue) -> str:
    """Write a colour as pages do.

    >>> spell_hue((1.0, 0.5, 0.0))
    '#ff8000'
    """
    return "#" + "".join(f"{round(255 * part):02x}" for part in hue)


@dataclass(frozen=True)
class Tiles:
    """Cells as grey square tiles, row after row, `COLUMNS` across, on sheets of `PER_SHEET`.

    ``sheets[i][c]`` is sheet i in channel c, WebP in base64; `um_a_px` is µm a pixel of a tile, None if not known.
    """

    tile_px: int
    um_a_px: float | None
    sheets: tuple[tuple[str, ...], ...]


def pack_tiles(crops: CropStore, rows: Int[np.ndarray, " cell"]) -> Tiles:
    """Pack these crops, each channel by itself; tile i is crop ``rows[i]``."""
    tile_px = min(TILE_PX, crops.size_px)
    sheets = []
    for start in range(0, len(rows), PER_SHEET):
        shown = rows[start : start + PER_SHEET]
        light = _read_scaled(crops, shown)
        sheets.append(tuple(_pack_sheet(light[:, i], tile_px) for i in range(len(crops.channels))))
    um_a_px = None if crops.pixel_size_um is None else crops.pixel_size_um * crops.size_px / tile_px
    return Tiles(tile_px, um_a_px, tuple(sheets))


def _pack_sheet(light: Float[np.ndarray, "cell height width"], tile_px: int) -> str:
    grey = (np.clip(light, 0.0, 1.0) * 255).round().astype(np.uint8)
    num_rows = -(-len(grey) // COLUMNS)
    sheet = np.zeros((num_rows * COLUMNS, tile_px, tile_px), dtype=np.uint8)
    sheet[: len(grey)] = _resize(grey, tile_px)
    grid = sheet.reshape(num_rows, COLUMNS, tile_px, tile_px).swapaxes(1, 2)
    return _encode(grid.reshape(num_rows * tile_px, COLUMNS * tile_px))


@dataclass(frozen=True)
class Strip:
    """Some cells side by side in one channel (or all, coloured): its name and the picture, WebP in base64."""

    name: str
    picture: str
    num_cells: int


def colour_crops(
    crops: CropStore, rows: Int[np.ndarray, " cell"], hues: Sequence[Hue]
) -> UInt8[np.ndarray, "cell height width 3"]:
    """Show cells in all channels, each in its hue, with one contrast for all and without loss."""
    return _tint(_read_scaled(crops, rows), hues)


def make_strips(crops: CropStore, rows: Int[np.ndarray, " cell"], hues: Sequence[Hue]) -> list[Strip]:
    """Show the same cells once in each channel, grey, and once in all channels, coloured."""
    scaled = _read_scaled(crops, rows)
    tile_px = min(2 * TILE_PX, crops.size_px)
    white = [(1.0, 1.0, 1.0)]
    parts = [(name, _tint(scaled[:, i : i + 1], white)) for i, name in enumerate(crops.channels)]
    if len(crops.channels) > 1:
        parts.append(("together", _tint(scaled, hues)))
    return [_make_strip(name, _resize(pixels, tile_px)) for name, pixels in parts]


def cut_views(picture: bytes, channels: Sequence[str], hues: Sequence[Hue]) -> list[tuple[str, list[Strip]]]:
    """Cut the training's picture of views into strips: for each channel, and for all coloured, the crops and two views.

    Raises
    ------
    DataError
        It is not a picture of so many channels.
    """
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    px, rest = divmod(grey.shape[0], 3 * len(channels))
    if rest or px == 0 or grey.shape[1] % px:
        raise DataError(
            f"views.webp is {grey.shape[1]} x {grey.shape[0]} px, expected square tiles in three rows for each of "
            f"{len(channels)} channels. Delete it, and run the report again."
        )
    # [channel, row, height, cell, width] -> [row, cell, channel, height, width]
    tiles = grey.reshape(len(channels), 3, px, -1, px).transpose(1, 3, 0, 2, 4) / np.float32(255)
    names = ("crops", "a view", "another view")
    parts = [(name, tiles[:, :, i : i + 1], [(1.0, 1.0, 1.0)]) for i, name in enumerate(channels)]
    if len(channels) > 1:
        parts.append(("together", tiles, list(hues)))
    return [
        (part, [_make_strip(name, _tint(row, colours)) for name, row in zip(names, rows, strict=True)])
        for part, rows, colours in parts
    ]


def _make_strip(name: str, pixels: UInt8[np.ndarray, "cell height width 3"]) -> Strip:
    return Strip(name, _encode(np.concatenate(list(pixels), axis=1)), len(pixels))


def _read_scaled(crops: CropStore, rows: np.ndarray) -> Float[np.ndarray, "cell channel height width"]:
    scaled: np.ndarray = scale_crops(crops.read(rows), *crops.read_ranges(rows)) ** DISPLAY_GAMMA
    return scaled


def _tint(
    scaled: Float[np.ndarray, "cell channel height width"], hues: Sequence[Hue]
) -> UInt8[np.ndarray, "cell height width 3"]:
    """Add the channels, each in its colour."""
    light = np.einsum("nchw,cr->nhwr", scaled, np.array(hues, dtype=np.float32))
    pixels: np.ndarray = (np.clip(light, 0.0, 1.0) * 255).round().astype(np.uint8)
    return pixels


def _resize(
    pixels: UInt8[np.ndarray, "cell height width *rgb"], size_px: int
) -> UInt8[np.ndarray, "cell size size *rgb"]:
    if pixels.shape[1] == size_px:
        return pixels
    images = [Image.fromarray(one).resize((size_px, size_px), Image.Resampling.BOX) for one in pixels]
    return np.stack([np.asarray(image) for image in images])


def _encode(pixels: UInt8[np.ndarray, "height width *rgb"]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="WEBP", quality=82, method=4)
    return base64.b64encode(file.getvalue()).decode()
