"""Files by URL: an S3 server and a web server of the test's own, on loopback."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from servers import serve_on_loopback

from cytoclr.data import remote
from cytoclr.data.readers.loaddata import read_loaddata
from cytoclr.data.remote import as_http, as_s3, exists, list_folder, list_tree, open_filesystem, read_bytes
from cytoclr.errors import DataError, MachineError

BUCKET = "cellpainting-gallery"
FILES = {"proj/images/a b/c+d.tiff": b"pixels", "proj/images/e.tiff": b"more pixels", "proj/table.csv": b"x\n1\n"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_WAITS_S", (0.01, 0.01))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="me", aws_secret_access_key="me", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET, ACL="public-read")
    for key, content in FILES.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")
    client.create_bucket(Bucket="closed")
    client.put_object(Bucket="closed", Key="secret.tiff", Body=b"secret")
    yield endpoint
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return f"s3://{BUCKET}"


class _Answers(BaseHTTPRequestHandler):
    """Answers each path with the next of its statuses; the last one stays."""

    statuses: dict[str, list[int]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        statuses = self.statuses.get(self.path, [404])
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"content")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[_Answers]]]:
    handler = type("Answers", (_Answers,), {"statuses": {}, "asked": []})
    with serve_on_loopback(handler) as url:
        yield url, handler


def test_a_public_bucket_is_read_without_credentials(s3: str) -> None:
    assert read_bytes(f"{s3}/proj/images/a b/c+d.tiff") == b"pixels"
    assert read_bytes(f"https://{BUCKET}.s3.amazonaws.com/proj/images/a%20b/c%2Bd.tiff") == b"pixels"
    filesystem, path = open_filesystem(f"{s3}/proj/table.csv")
    assert filesystem.cat_file(path) == b"x\n1\n"


def test_listing_a_bucket(s3: str) -> None:
    assert list_folder(f"{s3}/proj") == {"images": True, "table.csv": False}
    assert list_folder(f"{s3}/proj/images/") == {"a b": True, "e.tiff": False}
    assert list_folder(f"{s3}/nothing") == {}
    assert list_tree(f"{s3}/proj/images") == {"a b/c+d.tiff": 6, "e.tiff": 11}
    assert list_tree(f"{s3}/proj/im") == {}
    assert list_tree("s3://no-such-bucket/proj") == {}


def test_exists(s3: str, tmp_path: Path) -> None:
    assert exists(f"{s3}/proj/table.csv")
    assert exists(f"{s3}/proj/images")
    assert not exists(f"{s3}/proj/nothing")
    assert exists(str(tmp_path))
    assert not exists(str(tmp_path / "nothing"))


def test_what_a_bucket_does_not_give(s3: str) -> None:
    with pytest.raises(DataError, match=r"proj/nothing.tiff: no such file") as missing:
        read_bytes(f"{s3}/proj/nothing.tiff")
    assert missing.value.code == "IMG001"
    with pytest.raises(MachineError, match=r"secret.tiff: the server does not let everybody read it") as refused:
        read_bytes("s3://closed/secret.tiff")
    assert refused.value.code == "NET001"


@pytest.mark.slow
def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"b/key: cannot be read .*Check the address and the network") as refused:
        read_bytes("s3://b/key")
    assert refused.value.code == "NET001"
    with pytest.raises(MachineError, match="cannot be read"):
        read_bytes("http://127.0.0.1:9/x")


def test_a_busy_server_is_asked_again(web: tuple[str, type[_Answers]]) -> None:
    address, handler = web
    handler.statuses["/busy.tiff"] = [503, 429, 200]
    assert read_bytes(f"{address}/busy.tiff") == b"content"
    assert len(handler.asked) == 3


@pytest.mark.parametrize(("status", "times"), [(500, 3), (403, 1), (401, 1)])
def test_a_server_that_refuses(web: tuple[str, type[_Answers]], status: int, times: int) -> None:
    address, handler = web
    handler.statuses["/x.tiff"] = [status]
    with pytest.raises(MachineError, match=rf"x.tiff: cannot be read \(.*{status}.*\). Check the address") as refused:
        read_bytes(f"{address}/x.tiff")
    assert refused.value.code == "NET001"
    assert len(handler.asked) == times


def test_a_file_that_a_web_server_does_not_have(web: tuple[str, type[_Answers]]) -> None:
    address, handler = web
    with pytest.raises(DataError, match=r"x.tiff: no such file"):
        read_bytes(f"{address}/x.tiff")
    assert not exists(f"{address}/x.tiff")
    assert len(set(handler.asked)) == 1


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"here")
    (tmp_path / "folder").mkdir()
    assert read_bytes(str(tmp_path / "x")) == b"here"
    assert list_folder(str(tmp_path)) == {"x": False, "folder": True}
    assert list_folder(str(tmp_path / "nothing")) == {}
    assert list_tree(str(tmp_path)) == {"x": 4}
    with pytest.raises(DataError, match="nothing: no such file"):
        read_bytes(str(tmp_path / "nothing"))
    with pytest.raises(MachineError, match=r"folder: cannot be read \(Is a directory\)"):
        read_bytes(str(tmp_path / "folder"))


@pytest.mark.parametrize(
    "address",
    [
        "https://bucket.s3.amazonaws.com/a%20b/c.tiff",
        "https://bucket.s3.us-east-1.amazonaws.com/a%20b/c.tiff",
        "https://bucket.s3-eu-west-1.amazonaws.com/a%20b/c.tiff",
        "https://s3.amazonaws.com/bucket/a%20b/c.tiff",
        "https://s3.us-east-1.amazonaws.com/bucket/a b/c.tiff",
    ],
)
def test_web_addresses_of_a_bucket(address: str) -> None:
    assert as_s3(address) == "s3://bucket/a b/c.tiff"


@pytest.mark.parametrize(
    "address", ["https://example.org/a", "https://b.s3.amazonaws.com/a?versionId=1", "s3://b/a", "/data/a", "gs://b/a"]
)
def test_other_addresses_stay(address: str) -> None:
    assert as_s3(address) == address


def test_web_address_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert as_http("s3://b/x y/z+1") == "https://b.s3.amazonaws.com/x%20y/z%2B1"
    assert as_http("s3://b.c/z") == "https://s3.amazonaws.com/b.c/z"
    assert as_http("https://x.org/y") == "https://x.org/y"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5000/")
    assert as_http("s3://b/z") == "http://127.0.0.1:5000/b/z"


def test_a_loaddata_table_and_its_images_in_a_bucket(s3: str, s3_server: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="me", aws_secret_access_key="me", region_name="us-east-1"
    )
    rows = "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_DNA,PathName_DNA\nP1,A01,1,e.tiff,/home/x/images\n"
    client.put_object(Bucket=BUCKET, Key="proj/load_data.csv", Body=rows.encode(), ACL="public-read")
    sites, _ = read_loaddata(f"{s3}/proj/load_data.csv", images=f"{s3}/proj")
    assert sites["Path_DNA"].tolist() == [f"{s3}/proj/images/e.tiff"]
    bad = rows.replace("A01", "")
    client.put_object(Bucket=BUCKET, Key="proj/bad.csv", Body=bad.encode(), ACL="public-read")
    with pytest.raises(DataError, match=rf"^{s3}/proj/bad.csv: Metadata_Well is empty"):
        read_loaddata(f"{s3}/proj/bad.csv")
    with pytest.raises(DataError, match=rf"^{s3}/proj/nothing.csv: no such file") as missing:
        read_loaddata(f"{s3}/proj/nothing.csv")
    assert missing.value.code == "META001"
    client.put_object(Bucket=BUCKET, Key="proj/semi.csv", Body=b"a;b\n1;2\n", ACL="public-read")
    with pytest.raises(DataError, match=rf"^{s3}/proj/semi.csv: its cells are separated by semicolons"):
        read_loaddata(f"{s3}/proj/semi.csv")
