"""Image files: what is read, what their headers tell, and what is refused."""

import contextlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import fsspec
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from cytoclr.data.images import ImageAbout, read_about, read_channel_names, read_field
from cytoclr.errors import DataError

PLANES = np.random.default_rng(5).integers(0, 1024, (3, 20, 30), dtype=np.uint16)


def write_field_group(
    group: Path | str,
    planes: np.ndarray,
    *,
    version: int = 2,
    axes: str = "cyx",
    labels: list[str] | None = None,
    scale_um: float | None = 0.5,
    unit: str = "micrometer",
) -> None:
    """Write one field as OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3), by hand."""
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": unit} if axis in "yx" else {}) for axis in axes
    ]
    level: dict = {"path": "0"}
    if scale_um is not None:
        scale = [scale_um if axis in "yx" else 1.0 for axis in axes]
        level["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
    attributes: dict = {"multiscales": [{"axes": described, "datasets": [level, {"path": "1"}]}]}
    if labels is not None:
        attributes["omero"] = {"channels": [{"label": label} for label in labels]}
    if version == 3:
        attributes = {"ome": {"version": "0.5", **attributes}}
    opened = zarr.open_group(str(group), mode="w", zarr_format=version)
    opened.attrs.update(attributes)
    array = opened.create_array("0", shape=planes.shape, chunks=planes.shape, dtype=planes.dtype)
    array[...] = planes


WRITERS: dict[str, Callable[[Path], None]] = {
    "plain": lambda path: tifffile.imwrite(path, PLANES[0]),
    "big-endian": lambda path: tifffile.imwrite(path, PLANES[0], byteorder=">"),
    "big-tiff": lambda path: tifffile.imwrite(path, PLANES[0], bigtiff=True),
    "lzw": lambda path: tifffile.imwrite(path, PLANES[0], compression="lzw"),
    "deflate-predictor": lambda path: tifffile.imwrite(path, PLANES[0], compression="deflate", predictor=True),
    "tiled": lambda path: tifffile.imwrite(path, PLANES[0], tile=(16, 16)),
    "tiled-lzw-big-endian": lambda path: tifffile.imwrite(
        path, PLANES[0], tile=(16, 16), compression="lzw", byteorder=">"
    ),
    "strips": lambda path: tifffile.imwrite(path, PLANES[0], rowsperstrip=3),
    "10-bit": lambda path: tifffile.imwrite(path, PLANES[0], bitspersample=10),
    "12-bit": lambda path: tifffile.imwrite(path, PLANES[0], bitspersample=12),
    "14-bit": lambda path: tifffile.imwrite(path, PLANES[0], bitspersample=14),
    "ome": lambda path: tifffile.imwrite(path, PLANES[0], ome=True),
    "imagej": lambda path: tifffile.imwrite(path, PLANES[0], imagej=True),
    "white-is-nought": lambda path: tifffile.imwrite(path, PLANES[0], photometric="miniswhite"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_grey_tiff_of_any_storage_is_the_same_pixels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    WRITERS[kind](path)
    field = read_field({"DNA": str(path)})
    np.testing.assert_array_equal(field[0], PLANES[0])
    assert field.dtype == np.dtype(np.uint16)
    assert field.dtype.isnative
    about = read_about(path)
    bits = int(kind.split("-")[0]) if kind.endswith("-bit") else 16
    assert (about.shape, about.dtype, about.bits, about.num_planes) == ((20, 30), np.uint16, bits, 1)


STACKS: dict[str, Callable[[Path], None]] = {
    "pages": lambda path: tifffile.imwrite(path, PLANES, photometric="minisblack", metadata=None),
    "shaped": lambda path: tifffile.imwrite(path, PLANES, photometric="minisblack"),
    "behind-one-page": lambda path: tifffile.imwrite(path, PLANES, photometric="minisblack", truncate=True),
    "behind-one-page-big-endian": lambda path: tifffile.imwrite(
        path, PLANES, photometric="minisblack", truncate=True, byteorder=">"
    ),
    "imagej": lambda path: tifffile.imwrite(path, PLANES, imagej=True, metadata={"axes": "CYX"}),
    "imagej-one-page": lambda path: tifffile.imwrite(
        path, PLANES, imagej=True, truncate=True, metadata={"axes": "CYX"}
    ),
    "ome": lambda path: tifffile.imwrite(path, PLANES, ome=True, metadata={"axes": "CYX"}, compression="deflate"),
    "ome-tiled-big": lambda path: tifffile.imwrite(
        path, PLANES, ome=True, metadata={"axes": "CYX"}, tile=(16, 16), bigtiff=True
    ),
}


@pytest.mark.parametrize("kind", STACKS)
def test_a_plane_of_several_is_the_one_asked_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stack.tif"
    STACKS[kind](path)
    opened = []
    real = tifffile.TiffFile
    monkeypatch.setattr(tifffile, "TiffFile", lambda *args, **words: opened.append(1) or real(*args, **words))
    field = read_field({"a": path, "b": path, "c": path}, {"a": 2, "b": 0, "c": 1})
    np.testing.assert_array_equal(field, PLANES[[2, 0, 1]])
    assert len(opened) == 1
    assert read_about(path).num_planes == 3
    with pytest.raises(DataError, match=r"3 page\(s\) of uint16 \(20, 30\)\. Expected one grey plane") as refusal:
        read_field({"a": path})
    assert refusal.value.code == "IMG004"
    with pytest.raises(DataError, match=r"3 plane\(s\), but number 3 was asked for, counted from 0"):
        read_field({"a": path}, {"a": 3})


def test_planes_of_files_and_files_of_one_plane_go_together(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "two.tif", PLANES[:2], photometric="minisblack")
    tifffile.imwrite(tmp_path / "one.tif", PLANES[2])
    paths = {"a": tmp_path / "two.tif", "b": tmp_path / "one.tif", "c": tmp_path / "two.tif"}
    np.testing.assert_array_equal(read_field(paths, {"a": 1, "c": 0}), PLANES[[1, 2, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_png(tmp_path: Path, dtype: type) -> None:
    plane = PLANES[0].astype(dtype)
    path = tmp_path / "a.PNG"
    path.write_bytes(imagecodecs.png_encode(plane))
    np.testing.assert_array_equal(read_field({"DNA": path})[0], plane)
    assert read_about(path) == ImageAbout((20, 30), np.dtype(dtype), plane.itemsize * 8, None, 1)
    assert read_channel_names(path) is None


def test_png_refusals(tmp_path: Path) -> None:
    whole = imagecodecs.png_encode(PLANES[0])
    palette = struct.pack(">IIBBBBB", 30, 20, 8, 3, 0, 0, 0)
    chunk = b"IHDR" + palette
    cases = {
        "rgb.png": (imagecodecs.png_encode(np.zeros((20, 30, 3), np.uint8)), "IMG004", r"RGB, 8 bit, \(20, 30\)"),
        "palette.png": (
            whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:],
            "IMG004",
            "palette, 8 bit",
        ),
        "cut.png": (whole[:-200], "IMG003", "cut short: .* bytes, its end is missing"),
        "html.png": (b"<html>", "IMG002", "not a readable PNG"),
        "stub.png": (whole[:20], "IMG002", "not a readable PNG"),
        "scrambled.png": (whole[:60] + b"\xff" * 40 + whole[100:], "IMG002", "not a readable PNG"),
    }
    for name, (content, code, match) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match) as refusal:
            read_field({"DNA": tmp_path / name})
        assert refusal.value.code == code, name
    with pytest.raises(DataError, match=r"nowhere\.png: no such image file"):
        read_field({"DNA": tmp_path / "nowhere.png"})


@pytest.mark.promise("Bad input", "Images that are not one grey plane of 8 or 16 bit are refused with what they are.")
def test_what_is_no_grey_plane_is_named(tmp_path: Path) -> None:
    grey = {"photometric": "minisblack"}
    cases: dict[str, tuple[np.ndarray, dict, str]] = {
        "rgb": (np.zeros((20, 30, 3), np.uint8), {"photometric": "rgb"}, r"RGB uint8 \(20, 30, 3\)"),
        "float": (np.zeros((20, 30), np.float32), grey, "of float32"),
        "signed": (np.zeros((20, 30), np.int16), grey, "of int16"),
        "long": (np.zeros((20, 30), np.uint32), grey, "of uint32"),
        "bits": (np.zeros((20, 30), bool), grey, "of bool"),
        "palette": (
            np.zeros((20, 30), np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "PALETTE uint8",
        ),
        "samples": (
            np.zeros((20, 30, 2), np.uint16),
            {**grey, "planarconfig": "contig", "extrasamples": ["unspecified"]},
            r"of .*uint16 \(20, 30, 2\)",
        ),
    }
    for name, (image, words, match) in cases.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, **words)
        for read in (lambda path=path: read_field({"DNA": path}, {"DNA": 0}), lambda path=path: read_about(path)):
            with pytest.raises(DataError, match=rf"{match}.*Expected one grey plane") as refusal:
                read()
            assert refusal.value.code == "IMG004"


@pytest.mark.promise(
    "Bad input", "Truncated, empty and HTML files that are called .tif are refused, each with its code."
)
def test_what_is_missing_or_broken_has_its_code(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "good.tif", PLANES[0])
    whole = (tmp_path / "good.tif").read_bytes()
    tail_first = struct.pack("<2sHI", b"II", 42, 5000) + bytes(100)
    cases = {
        "html.tif": (b"<html>not found</html>", "IMG002", "not a readable TIFF"),
        "empty.tif": (b"", "IMG002", "not a readable TIFF"),
        "half.tif": (whole[:700], "IMG003", r"cut short: 700 bytes, its header expects 1,\d+"),
        "no-pages.tif": (tail_first, "IMG003", r"cut short: 108 bytes, its header begins its list of pages at 5,000"),
    }
    for name, (content, code, match) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match) as refusal:
            read_field({"DNA": tmp_path / name})
        assert refusal.value.code == code, name
    with pytest.raises(DataError, match="no such image file") as refusal:
        read_field({"DNA": tmp_path / "nowhere.tif"})
    assert refusal.value.code == "IMG001"
    with pytest.raises(DataError, match=r"a folder\. Expected an image file"):
        read_field({"DNA": tmp_path})


@pytest.mark.parametrize("kind", ["behind-one-page", "imagej", "imagej-one-page", "ome", "ome-tiled-big"])
@pytest.mark.promise("Bad input", "A stack with a garbled header is a sentence.")
def test_a_stack_whose_header_is_garbage_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    STACKS[kind](path)
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    for place in rng.integers(4, min(len(whole), 900), 60):
        path.write_bytes(whole[:place] + rng.bytes(2) + whole[place + 2 :])
        with contextlib.suppress(DataError):
            read_about(path)
        with contextlib.suppress(DataError):
            read_field({"a": path}, {"a": 2})


@pytest.mark.promise("Bad input", "Tiles that would fill the memory are refused before any is read.")
def test_tiles_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    WRITERS["tiled-lzw-big-endian"](path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["TileWidth"].overwrite(2**31 - 16, dtype="I")
    with pytest.raises(DataError, match=r"more than any camera takes") as refusal:
        read_field({"DNA": path})
    assert refusal.value.code == "IMG002"


@pytest.mark.promise("Bad input", "A piece of an image that was never written is not taken for black.")
def test_a_piece_that_was_never_written_is_not_black(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, PLANES[0], rowsperstrip=5)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
        tag.overwrite([300, 0, 300, 300])
    with pytest.raises(DataError, match="some of its pieces were never written") as refusal:
        read_field({"DNA": path})
    assert refusal.value.code == "IMG003"


def test_a_stack_cut_within_its_planes(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    STACKS["behind-one-page"](path)
    path.write_bytes(path.read_bytes()[:-600])
    np.testing.assert_array_equal(read_field({"a": path}, {"a": 1})[0], PLANES[1])
    with pytest.raises(DataError, match=r"cut short: .* its header expects"):
        read_field({"a": path}, {"a": 2})


@pytest.mark.promise("Bad input", "Channels of other size or depth than the first are named.")
def test_size_and_type_must_agree(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0])
    tifffile.imwrite(tmp_path / "small.tif", PLANES[0, :, 1:])
    tifffile.imwrite(tmp_path / "bytes.tif", PLANES[0].astype(np.uint8))
    for name, code, match in (
        ("small.tif", "IMG005", r"Actin is uint16 \(20, 29\), but DNA is uint16 \(20, 30\)"),
        ("bytes.tif", "IMG006", r"Actin is uint8 \(20, 30\), but DNA is uint16 \(20, 30\)"),
    ):
        with pytest.raises(DataError, match=match) as refusal:
            read_field({"DNA": tmp_path / "a.tif", "Actin": tmp_path / name})
        assert refusal.value.code == code


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "czyx"])
def test_the_group_of_a_field(tmp_path: Path, version: int, axes: str) -> None:
    group = tmp_path / "plate.zarr" / "B" / "02" / "0"
    planes = PLANES.reshape([{"c": 3, "y": 20, "x": 30}.get(axis, 1) for axis in axes])
    write_field_group(group, planes, version=version, axes=axes, labels=["DNA", "", "Actin"])
    np.testing.assert_array_equal(read_field({"a": group, "b": str(group)}, {"a": 2, "b": 0}), PLANES[[2, 0]])
    assert read_about(group) == ImageAbout((20, 30), np.dtype(np.uint16), 16, 0.5, 3)
    assert read_channel_names(group) == ["DNA", "channel_1", "Actin"]
    with pytest.raises(DataError, match=r"3 page\(s\) of uint16"):
        read_field({"a": group})


def test_a_group_of_two_axes_has_one_plane(tmp_path: Path) -> None:
    write_field_group(tmp_path / "a.zarr", PLANES[0].astype(">u2"), axes="yx", scale_um=None)
    field = read_field({"DNA": tmp_path / "a.zarr"})
    np.testing.assert_array_equal(field[0], PLANES[0])
    assert field.dtype.isnative
    assert read_about(tmp_path / "a.zarr").pixel_size_um is None
    assert read_channel_names(tmp_path / "a.zarr") is None


def test_zarr_units(tmp_path: Path) -> None:
    write_field_group(tmp_path / "a.zarr", PLANES, scale_um=325.0, unit="nanometer")
    assert read_about(tmp_path / "a.zarr").pixel_size_um == pytest.approx(0.325)


def test_zarr_refusals(tmp_path: Path) -> None:
    write_field_group(tmp_path / "z.zarr", np.zeros((3, 2, 5, 5), np.uint16), axes="czyx")
    write_field_group(tmp_path / "t.zarr", np.zeros((3, 2, 5, 5), np.uint16), axes="tcyx")
    write_field_group(tmp_path / "float.zarr", np.zeros((2, 5, 5), np.float32))
    write_field_group(tmp_path / "order.zarr", np.zeros((5, 5, 2), np.uint16), axes="yxc")
    write_field_group(tmp_path / "gone.zarr", PLANES)
    (tmp_path / "gone.zarr/0/.zarray").unlink()
    write_field_group(tmp_path / "bad.zarr", PLANES)
    (tmp_path / "bad.zarr/.zattrs").write_text("{")
    write_field_group(tmp_path / "chunk.zarr", PLANES)
    (tmp_path / "chunk.zarr/0/0.0.0").write_bytes(b"xx")
    write_field_group(tmp_path / "leaves.zarr", PLANES)
    attributes = (tmp_path / "leaves.zarr/.zattrs").read_text()
    (tmp_path / "leaves.zarr/.zattrs").write_text(attributes.replace('"path": "0"', '"path": "../bad.zarr/0"'))
    zarr.open_group(str(tmp_path / "plate.zarr"), mode="w", zarr_format=3).attrs["ome"] = {"plate": {}}
    cases = {
        "z": ("IMG004", "2 z-planes. Expected one: project"),
        "t": ("IMG004", "3 times. Expected one"),
        "float": ("IMG004", r"float32 \(2, 5, 5\). Expected grey planes"),
        "order": ("IMG004", "its axes are y, x, c"),
        "gone": ("IMG001", "no array 0 in this group"),
        "bad": ("IMG002", "not readable metadata"),
        "chunk": ("IMG002", "its pixels cannot be read"),
        "leaves": ("NAME006", "leaves the group"),
        "plate": ("IMG002", "name no image"),
        "nowhere": ("IMG001", "no such OME-Zarr group"),
    }
    for name, (code, match) in cases.items():
        with pytest.raises(DataError, match=match) as refusal:
            read_field({"a": tmp_path / f"{name}.zarr"}, {"a": 0})
        assert refusal.value.code == code, name


def test_images_by_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, write in {"a.tif": WRITERS["lzw"], "stack.tif": STACKS["ome"]}.items():
        write(tmp_path / name)
        memory.pipe_file(f"/images/{name}", (tmp_path / name).read_bytes())
    memory.pipe_file("/images/a.png", imagecodecs.png_encode(PLANES[2]))
    write_field_group(tmp_path / "a.zarr", PLANES, labels=["x", "y", "z"])
    for file in (tmp_path / "a.zarr").rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/images/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    at = "memory://images"
    field = read_field(
        {"a": f"{at}/a.tif", "b": f"{at}/stack.tif", "c": f"{at}/a.png", "d": f"{at}/a.zarr"}, {"b": 1, "d": 2}
    )
    np.testing.assert_array_equal(field, PLANES[[0, 1, 2, 2]])
    assert read_channel_names(f"{at}/a.zarr") == ["x", "y", "z"]
    with pytest.raises(DataError, match=r"nowhere\.tif: no such file") as refusal:
        read_field({"a": f"{at}/nowhere.tif"})
    assert refusal.value.code == "IMG001"
    memory.pipe_file("/images/cut.tif", (tmp_path / "a.tif").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"cut\.tif: cut short"):
        read_field({"a": f"{at}/cut.tif"})


def test_ome_xml_tells_channels_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    told = {
        "axes": "CYX",
        "Channel": {"Name": ["DNA", "ER", "Actin"]},
        "PhysicalSizeX": 299.0,
        "PhysicalSizeXUnit": "nm",
    }
    tifffile.imwrite(path, PLANES, ome=True, metadata=told)
    assert read_channel_names(path) == ["DNA", "ER", "Actin"]
    about = read_about(path)
    assert about.pixel_size_um == pytest.approx(0.299)
    assert about.num_planes == 3
    tifffile.imwrite(path, PLANES, photometric="minisblack")
    assert read_channel_names(path) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"imagej": True, "resolution": (2.0, 2.0), "metadata": {"unit": "um"}}, 0.5),
        ({"imagej": True, "resolution": (4.0, 4.0), "metadata": {"unit": "\\u00B5m"}}, 0.25),
        ({"imagej": True, "resolution": (2.0, 2.0), "metadata": {"unit": "pixel"}}, None),
        ({"resolution": (10_000 / 0.65, 10_000 / 0.65), "resolutionunit": "CENTIMETER"}, 0.65),
        ({"resolution": (25_400 / 0.65, 25_400 / 0.65), "resolutionunit": "INCH"}, 0.65),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (1, 1), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_a_pixels_size_where_it_is_told_sensibly(tmp_path: Path, words: dict, expected: float | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0], **words)
    assert read_about(tmp_path / "a.tif").pixel_size_um == (expected and pytest.approx(expected, rel=1e-4))


