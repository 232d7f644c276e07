"""Archives and servers: what they send stays in the folder, within caps, and sends us nowhere else."""

import struct
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from servers import serve_on_loopback

from cytoclr.data import download as downloading
from cytoclr.data.download import ask_size, download, unpack
from cytoclr.data.fetch import _Tally
from cytoclr.errors import DataError, MachineError
from cytoclr.progress import Silent

SECTION = "Nobody let in"


def write_zip(path: Path, members: list[tuple[str, bytes, int]]) -> Path:
    """Write members of any name and kind (as of `stat`)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, kind in members:
            member = zipfile.ZipInfo(name)
            member.external_attr = (kind | 0o644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return path


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.promise(SECTION, "A device, a pipe, a socket or a link in an archive is not made")
@pytest.mark.parametrize(
    ("kind", "what"), [(0o120000, "link"), (0o020000, "device"), (0o060000, "device"), (0o010000, "device")]
)
def test_special_files_in_an_archive(tmp_path: Path, kind: int, what: str) -> None:
    archive = write_zip(tmp_path / "x.zip", [("P/a.tif", b"1", 0o100000), ("P/b.tif", b"/etc/passwd", kind)])
    with pytest.raises(DataError, match=f"'P/b.tif' is a {what}. Expected files; nothing was unpacked") as refused:
        unpack(archive, tmp_path / "into")
    assert refused.value.code == "NAME006"
    assert list_files(tmp_path / "into") == []


@pytest.mark.promise(SECTION, "A name in an archive that leaves the folder, in any system's way, unpacks nothing")
@pytest.mark.parametrize("name", ["\\\\host\\share\\a.tif", "C:a.tif", "D:\\a.tif", "a/..\\..\\b.tif", "s3://x/a.tif"])
def test_names_in_an_archive(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "x.zip", [("P/a.tif", b"1", 0), (name, b"2", 0)])
    with pytest.raises(DataError, match=r"leaves .*nothing was unpacked") as refused:
        unpack(archive, tmp_path / "into")
    assert refused.value.code == "NAME006"
    assert list_files(tmp_path / "into") == []


@pytest.mark.promise(SECTION, "A name in an archive with a NUL byte unpacks nothing")
def test_a_nul_in_the_name_of_a_member(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", [("P/a.tifX.exe", b"1", 0)])
    archive.write_bytes(archive.read_bytes().replace(b"a.tifX", b"a.tif\0"))
    with pytest.raises(DataError, match=r"leaves|damaged"):
        unpack(archive, tmp_path / "into")
    assert list_files(tmp_path / "into") == []


@pytest.mark.promise(SECTION, "Files of an archive that share their bytes (a bomb without end) unpack nothing")
def test_members_that_overlap(tmp_path: Path) -> None:
    """The second entry of the directory is made to point at the first file's bytes (Fifield 2019)."""
    archive = write_zip(tmp_path / "x.zip", [("P/a.tif", bytes(1000), 0), ("P/b.tif", bytes(1000), 0)])
    content = bytearray(archive.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 1)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"shares its bytes with another.*nothing was unpacked") as refused:
        unpack(archive, tmp_path / "into")
    assert refused.value.code == "IMG002"
    assert list_files(tmp_path / "into") == []


@pytest.mark.promise(SECTION, "An archive of more files than a plate has, or that says more bytes, unpacks nothing")
def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "MAX_MEMBERS", 3)
    many = write_zip(tmp_path / "many.zip", [(f"P/{number}.tif", b"", 0) for number in range(4)])
    with pytest.raises(DataError, match=r"4 files\. Expected at most 3; nothing was unpacked"):
        unpack(many, tmp_path / "into")
    large = write_zip(tmp_path / "large.zip", [("P/a.tif", bytes(70_000_000), 0)])
    with pytest.raises(DataError, match=r"would unpack to 70,000,000.*at most 200 times the archive"):
        unpack(large, tmp_path / "into")
    # a directory that says less than is there: the rest is not unpacked, and the checksum tells
    liar = write_zip(tmp_path / "liar.zip", [("P/a.tif", bytes(100_000), 0)])
    content = bytearray(liar.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 10)
    liar.write_bytes(content)
    with pytest.raises(DataError, match="damaged zip archive"):
        unpack(liar, tmp_path / "into")
    assert list_files(tmp_path / "into") == []


class _Hostile(BaseHTTPRequestHandler):
    """A server that answers as a test tells it."""

    #: What to answer to a path: writes the answer itself.
    answers: dict[str, Callable[["_Hostile"], None]]

    def do_GET(self) -> None:
        self.answers[self.path](self)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Callable[[Any], None]]]]:
    monkeypatch.setattr(downloading, "RETRY_WAITS_S", (0.01,))
    answers: dict[str, Callable[[Any], None]] = {}
    handler = type("Handler", (_Hostile,), {"answers": answers})
    with serve_on_loopback(handler) as url:
        yield url, answers


def redirect(address: str) -> Callable[[Any], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", address)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.mark.promise(SECTION, "A server that sends us to a file of this machine, or to FTP, is not followed")
@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1:1/x", "data:text/plain,x", "gopher://x/1"])
def test_redirects(hostile: tuple[str, dict[str, Any]], tmp_path: Path, address: str) -> None:
    url, answers = hostile
    answers["/x.bin"] = redirect(address)
    with pytest.raises(MachineError, match=r"x\.bin: ") as refused:
        download(f"{url}/x.bin", tmp_path / "x.bin")
    assert "passwd" not in str(refused.value).replace(address, "")
    with pytest.raises(MachineError, match=r"x\.bin: "):
        ask_size(f"{url}/x.bin")
    assert list_files(tmp_path) == []


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        for _ in range(200):  # were it taken, it would not fill this disk
            request.wfile.write(bytes(2**20))
    except OSError:  # the other side has had enough
        pass


@pytest.mark.promise(SECTION, "A server that never stops sending does not fill the disk")
def test_a_download_without_end(
    hostile: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = hostile
    answers["/x.bin"] = endless
    left = iter(range(20, -1, -1))
    monkeypatch.setattr(
        downloading.shutil,
        "disk_usage",
        lambda _: type("Usage", (), {"free": downloading.SPARE_BYTES + next(left) * 2**20})(),
    )
    with pytest.raises(MachineError, match=r"what comes after [\d,]+ bytes of x\.bin need.*are free") as refused:
        download(f"{url}/x.bin", tmp_path / "x.bin")
    assert refused.value.code == "DISK001"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 30 * 2**20
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.promise(SECTION, "A download that has more bytes than the server promised is not kept")
def test_a_download_of_more_than_was_told(hostile: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, answers = hostile

    def more(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(b"0123456789and more")

    answers["/x.bin"] = more
    assert download(f"{url}/x.bin", tmp_path / "x.bin") == 10
    assert (tmp_path / "x.bin").read_bytes() == b"0123456789"


@pytest.mark.promise(SECTION, "A name that a bucket lists lands in the folder, or nothing is fetched")
@pytest.mark.parametrize("name", ["../x.tif", "/etc/x.tif", "a/../../x.tif", "..\\x.tif", "\\\\host\\x"])
def test_names_of_a_bucket(tmp_path: Path, name: str) -> None:
    tally = _Tally(tmp_path / "into", Silent())
    with pytest.raises(DataError, match=r"would leave .*Nothing was fetched") as refused:
        tally.fetch_all({"a.tif": ("http://127.0.0.1:1/a", 1), name: ("http://127.0.0.1:1/b", 1)}, "images")
    assert refused.value.code == "NAME006"
    assert list_files(tmp_path) == []
