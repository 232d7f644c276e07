"""Draw views of cells of the virtual screen: ``python docs/draw_views.py`` writes ``docs/images/views.png``.

Two cells, a row each per preset: the crop itself, then views of it. Red is actin, green tubulin, blue DNA.
"""

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image, ImageDraw

from cytoclr import pipeline
from cytoclr.config import AugmentSettings, check_settings
from cytoclr.data.crops import CropStore
from cytoclr.learn.augment import Augmenter
from cytoclr.learn.minibatch import Minibatch, prepare_crops

PATH = Path(__file__).parent / "images" / "views.png"
CROP_PX, VIEW_PX, ZOOM, GAP_PX = 64, 64, 2, 6
NUM_CELLS, NUM_VIEWS = 2, 8
PRESETS = get_args(AugmentSettings.model_fields["preset"].annotation)


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        minibatch = cut_cells(Path(folder))
    PATH.parent.mkdir(exist_ok=True)
    draw_picture(minibatch).quantize(128).save(PATH, optimize=True)


def cut_cells(folder: Path) -> Minibatch:
    """Simulate two small plates and take some cells of different wells."""
    screen = {"num_mechanisms": 2, "compounds_per_mechanism": 2, "num_batches": 2, "plates_per_batch": 1}
    values = {"screen": {"reader": "virtual", **screen}, "crop": {"size_px": CROP_PX, "overlays": 0}}
    pipeline.crop(check_settings(values, source="docs/draw_views.py", folder=folder), folder / "run")
    crops = CropStore(folder / "run" / "crops")
    rows = np.linspace(0, len(crops) - 1, NUM_CELLS + 2).astype(np.int64)[1:-1]
    low, high = crops.read_ranges(rows)
    return Minibatch(*map(torch.from_numpy, (rows, crops.read(rows), low, high)))


def draw_picture(minibatch: Minibatch) -> Image.Image:
    """Lay crops and views out: a block of rows for each preset, under its name."""
    step, head = VIEW_PX * ZOOM + GAP_PX, 22
    block = head + NUM_CELLS * step
    picture = Image.new("RGB", ((NUM_VIEWS + 1) * step + 2 * GAP_PX, len(PRESETS) * block), "white")
    pen = ImageDraw.Draw(picture)
    for number, preset in enumerate(PRESETS):
        pen.text((0, number * block + 5), f"preset: {preset}  (left: the crops)", fill="black", font_size=14)
        for row, images in enumerate(draw_rows(minibatch, preset)):
            for column, image in enumerate(images):
                left = column * step + 2 * GAP_PX * (column > 0)
                picture.paste(paint(image), (left, number * block + head + row * step))
    return picture


def draw_rows(minibatch: Minibatch, preset: str) -> torch.Tensor:
    """For each cell, its crop and its views."""
    augmenter = Augmenter(AugmentSettings(preset=preset), view_size_px=VIEW_PX, transform="sqrt", seed=0)
    pairs = [augmenter.draw_pair(minibatch, epoch=epoch) for epoch in range(NUM_VIEWS // 2)]
    return torch.cat([prepare_crops(minibatch, "sqrt")[None], *pairs]).transpose(0, 1)


def paint(image: torch.Tensor) -> Image.Image:
    """Show DNA, tubulin and actin as blue, green and red."""
    colours = image.flip(0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(colours.numpy()).resize((VIEW_PX * ZOOM, VIEW_PX * ZOOM), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