def test_a_pixels_size_as_imagexpress_notes_it(tmp_path: Path) -> None:
    xml = (
        '<MetaData><PlaneInfo><prop id="spatial-calibration-state" type="bool" value="on"/>'
        '<prop id="spatial-calibration-x" type="float" value="0.656"/>'
        '<prop id="spatial-calibration-units" type="string" value="um"/></PlaneInfo></MetaData>'
    )
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0], description=xml, metadata=None, software="MetaSeries")
    assert read_about(tmp_path / "a.tif").pixel_size_um == pytest.approx(0.656)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels>'
    '<Channel Name="&b;"/></Pixels></Image></OME>'
)


@pytest.mark.promise("Nobody let in", "OME-XML with entities or a DTD is refused")
def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "one.tif", PLANES[0], description=BOMB, metadata=None)
    tifffile.imwrite(tmp_path / "many.tif", PLANES, photometric="minisblack", description=BOMB, metadata=None)
    np.testing.assert_array_equal(read_field({"a": tmp_path / "one.tif"})[0], PLANES[0])  # pixels need no XML
    for read in (
        lambda: read_channel_names(tmp_path / "one.tif"),
        lambda: read_about(tmp_path / "one.tif"),
        lambda: read_field({"a": tmp_path / "many.tif"}, {"a": 1}),
    ):
        with pytest.raises(DataError, match="its XML has a DOCTYPE"):
            read()


