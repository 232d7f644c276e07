"""Arrays and tables from strangers: nothing is unpickled, no other file is read, no memory is taken for a claim."""

import contextlib
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import tifffile
import toys

from cytoclr.data.files import read_any_table
from cytoclr.data.illumination import read_illumination
from cytoclr.data.locations import read_locations
from cytoclr.data.masks import read_mask
from cytoclr.data.profiles import read_profiles
from cytoclr.data.readers.loaddata import read_loaddata
from cytoclr.data.readers.scportrait import read_h5sc_channels, read_h5sc_crops
from cytoclr.errors import DataError

SECTION = "Nobody let in"
PROFILES = pd.DataFrame({"Metadata_Plate": ["P"] * 3, "Metadata_Well": ["B02", "B03", "B04"], "f": [1.0, 2.0, 3.0]})


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.target}'",)


def write_head(shape: str, dtype: str = "<f8") -> bytes:
    """Write the head of an array that is not there."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def write_npz(folder: Path, features: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write what a stranger calls DeepProfiler's features of a site."""
    path = folder / "P/B02/1.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("features.npy", features)
    return folder


def save(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


#: An array's bytes, and what is said of them.
ARRAYS: dict[str, tuple[bytes, str]] = {
    "a terabyte of doubles": (write_head("(125000000000,)"), "bytes, and has"),
    "more than any machine has": (write_head("(99999999999999, 99999999999999)"), "bytes, and has"),
    "less than nothing": (write_head("(-5, 4)"), "array|bytes"),
    "a head without end": (b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{" * 100, "."),
    "a head of brackets": (b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000, "."),
    "code for a head": (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('false')", "."),
    "cut short": (save(np.ones(100))[:-10], "cut short|bytes"),
    "nothing": (b"", "."),
}  # fmt: skip


@pytest.mark.promise(
    SECTION, "An array whose head claims a trillion numbers, or is none, is refused before memory is taken"
)
@pytest.mark.parametrize(("content", "match"), ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_that_lie(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(DataError, match=rf"1\.npz: its features cannot be read \(.*{match}"):
        read_profiles(write_npz(tmp_path / "features", content))
    place = tmp_path / "light.npy"
    place.write_bytes(content)
    with pytest.raises(DataError, match=r"light\.npy: not a readable illumination function"):
        read_illumination({"DNA": str(place)}, (4, 4))
    with pytest.raises(DataError, match=r"light\.npy: not a readable mask"):
        read_mask(place)


@pytest.mark.promise(SECTION, "Objects in .npy and .npz files are never unpickled")
def test_pickled_arrays(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    content = save(np.array([Exploit(ran)], dtype=object))
    with pytest.raises(DataError, match="pickled objects, which could run anything"):
        read_profiles(write_npz(tmp_path / "features", content))
    place = tmp_path / "light.npy"
    for hostile in (content, pickle.dumps(Exploit(ran))):
        place.write_bytes(hostile)
        with pytest.raises(DataError, match="not a readable illumination function"):
            read_illumination({"DNA": str(place)}, (4, 4))
        with pytest.raises(DataError, match="not a readable mask"):
            read_mask(place)
    assert not ran.exists()
    np.load(io.BytesIO(content), allow_pickle=True)  # what was tried does run where it is let in
    assert ran.exists()


@pytest.mark.promise(SECTION, "An .npz that unpacks to far more than it is, is refused before it is unpacked")
def test_npz_bombs(tmp_path: Path) -> None:
    folder = write_npz(tmp_path, save(np.zeros((10_000_000,))), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"would unpack to 80,000,128; at most 200 times"):
        read_profiles(folder)


#: What of an HDF5 file is put in another way.
Change = Callable[[h5py.File, str, Path], None]


def link(file: h5py.File, name: str, other: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(other), name)


def link_by_way_of_a_group(file: h5py.File, name: str, other: Path) -> None:
    del file[name]
    file["elsewhere"] = h5py.ExternalLink(str(other), "/")
    file[name] = h5py.SoftLink(f"/elsewhere/{name}")


def store_elsewhere(file: h5py.File, name: str, other: Path) -> None:
    shape, about = file[name].shape, dict(file[name].attrs)
    del file[name]
    stored = file.create_dataset(name, shape=shape, dtype="f8", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
    stored.attrs.update(about)


def map_elsewhere(file: h5py.File, name: str, other: Path) -> None:
    shape, about = file[name].shape, dict(file[name].attrs)
    del file[name]
    layout = h5py.VirtualLayout(shape=shape, dtype="f8")
    layout[...] = h5py.VirtualSource(str(other), name, shape=shape)
    file.create_virtual_dataset(name, layout).attrs.update(about)


def claim_terabytes(file: h5py.File, name: str, other: Path) -> None:
    about, ndim = dict(file[name].attrs), file[name].ndim
    del file[name]
    shape = (10**6, 10**7) if ndim == 2 else (10**8, 3, 24, 24)
    file.create_dataset(name, shape=shape, dtype="f8", chunks=(10, 3, 24, 24)[:ndim]).attrs.update(about)


CHANGES = (link, link_by_way_of_a_group, store_elsewhere, map_elsewhere, claim_terabytes)


def write_h5ad(path: Path, matrix: Any) -> Path:
    obs = PROFILES.drop(columns="f").set_axis(["a", "b", "c"], axis="index")
    anndata.AnnData(X=matrix, obs=obs, var=pd.DataFrame(index=["f", "g", "h"])).write_h5ad(path)
    return path


@pytest.mark.promise(
    SECTION, "HDF5 that reaches into other files, or claims terabytes, is refused: AnnData, scPortrait"
)
@pytest.mark.parametrize("change", CHANGES)
def test_hdf5_stays_in_its_file(tmp_path: Path, change: Change) -> None:
    path, other = write_h5ad(tmp_path / "a.h5ad", np.eye(3)), write_h5ad(tmp_path / "other.h5ad", np.eye(3))
    assert read_profiles(path)["f"].tolist() == [1.0, 0.0, 0.0]
    with h5py.File(path, "a") as file:
        change(file, "X", other)
    expected = "it says it holds" if change is claim_terabytes else "nothing but this file is read"
    with pytest.raises(DataError, match=rf"a\.h5ad: not a readable AnnData file .*{expected}"):
        read_profiles(path)
    toys.write_h5sc(toys.draw_toy(), tmp_path)
    crops = tmp_path / "P1_B02.h5sc"
    assert read_h5sc_crops(crops, np.array([0]), ["DNA"]).any()
    with h5py.File(crops, "a") as file:
        change(file, "obsm/single_cell_images", tmp_path / "P1_B03.h5sc")
    for read in (lambda: read_h5sc_channels(crops), lambda: read_h5sc_crops(crops, np.array([0]), ["DNA"])):
        with pytest.raises(DataError, match=rf"P1_B02\.h5sc: not a readable HDF5 file .*{expected}") as refused:
            read()
        assert refused.value.code == "CROP001"


@pytest.mark.promise(
    SECTION, "A sparse matrix whose indices lead out of it is refused, where SciPy would crash or overwrite"
)
@pytest.mark.parametrize(("part", "value"), [("indices", 10**8), ("indices", -5), ("indptr", 10**6)])
def test_sparse_matrices(tmp_path: Path, part: str, value: int) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(np.eye(3)))
    assert read_profiles(path)["f"].tolist() == [1.0, 0.0, 0.0]
    with h5py.File(path, "a") as file:
        file[f"X/{part}"][1] = value
    with pytest.raises(DataError, match=r"a\.h5ad: not a readable AnnData file"):
        read_profiles(path)


@pytest.mark.promise(SECTION, "A sparse matrix that would be written out to terabytes is refused")
def test_a_huge_sparse_matrix(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", scipy.sparse.csr_matrix(np.eye(3)))
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = np.array([3, 10**12])
    with pytest.raises(DataError, match=r"X would take 24,000,000,000,000 bytes"):
        read_profiles(path)


@pytest.mark.promise(SECTION, "AnnData of other parts than tables and a matrix is a sentence")
@pytest.mark.filterwarnings("ignore:Element:Warning")
@pytest.mark.parametrize("part", ["obs", "var", "X"])
@pytest.mark.parametrize("value", [3, "text", np.ones(2)])
def test_odd_anndata(tmp_path: Path, part: str, value: Any) -> None:
    path = write_h5ad(tmp_path / "a.h5ad", np.eye(3))
    with h5py.File(path, "a") as file:
        del file[part]
        file[part] = value
    with pytest.raises(DataError, match=r"a\.h5ad: not a readable AnnData file"):
        read_profiles(path)


def write_parquet(path: Path, about: object = None, field: dict[bytes, bytes] | None = None) -> Path:
    table = pa.Table.from_pandas(PROFILES, preserve_index=False)
    if about is not None:
        table = table.replace_schema_metadata({b"pandas": json.dumps(about).encode()})
    if field is not None:
        table = table.cast(table.schema.set(2, table.schema.field(2).with_metadata(field)))
    pq.write_table(table, path)
    return path


@pytest.mark.promise(
    SECTION, "What a Parquet file notes for pandas or Arrow runs nothing, and odd notes are a sentence"
)
@pytest.mark.parametrize(
    "about",
    [
        {"index_columns": ["gone"], "columns": []},
        {"index_columns": [{"kind": "range", "start": 0, "stop": 10**12, "step": 1}], "columns": []},
        {"index_columns": [], "columns": [{"name": "f", "numpy_type": "os.system", "metadata": None}]},
        {"index_columns": [], "columns": [], "column_indexes": [{"name": None, "pandas_type": "x", "numpy_type": "y"}]},
        [1],
    ],
)  # fmt: skip
def test_notes_for_pandas(tmp_path: Path, about: object) -> None:
    path = write_parquet(tmp_path / "a.parquet", about)
    with contextlib.suppress(DataError):  # or nothing is read of it
        assert len(read_any_table(path)) == 3
    row = {"Metadata_Plate": ["P"], "Metadata_Well": ["B02"], "Metadata_Site": ["1"], "FileName_DNA": ["a.tif"]}
    table = pa.table(row).replace_schema_metadata({b"pandas": json.dumps(about).encode()})
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "a.tif").touch()
    sites, _ = read_loaddata(str(tmp_path / "t.parquet"))
    assert len(sites) == 1


@pytest.mark.promise(SECTION, "A pickled type in a Parquet file (CVE-2023-47248) is not unpickled")
def test_pickled_types(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    field = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Exploit(ran)),
    }
    path = write_parquet(tmp_path / "a.parquet", field=field)
    assert read_any_table(path)["f"].tolist() == [1.0, 2.0, 3.0]
    assert not ran.exists()


@pytest.mark.promise(
    SECTION, "A table of a few bytes that unpacks to millions of rows is refused: Parquet, gzipped CSV"
)
def test_tables_that_unpack_without_end(tmp_path: Path) -> None:
    part = pa.table(
        {
            "Metadata_Plate": pa.array(["P"]).take(pa.array(np.zeros(10**7, np.int8))),
            "x": np.zeros(10**7),
            "y": np.zeros(10**7),
        }
    )
    pq.write_table(part, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet table \(it says it has 10,000,000 rows"):
        read_any_table(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"it says it has 10,000,000 rows"):
        read_locations(tmp_path / "a.parquet")
    with gzip.open(tmp_path / "a.csv.gz", "wb") as file:
        file.write(b"Metadata_Plate,x\n")
        for _ in range(80):
            file.write(b"P,0\n" * 2**18)
    assert (tmp_path / "a.csv.gz").stat().st_size < 200_000
    with pytest.raises(DataError, match=r"a\.csv\.gz: not a readable CSV table \(.* bytes that unpack to more than"):
        read_any_table(tmp_path / "a.csv.gz")


BOMB = (
    '{}<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">'
    '<!ENTITY c SYSTEM "file:///etc/passwd">]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="I:0"><Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" SizeC="2" SizeZ="1" '
    'SizeT="1"><Channel ID="C:0" Name="&b;"/></Pixels></Image></OME>'
)


@pytest.mark.promise(
    SECTION, "XML with entities or a DTD is refused wherever TIFFs are read: images, masks, illumination"
)
@pytest.mark.parametrize("start", ["", "\ufeff", " \n"])
def test_xml_of_masks_and_illumination(tmp_path: Path, start: str) -> None:
    place = tmp_path / "a.ome.tif"
    xml = BOMB.format(start).encode()
    tifffile.imwrite(place, np.ones((2, 8, 8), np.uint16), photometric="minisblack", description=xml, metadata=None)
    for read in (lambda: read_mask(place), lambda: read_illumination({"DNA": str(place)}, (8, 8))):
        with pytest.raises(DataError, match="its XML has a DOCTYPE, which no microscope writes"):
            read()


@pytest.mark.promise(SECTION, "The XML of an illumination function opens no other file")
def test_the_xml_of_an_illumination_function_opens_no_other(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ome.tif"
    pieces = "".join(
        f'<TiffData FirstC="{number}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID>'
        "</TiffData>"
        for number, name in enumerate(["own.ome.tif", str(secret)])
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="I:0"><Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" SizeC="2" SizeZ="1" '
        f'SizeT="1"><Channel ID="C:0"/><Channel ID="C:1"/>{pieces}</Pixels></Image></OME>'
    )
    for place, uuid in ((tmp_path / "own.ome.tif", "0"), (secret, "1")):
        described = xml.replace('UUID="urn:uuid:0"', f'UUID="urn:uuid:{uuid}"')
        tifffile.imwrite(place, np.full((8, 8), 7, np.uint16), description=described.encode(), metadata=None)
    script = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "from cytoclr.data.illumination import read_illumination\n"
        "from cytoclr.errors import DataError\n"
        "try:\n"
        "    read_illumination({'DNA': sys.argv[1]}, (8, 8))\n"
        "except DataError as error:\n"
        "    print(error)\n"
        "assert any('own.ome' in name for name in opened)\n"
        "assert not any('secret' in name for name in opened), opened\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "own.ome.tif")], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr
