"""Fetching public screens: a web server and a bucket of the test's own, which cut, change and refuse as real."""

import hashlib
import io
import json
import re
import sqlite3
import stat
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
import requests
from moto.server import ThreadedMotoServer
from servers import serve_on_loopback

from cytoclr.data import arrays, remote
from cytoclr.data import download as downloading
from cytoclr.data.download import ask_size, check_space, download, unpack
from cytoclr.data.fetch import _choose_plates, fetch_bbbc021, fetch_gallery
from cytoclr.data.readers.bbbc021 import find_images, read_image_table
from cytoclr.data.readers.loaddata import read_loaddata
from cytoclr.errors import DataError, MachineError

CONTENT = np.random.default_rng(3).bytes(3_000_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (remote, downloading):
        monkeypatch.setattr(module, "RETRY_WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(downloading, "SPARE_BYTES", 0)


def holds(path: Path, content: bytes) -> bool:
    """Tell whether a file has this content; megabytes are nothing for a test to print."""
    return path.read_bytes() == content


class _Files(BaseHTTPRequestHandler):
    """A web server of files in memory, with Range and ETag, and with the faults that a test asks for."""

    files: dict[str, bytes]
    #: After how many bytes each further answer to a GET is cut.
    cuts: list[int]
    #: Statuses of the next answers, instead of the files.
    statuses: list[int]
    ranges: bool
    etags: bool
    amazon: bool
    asked: list[tuple[str, str, str]]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if self.statuses:
            return self._refuse(self.statuses.pop(0))
        content = self.files.get(self.path)
        if content is None:
            return self._refuse(404)
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.ranges and self.headers.get("If-Range") in (etag, "Sat, 01 Jan 2011 00:00:00 GMT"):
            start = int(match[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Last-Modified", "Sat, 01 Jan 2011 00:00:00 GMT")
        if self.etags:
            self.send_header("ETag", etag)
        if self.amazon:
            self.send_header("x-amz-request-id", "1")
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : start + self.cuts.pop(0)] if self.cuts else content[start:])
        return None

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[_Files]]]:
    state: dict[str, Any] = {
        "files": {"/x.bin": CONTENT},
        "cuts": [],
        "statuses": [],
        "ranges": True,
        "etags": True,
        "amazon": False,
        "asked": [],
    }
    handler = type("Files", (_Files,), state)
    with serve_on_loopback(handler) as url:
        yield url, handler