@pytest.mark.promise("Nobody let in", "The OME-XML of an image opens no other file")
def test_the_xml_of_a_file_opens_no_other(tmp_path: Path) -> None:
    """Of an OME series over two files, a file's planes are its own."""
    pixels = "".join(
        f'<TiffData FirstC="{number}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID>'
        "</TiffData>"
        for number, name in enumerate(["a.ome.tif", "b.ome.tif"])
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" '
        f'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="C:0" Name="DNA"/><Channel ID="C:1" Name="ER"/>{pixels}'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANES[:2], photometric="minisblack", description=xml, metadata=None)
    np.testing.assert_array_equal(read_field({"a": tmp_path / "a.ome.tif"}, {"a": 1})[0], PLANES[1])
    assert read_about(tmp_path / "a.ome.tif").num_planes == 2


def test_a_header_tells_without_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((2000, 2000), np.uint16))
    read_about(path)
    tracemalloc.start()
    read_about(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.real_data
def test_real_fields(real_data: Path) -> None:
    """MetaMorph's calibration is read; Phenix' resolution tag, which says 164 µm, is not believed."""
    field = next((real_data / "bbbc021/fields").rglob("*_B02_s1_w1*.tif"))
    assert read_about(field) == ImageAbout((1024, 1280), np.dtype(np.uint16), 16, 0.496296, 1)
    phenix = next((real_data / "pediatric_cancer_atlas/images").rglob("*-ch5*.tiff"))
    assert read_about(phenix) == ImageAbout((1080, 1080), np.dtype(np.uint16), 16, None, 1)
    np.testing.assert_array_equal(read_field({"DNA": phenix})[0], tifffile.imread(phenix))
