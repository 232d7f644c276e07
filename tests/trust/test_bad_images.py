"""Images that are damaged, or are none: each is a sentence, whatever its bytes; a plane is never made up."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cytoclr.data.images import read_field
from cytoclr.data.masks import read_mask
from cytoclr.errors import DataError

PLANE = np.arange(1, 40 * 48 + 1, dtype=np.uint16).reshape(40, 48)
#: How many damaged files are tried; more of them try more.
MUTANTS = int(os.environ.get("CYTOCLR_MUTANTS", "300"))
#: What a process that reads them may take.
MEMORY_BYTES = 4 * 2**30

#: Reads what it is told under a limit of memory, and tells what came of each file, as JSON.
READ_UNDER_LIMIT = """
import collections, json, logging, resource, sys, time
from collections.abc import Callable
from pathlib import Path
from cytoclr.data.images import read_about, read_channel_names, read_field
from cytoclr.data.masks import read_mask
from cytoclr.errors import DamagedError, DataError, MachineError

limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
logging.disable(logging.CRITICAL)
found, wrong, slowest = collections.Counter(), [], 0.0
for path in sorted(Path(sys.argv[2]).iterdir()):
    plane = {"DNA": 1} if path.name.startswith("stack") else None
    for read in (lambda: read_field({"DNA": path}, plane), lambda: read_about(path), lambda: read_mask(path),
                 lambda: read_channel_names(path)):
        start = time.monotonic()
        try:
            read()
            found["read"] += 1
        except (DamagedError, DataError, MachineError) as error:
            found["refused"] += 1
            if path.name not in str(error):
                wrong.append(f"{path.name} is not named: {error}")
        except Exception as error:
            wrong.append(f"{path.name}: {type(error).__name__} {error}")
        slowest = max(slowest, time.monotonic() - start)
print(json.dumps({"found": found, "wrong": wrong, "slowest_s": slowest}))
"""


def read_under_limit(folder: Path, memory_bytes: int = MEMORY_BYTES) -> dict[str, Any]:
    """Read all files of a folder in a process of its own; it may neither crash nor hang."""
    done = subprocess.run(
        [sys.executable, "-c", READ_UNDER_LIMIT, str(memory_bytes), str(folder)],
        capture_output=True,
        text=True,
        timeout=60 + MUTANTS / 10,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def encode(pixels: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file.getvalue()


def encode_all() -> dict[str, bytes]:
    stack = np.stack([PLANE, PLANE + 1, PLANE + 2])
    return {
        "plain": encode(PLANE),
        "bytes": encode(PLANE.astype(np.uint8)),
        "lzw": encode(PLANE, compression="lzw"),
        "deflate": encode(PLANE, compression="deflate", predictor=True),
        "zstd": encode(PLANE, compression="zstd"),
        "tiled": encode(PLANE, tile=(16, 16), compression="lzw"),
        "strips": encode(PLANE, rowsperstrip=7),
        "big": encode(PLANE, bigtiff=True, byteorder=">"),
        "stack-ome": encode(stack, ome=True, metadata={"axes": "CYX", "Channel": {"Name": list("abc")}}),
        "stack-imagej": encode(stack, imagej=True),
    }


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, insert, delete and overwrite, mostly where headers are."""
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(min(len(damaged), 700) if rng.random() < 0.7 else len(damaged)))
        length = int(rng.integers(1, 9))
        match rng.integers(5):
            case 0 | 1:
                damaged[place] ^= 1 << int(rng.integers(8))
            case 2:
                damaged[place:place] = rng.bytes(length)
            case 3:
                del damaged[place : place + length]
            case 4:
                damaged[place : place + 4] = (b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f")[rng.integers(3)]
    return bytes(damaged)


@pytest.mark.promise("Bad input", "A TIFF with damaged bytes is read or refused with its name: no crash, no hang.")
def test_damaged_tiffs_are_read_or_refused(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    rng = np.random.default_rng(11)
    kinds = encode_all()
    for number in range(MUTANTS):
        kind = list(kinds)[number % len(kinds)]
        (tmp_path / f"{kind}-{number:06d}.tif").write_bytes(damage(kinds[kind], rng))
    result = read_under_limit(tmp_path)
    record_property("mutants", MUTANTS)
    assert result["wrong"] == []
    assert sum(result["found"].values()) == 4 * MUTANTS
    assert min(result["found"]["read"], result["found"]["refused"]) > MUTANTS / 4  # both happen, or nothing was tried
    assert result["slowest_s"] < 20


@pytest.mark.promise(
    "Bad input", "A header that claims 1,000,000 x 1,000,000 pixels is refused before memory is taken."
)
@pytest.mark.parametrize("kind", ["plain", "lzw", "tiled", "big", "stack-ome"])
def test_a_bomb_of_a_header_takes_no_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.tif"
    path.write_bytes(encode_all()[kind])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(1_000_000, dtype="I")
    result = read_under_limit(tmp_path, memory_bytes=2 * 2**30)
    assert result["wrong"] == []
    assert result["found"]["refused"] >= 3  # the names of channels can be told without the pixels
    with pytest.raises(DataError, match="more than any camera takes") as refusal:
        read_field({"DNA": path}, {"DNA": 0})
    assert refusal.value.code == "IMG002"


@pytest.mark.promise("Bad input", "Pieces of an image that its file lacks are never taken for black.")
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("piece", [{"rowsperstrip": 8}, {"tile": (16, 16)}])
def test_pieces_that_are_not_there_are_not_black(tmp_path: Path, compression: str | None, piece: dict) -> None:
    path = tmp_path / "tall.tif"
    tifffile.imwrite(path, PLANE, compression=compression, **piece)
    assert read_mask(path).tolist() == read_field({"DNA": path})[0].tolist() == PLANE.tolist()
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(400)
    with pytest.raises(DataError, match=r"tall\.tif: cut short: \d+ of its \d+ pieces are there") as refusal:
        read_field({"DNA": path})
    assert refusal.value.code == "IMG003"
    with pytest.raises(DataError, match=r"tall\.tif: not a readable mask \(cut short: \d+ of its"):
        read_mask(path)


@pytest.mark.promise("Bad input", "Pixels are not read from what follows them in the file.")
def test_what_follows_the_pixels_is_no_pixel(tmp_path: Path) -> None:
    path = tmp_path / "tall.tif"
    path.write_bytes(encode(PLANE) + bytes(4096))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[tag].overwrite(50)
    with pytest.raises(DataError, match=r"cut short: 3,840 bytes of pixels, expected 4,800") as refusal:
        read_field({"DNA": path})
    assert refusal.value.code == "IMG003"


@pytest.mark.promise("Bad input", "A mask with a damaged header is a sentence.")
def test_a_mask_of_no_length_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    for tag, value in (("ImageLength", 0), ("RowsPerStrip", 0), ("BitsPerSample", 0), ("ImageWidth", 0)):
        tifffile.imwrite(path, PLANE, compression="lzw")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags[tag].overwrite(value)
        with pytest.raises(DataError, match=r"mask\.tif"):
            read_mask(path)