def test_a_file_arrives_whole(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, _ = web
    counts: list[int] = []
    assert ask_size(f"{address}/x.bin") == len(CONTENT)
    assert download(f"{address}/x.bin", tmp_path / "in" / "x.bin", advance=counts.append) == len(CONTENT)
    assert holds(tmp_path / "in" / "x.bin", CONTENT)
    assert sum(counts) == len(CONTENT)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x.bin"]


@pytest.mark.parametrize("etags", [True, False])
def test_a_cut_connection_is_taken_up_where_it_was(web: tuple[str, type[_Files]], tmp_path: Path, etags: bool) -> None:
    address, handler = web
    handler.etags = etags
    handler.cuts = [1_500_000, 400_000, 0]
    counts: list[int] = []
    download(f"{address}/x.bin", tmp_path / "x.bin", advance=counts.append)
    assert holds(tmp_path / "x.bin", CONTENT)
    assert [ranges for *_, ranges in handler.asked] == ["", "bytes=1500000-", "bytes=1900000-", "bytes=1900000-"]
    assert sum(counts) == len(CONTENT)


def stop_midway(address: str, handler: type[_Files], path: Path) -> None:
    handler.cuts = [1_500_000, 0, 0]
    with pytest.raises(MachineError, match=r"x.bin: cannot be fetched .*it goes on where it was") as stopped:
        download(f"{address}/x.bin", path)
    assert stopped.value.code == "NET001"
    handler.asked.clear()
    assert not path.exists()
    assert path.with_name("x.bin.part").stat().st_size == 1_500_000


def test_a_stopped_download_goes_on(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert holds(tmp_path / "x.bin", CONTENT)
    assert [ranges for *_, ranges in handler.asked] == ["bytes=1500000-"]


def test_a_server_that_knows_no_ranges_starts_anew(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    handler.ranges = False
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert holds(tmp_path / "x.bin", CONTENT)


@pytest.mark.parametrize("size", [2_000_000, 1_400_000])
def test_a_file_that_has_changed_starts_anew(web: tuple[str, type[_Files]], tmp_path: Path, size: int) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    handler.files["/x.bin"] = CONTENT[::-1][:size]
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert holds(tmp_path / "x.bin", CONTENT[::-1][:size])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_range_that_is_not_satisfiable_starts_anew(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    handler.statuses = [416]
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert holds(tmp_path / "x.bin", CONTENT)


def test_a_part_whose_note_is_damaged_starts_anew(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    (tmp_path / "x.bin.part.json").write_text("{")
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert [ranges for *_, ranges in handler.asked] == [""]
    assert holds(tmp_path / "x.bin", CONTENT)


def test_a_part_that_is_whole_only_gets_its_name(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    stop_midway(address, handler, tmp_path / "x.bin")
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    assert download(f"{address}/x.bin", tmp_path / "x.bin") == len(CONTENT)
    assert handler.asked == []


def test_bytes_that_changed_on_the_way_are_fetched_again(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    handler.amazon = True
    stop_midway(address, handler, tmp_path / "x.bin")
    part = tmp_path / "x.bin.part"
    part.write_bytes(b"\0" * 1_500_000)  # as a disk might
    download(f"{address}/x.bin", tmp_path / "x.bin")
    assert holds(tmp_path / "x.bin", CONTENT)
    assert [ranges for *_, ranges in handler.asked] == ["bytes=1500000-", ""]


def test_a_busy_server_is_asked_again(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    handler.statuses = [503, 500]
    download(f"{address}/x.bin", tmp_path / "x.bin")
    handler.statuses = [503]
    assert ask_size(f"{address}/x.bin") == len(CONTENT)
    handler.statuses = [405]
    assert ask_size(f"{address}/x.bin") is None


def test_what_a_server_refuses(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = web
    with pytest.raises(DataError, match=r"y.bin: no such file on the server \(404\)") as missing:
        download(f"{address}/y.bin", tmp_path / "y.bin")
    assert missing.value.code == "NET001"
    handler.statuses = [403]
    with pytest.raises(MachineError, match=r"x.bin: the server refuses \(403 Forbidden\). Check the address"):
        ask_size(f"{address}/x.bin")
    handler.statuses = [500] * 3
    with pytest.raises(MachineError, match=r"x.bin: cannot be fetched \(HTTP Error 500"):
        download(f"{address}/x.bin", tmp_path / "x.bin")
    with pytest.raises(MachineError, match="cannot be fetched"):
        download("http://127.0.0.1:9/x.bin", tmp_path / "x.bin")
    with pytest.raises(DataError, match="expected an address that begins with https:// or s3://"):
        download("file:///etc/hosts", tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(web: tuple[str, type[_Files]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"x.bin: could not be written .*what has arrived is kept"):
        download(f"{web[0]}/x.bin", tmp_path / "file" / "x.bin")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=3 * 10**9))
    check_space(tmp_path / "not" / "yet", 2 * 10**9, "the images")
    with pytest.raises(MachineError, match=r"yet: the images need 4.0 GB, and 3.0 GB are free. Free") as refused:
        check_space(tmp_path / "not" / "yet", 4 * 10**9, "the images")
    assert refused.value.code == "DISK001"


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_unpacking_keeps_what_is_there(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    archive.write_bytes(make_zip({"Week1/a.tif": b"aa", "b.tif": b"bbb", "__MACOSX/a": b"?", "empty/": b""}))
    into = tmp_path / "into"
    unpacked = unpack(archive, into, top="P1")
    assert (dict(unpacked.files), unpacked.num_kept) == ({"Week1/a.tif": 2, "P1/b.tif": 3}, 0)
    (into / "Week1" / "a.tif").write_bytes(b"mine"[:2])
    (into / "P1" / "b.tif").write_bytes(b"cut")
    (into / "P1" / "b.tif").write_bytes(b"c")
    assert unpack(archive, into, top="P1").num_kept == 1
    assert (into / "Week1" / "a.tif").read_bytes() == b"mi"
    assert (into / "P1" / "b.tif").read_bytes() == b"bbb"
    assert sorted(path.name for path in into.rglob("*")) == ["P1", "Week1", "a.tif", "b.tif"]


def link_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link.tif")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def twice_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("P/a.tif", b"1")
        archive.writestr("P\\a.tif", b"2")
    return buffer.getvalue()


def damaged_zip() -> bytes:
    content = bytearray(make_zip({"P/a.tif": CONTENT[:1000]}))
    content[500] ^= 255
    return bytes(content)


def encrypted_zip() -> bytes:
    content = bytearray(make_zip({"P/a.tif": b"x"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.promise("Nobody let in", "A hostile archive (paths, links, copies, damage, bombs) unpacks nothing")
@pytest.mark.parametrize(
    ("make", "message", "code"),
    [
        (lambda: make_zip({"../out.tif": b"x"}), r"the path '../out.tif' leaves .*nothing was unpacked", "NAME006"),
        (lambda: make_zip({"a/../../out.tif": b"x"}), r"the path 'a/../../out.tif' leaves", "NAME006"),
        (lambda: make_zip({"/tmp/out.tif": b"x"}), r"the path '/tmp/out.tif' leaves", "NAME006"),
        (lambda: make_zip({"C:\\out.tif": b"x"}), r"the path 'C:.*out.tif' leaves", "NAME006"),
        (lambda: make_zip({"..\\out.tif": b"x"}), r"the path '..\\\\\\\\out.tif' leaves|the path '..", "NAME006"),
        (link_zip, r"'link.tif' is a link. Expected files; nothing was unpacked", "NAME006"),
        (twice_zip, r"'P/a.tif' stands in it twice", "NAME003"),
        (encrypted_zip, r"'P/a.tif' is encrypted", "IMG002"),
        (damaged_zip, r"a damaged zip archive \(.*\). Delete it, and fetch it again", "IMG002"),
        (lambda: make_zip({"a.tif": b"x"})[:-30], r"a damaged zip archive", "IMG002"),
        (lambda: make_zip({"ok.tif": b"x", "bomb.tif": bytes(10**6)}), r"that would unpack to 1,000,001", "IMG002"),
    ],
)
def test_hostile_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes], message: str, code: str
) -> None:
    monkeypatch.setattr(arrays, "RATIO_FREE_BYTES", 10**5)
    archive = tmp_path / "x.zip"
    archive.write_bytes(make())
    with pytest.raises(DataError, match=message) as refused:
        unpack(archive, tmp_path / "into")
    assert refused.value.code == code
    assert not [path for path in (tmp_path / "into").rglob("*") if path.is_file()]
    assert not (tmp_path / "out.tif").exists()


PLATES = ("Week1_22123", "Week1_22141", "Week2_24381")
FOLDER = "BBBC021"


def image_table() -> pd.DataFrame:
    """Two sites and two channels a plate, in the form of the official table."""
    rows = []
    for plate in PLATES:
        for site in (1, 2):
            row = {"TableNumber": "1", "ImageNumber": str(site)}
            for number, channel in enumerate(("DAPI", "Actin"), start=1):
                row[f"Image_FileName_{channel}"] = f"B02_s{site}_w{number}{plate[-5:]}.tif"
                row[f"Image_PathName_{channel}"] = f"{plate.split('_')[0]}/{plate}"
                row[f"Image_Metadata_Plate_{channel}"] = plate
                row[f"Image_Metadata_Well_{channel}"] = "B02"
            rows.append(row | {"Image_Metadata_Compound": "DMSO", "Image_Metadata_Concentration": "0"})
    return pd.DataFrame(rows)


def plate_files(plate: str) -> dict[str, bytes]:
    table = image_table()
    rows = table[table["Image_Metadata_Plate_DAPI"] == plate]
    return {
        f"{folder}/{name}": f"pixels of {name}".encode()
        for channel in ("DAPI", "Actin")
        for folder, name in zip(rows[f"Image_PathName_{channel}"], rows[f"Image_FileName_{channel}"], strict=True)
    }


@pytest.fixture
def broad(web: tuple[str, type[_Files]]) -> tuple[str, type[_Files]]:
    """The Broad's folder: three tables and the archive of each plate."""
    address, handler = web
    handler.files.update(
        {
            f"/{FOLDER}/BBBC021_v1_image.csv": image_table().to_csv(index=False).encode(),
            f"/{FOLDER}/BBBC021_v1_compound.csv": b"compound,smiles\nDMSO,CS(C)=O\n",
            f"/{FOLDER}/BBBC021_v1_moa.csv": b"compound,concentration,moa\nDMSO,0,DMSO\n",
        }
    )
    for plate in PLATES:
        handler.files[f"/{FOLDER}/BBBC021_v1_images_{plate}.zip"] = make_zip(plate_files(plate))
    return f"{address}/{FOLDER}/", handler


class _Bar:
    """Adds up what it is shown."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stages.append([stage, total, 0])

    def advance(self, count: int = 1, **facts: float) -> None:
        self.stages[-1][2] += count

    def finish(self) -> None:
        pass


def test_bbbc021_from_the_broad(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = broad
    bar = _Bar()
    report = fetch_bbbc021(tmp_path / "b", broad_url=address, progress=bar)
    assert (report.num_images, len(report.fetched), report.kept, report.left_out) == (12, 6, (), {})
    assert report.num_bytes == sum(len(handler.files[f"/{FOLDER}/{name}"]) for name in report.fetched)
    assert all(total == done > 0 for _, total, done in bar.stages)
    assert not list((tmp_path / "b").glob("*.zip"))
    sites, left_out = find_images(
        read_image_table(tmp_path / "b" / report.tables[0]), tmp_path / "b" / "images", skip_missing=False
    )
    assert (len(sites), len(left_out)) == (6, 0)
    assert "AstraZeneca" in report.notice
    assert "Caie" in report.notice
    handler.asked.clear()
    again = fetch_bbbc021(tmp_path / "b", broad_url=address)
    assert (again.fetched, len(again.kept), again.num_images, again.num_bytes) == ((), 6, 12, 0)
    assert not [asked for asked in handler.asked if asked[0] == "GET"]


@pytest.mark.parametrize(
    ("weeks", "plates", "expected"),
    [([1], None, PLATES[:2]), (None, [PLATES[2]], PLATES[2:]), ([1], [PLATES[1]], PLATES[1:2])],
)
def test_weeks_and_plates(
    broad: tuple[str, type[_Files]], tmp_path: Path, weeks: Any, plates: Any, expected: tuple[str, ...]
) -> None:
    report = fetch_bbbc021(tmp_path, weeks=weeks, plates=plates, broad_url=broad[0])
    zips = [name for name in report.fetched if name.endswith(".zip")]
    assert zips == [f"BBBC021_v1_images_{plate}.zip" for plate in expected]


def test_weeks_and_plates_that_are_not_there(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no week 7. Known weeks: 1, 2") as refused:
        fetch_bbbc021(tmp_path, weeks=[7], broad_url=broad[0])
    assert refused.value.code == "META008"
    with pytest.raises(DataError, match=r"no plate Week9_1. Known plates: Week1_22123, Week1_22141, Week2_24381"):
        fetch_bbbc021(tmp_path, plates=["Week9_1"], broad_url=broad[0])
    with pytest.raises(DataError, match=r"none of the plates Week1_22123 is of the weeks 2"):
        fetch_bbbc021(tmp_path, weeks=[2], plates=["Week1_22123"], broad_url=broad[0])


def test_a_stopped_fetch_goes_on_with_the_plate_it_was_at(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = broad
    last = f"/{FOLDER}/BBBC021_v1_images_{PLATES[2]}.zip"
    content = handler.files[last]
    handler.files[last] = damaged = content[:60] + bytes([content[60] ^ 255]) + content[61:]
    assert damaged != content
    with pytest.raises(DataError, match="damaged zip archive"):
        fetch_bbbc021(tmp_path, broad_url=address)
    archive = tmp_path / f"BBBC021_v1_images_{PLATES[2]}.zip"
    assert archive.is_file()  # not all of it is unpacked
    archive.unlink()
    handler.files[last] = content
    report = fetch_bbbc021(tmp_path, broad_url=address)
    assert report.fetched == (archive.name,)
    assert report.num_images == 12


def test_an_archive_that_was_not_unpacked_is_not_fetched_again(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = broad
    name = f"BBBC021_v1_images_{PLATES[0]}.zip"
    (tmp_path / name).write_bytes(handler.files[f"/{FOLDER}/{name}"])
    report = fetch_bbbc021(tmp_path, plates=[PLATES[0]], broad_url=address)
    assert not [asked for asked in handler.asked if asked[:2] == ("GET", f"/{FOLDER}/{name}")]
    assert report.num_images == 4
    assert not (tmp_path / name).exists()


def test_an_image_that_was_deleted_is_fetched_again(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    fetch_bbbc021(tmp_path, broad_url=broad[0])
    next(tmp_path.rglob("B02_s1_w122141.tif")).unlink()
    report = fetch_bbbc021(tmp_path, broad_url=broad[0])
    assert report.fetched == (f"BBBC021_v1_images_{PLATES[1]}.zip",)
    assert report.num_images == 12


def test_images_that_the_archive_does_not_hold_are_counted(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    address, handler = broad
    files = plate_files(PLATES[0])
    lost = next(iter(files))
    del files[lost]
    handler.files[f"/{FOLDER}/BBBC021_v1_images_{PLATES[0]}.zip"] = make_zip(files)
    report = fetch_bbbc021(tmp_path, broad_url=address)
    assert report.left_out == {lost: "in the image table, but not in the plate's archive"}
    assert report.num_images == 11


def test_no_room_for_the_archives(
    broad: tuple[str, type[_Files]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = sum(len(content) for name, content in broad[1].files.items() if name.endswith(".csv"))
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=tables))
    with pytest.raises(MachineError, match="the images of BBBC021 need") as refused:
        fetch_bbbc021(tmp_path, broad_url=broad[0])
    assert refused.value.code == "DISK001"


BUCKET = "cellpainting-gallery"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3", aws_access_key_id="me", aws_secret_access_key="me", region_name="us-east-1")
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # all servers of a process share their buckets
    client.create_bucket(Bucket=BUCKET, ACL="public-read")
    yield client
    server.stop()


def put(client: Any, key: str, content: bytes) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")


def put_plate(
    client: Any, plate: str, *, project: str = "cpg1-toy", source: str = "source_4", urls: bool = True
) -> None:
    """Put a plate of one site and two channels with illumination functions, and its LoadData tables."""
    images = f"{project}/{source}/images/Batch1"
    row = {"Metadata_Plate": plate, "Metadata_Well": "A01", "Metadata_Site": "1"}
    for channel in ("DNA", "ER"):
        for token, folder, name in (
            (f"Orig{channel}", f"{images}/images/{plate}__1/Images", f"r01c01-{channel}.tiff"),
            (f"Illum{channel}", f"{images}/illum/{plate}", f"{plate}_Illum{channel}.npy"),
        ):
            put(client, f"{folder}/{name}", f"{plate} {token}".encode())
            if urls:
                row[f"URL_{token}"] = f"s3://{BUCKET}/{folder}/{name}"
            else:
                row[f"PathName_{token}"] = f"/home/ubuntu/bucket/projects/2020_toy/{folder.removeprefix(project + '/')}"
                row[f"FileName_{token}"] = name
    table = pd.DataFrame([row])
    start = f"{project}/{source}/workspace/load_data_csv/Batch1/{plate}"
    put(client, f"{start}/load_data_with_illum.csv", table.to_csv(index=False).encode())
    put(client, f"{start}/load_data.csv", table.filter(regex="Metadata|Orig").to_csv(index=False).encode())
    put(client, f"{start}/notes.txt", b"none")


@pytest.mark.parametrize("urls", [True, False])
def test_a_project_of_the_gallery(gallery: Any, tmp_path: Path, urls: bool) -> None:
    for plate in ("P1", "P2"):
        put_plate(gallery, plate, urls=urls)
    bar = _Bar()
    report = fetch_gallery("cpg1-toy", tmp_path, plates=["P2"], progress=bar)
    table = "source_4/workspace/load_data_csv/Batch1/P2/load_data_with_illum.csv"
    assert report.tables == (table,)
    assert (report.num_images, len(report.fetched), report.left_out) == (4, 5, {})
    assert all(total == done > 0 for _, total, done in bar.stages)
    assert "registry.opendata.aws" in report.notice
    sites, _ = read_loaddata(str(tmp_path / table), images=str(tmp_path))
    assert Path(sites["Path_DNA"][0]).read_bytes() == b"P2 OrigDNA"
    assert Path(sites["Illum_ER"][0]).read_bytes() == b"P2 IllumER"
    again = fetch_gallery("cpg1-toy", tmp_path, plates=["P2"], batch="Batch1")
    assert (again.fetched, len(again.kept), again.num_images) == ((), 5, 4)
    assert fetch_gallery("cpg1-toy", tmp_path).num_images == 8


def test_what_the_gallery_does_not_have(gallery: Any, tmp_path: Path) -> None:
    put_plate(gallery, "P1")
    with pytest.raises(DataError, match=r"cellpainting-gallery: no project cpg9"):
        fetch_gallery("cpg9", tmp_path)
    with pytest.raises(DataError, match=r"no LoadData tables under workspace/load_data_csv/B2. Found there: Batch1"):
        fetch_gallery("cpg1-toy", tmp_path, batch="B2")
    with pytest.raises(DataError, match=r"1 LoadData tables name no image of the plates P7") as refused:
        fetch_gallery("cpg1-toy", tmp_path, plates=["P7"])
    assert refused.value.code == "META008"
    put_plate(gallery, "P1", source="source_5")
    with pytest.raises(DataError, match=r"2 sources: source_4, source_5. Name one"):
        fetch_gallery("cpg1-toy", tmp_path)
    key = "cpg1-toy/source_4/images/Batch1/images/P1__1/Images/r01c01-ER.tiff"
    gallery.delete_object(Bucket=BUCKET, Key=key)
    report = fetch_gallery("cpg1-toy", tmp_path, source="source_4")
    assert list(report.left_out) == [f"s3://{BUCKET}/{key}"]
    assert report.num_images == 3


def test_two_plates_whose_paths_end_alike_are_not_mixed_up(gallery: Any, tmp_path: Path) -> None:
    put_plate(gallery, "P1", urls=False)
    put_plate(gallery, "P2", urls=False)
    keys = [
        entry["Key"]
        for entry in gallery.list_objects_v2(Bucket=BUCKET, Prefix="cpg1-toy/source_4/images/Batch1/images/P2__1")[
            "Contents"
        ]
    ]
    for key in keys:
        gallery.delete_object(Bucket=BUCKET, Key=key)
    report = fetch_gallery("cpg1-toy", tmp_path)
    assert report.num_images == 6
    assert len(report.left_out) == 2
    assert all("is already the image" in reason for reason in report.left_out.values())


def ljosa_database(path: Path) -> bytes:
    """A database of cell centres in the form of Ljosa's: images by plate and well, files with sites in their names."""
    table = image_table()
    base = sqlite3.connect(path)
    table.astype({"TableNumber": int}).assign(TableNumber=1, ImageNumber=range(1, len(table) + 1)).to_sql(
        "Image", base, index=False
    )
    cells = [(1, image, cell, 10.0 * cell, 5.0 * image) for image in range(1, len(table) + 1) for cell in (1, 2)]
    names = ["TableNumber", "ImageNumber", "ObjectNumber", "Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"]
    pd.DataFrame(cells, columns=names).to_sql("Nuclei", base, index=False)
    base.commit()
    base.close()
    return path.read_bytes()


PROJECT = "cpg0010-caie-drugresponse/broad-az"


def test_bbbc021_from_the_gallery_without_loaddata_tables(
    broad: tuple[str, type[_Files]], gallery: Any, tmp_path: Path
) -> None:
    for plate in PLATES[:2]:
        for name, content in plate_files(plate).items():
            put(gallery, f"{PROJECT}/images/2013/images/{name}", content)
    report = fetch_bbbc021(tmp_path, source="gallery", broad_url=broad[0])
    assert (report.num_images, len(report.left_out)) == (8, 4)
    sites, left_out = find_images(read_image_table(tmp_path / report.tables[0]), tmp_path / "images", skip_missing=True)
    assert (len(sites), len(left_out)) == (4, 2)
    assert "registry.opendata.aws" in report.notice
    assert "AstraZeneca" in report.notice


def test_bbbc021_from_the_gallery_by_its_loaddata_tables(
    broad: tuple[str, type[_Files]], gallery: Any, tmp_path: Path
) -> None:
    for plate in PLATES:
        put_plate(gallery, plate, project=PROJECT.split("/")[0], source="broad-az")
    report = fetch_bbbc021(tmp_path, weeks=[2], source="gallery", broad_url=broad[0])
    assert report.num_images == 4
    assert report.tables[-1] == f"broad-az/workspace/load_data_csv/Batch1/{PLATES[2]}/load_data_with_illum.csv"


def test_cell_centres_of_ljosa(broad: tuple[str, type[_Files]], gallery: Any, tmp_path: Path) -> None:
    content = ljosa_database(tmp_path / "toy.sqlite")
    name = "ljosa_jbiomolscreen_2013.sqlite"
    put(gallery, f"{PROJECT}/workspace/backend/ljosa_2013/analysis_batch_stable/{name}", content)
    report = fetch_bbbc021(tmp_path / "b", plates=[PLATES[0]], locations=True, broad_url=broad[0])
    assert name in report.fetched
    assert "locations.parquet" in report.tables
    centres = pd.read_parquet(tmp_path / "b" / "locations.parquet")
    assert len(centres) == 12
    assert not (tmp_path / "b" / name).exists()
    again = fetch_bbbc021(tmp_path / "b", plates=[PLATES[0]], locations=True, broad_url=broad[0])
    assert again.fetched == ()


def test_the_record_of_what_was_unpacked(broad: tuple[str, type[_Files]], tmp_path: Path) -> None:
    fetch_bbbc021(tmp_path, plates=[PLATES[0]], broad_url=broad[0])
    record = json.loads((tmp_path / "unpacked" / f"BBBC021_v1_images_{PLATES[0]}.zip.json").read_text())
    assert record == {name: len(content) for name, content in plate_files(PLATES[0]).items()}


@pytest.mark.real_data
def test_weeks_of_the_official_table(real_data: Path) -> None:
    path = real_data / "bbbc021" / "metadata" / "BBBC021_v1_image.csv.gz"
    names = read_image_table(path)["Metadata_Plate"].unique()
    assert len(_choose_plates(names, None, None, path)) == 55
    assert len(_choose_plates(names, list(range(1, 11)), None, path)) == 55
    assert all(name.startswith("Week1_") for name in _choose_plates(names, [1], None, path))
