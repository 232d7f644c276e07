"""A flipped bit, a file cut short, deleted or swapped: `cytoclr verify` names it, and the stage to do again."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import SMALL_SCREEN

from cytoclr import pipeline
from cytoclr.config import Settings, check_settings
from cytoclr.errors import DamagedError
from cytoclr.stages import StageFolder
from cytoclr.storage import Manifest, hash_tree


@pytest.fixture(scope="module")
def settings() -> Settings:
    values = {"screen": SMALL_SCREEN, "train": {"epochs": 1}}
    return check_settings(values, source="test", folder=Path())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    return pipeline.run(settings, tmp_path_factory.mktemp("whole") / "run", until="embed")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def verify(run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cytoclr", "verify", str(run), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_whole_run_is_whole(run: Path) -> None:
    done = verify(run)
    assert (done.returncode, done.stdout) == (0, f"whole    {run}\n")
    folder = StageFolder(run)
    assert folder.count_bytes() > 1e6


@pytest.mark.promise(
    "Stored bytes", "`cytoclr verify` finds a flipped bit in every file of every stage, and in the manifests"
)
def test_a_flipped_bit_in_any_file_is_found(run: Path) -> None:
    """Every file of every stage, one after the other; and the manifests themselves."""
    folder = StageFolder(run)
    tried = 0
    for path in sorted((run / "manifests").glob("*.json")):
        manifest = Manifest.read(path)
        for name, record in manifest.files.items():
            if record.bytes:
                flip_bit(run / name)
                assert manifest.find_damage(run, read_all=True) == [f"{name}: other bytes than were written"]
                flip_bit(run / name)
                tried += 1
    assert tried > 20
    assert folder.find_damage() == {}
    for path in sorted((run / "manifests").glob("*.json")):
        flip_bit(path)
        assert list(folder.find_damage()) == [path.stem]
        flip_bit(path)


@pytest.mark.promise(
    "Stored bytes",
    "A shard with a flipped bit, cut short or deleted is named with the stage to do again; done again, it is as before",
)
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (flip_bit, "other bytes than were written"),
        (cut_short, r"bytes, expected"),
        (Path.unlink, "missing"),
    ],
)
def test_damage_is_named_and_mended(run: Path, settings: Settings, harm: Callable, sentence: str) -> None:
    before = hash_tree(run / "crops"), hash_tree(run / "embeddings.parquet")
    shard = sorted((run / "crops").glob("*.npy"))[0]
    harm(shard)
    done = verify(run)
    assert done.returncode == 5
    assert f"damaged  crop: crops/{shard.name}: " in done.stdout
    assert sentence in done.stdout
    assert "`cytoclr verify --forget`, then `cytoclr run`" in done.stderr
    done = verify(run, "--forget")
    assert (done.returncode, "forgot   crop;" in done.stdout) == (0, True)
    pipeline.run(settings, run, until="embed")
    assert (hash_tree(run / "crops"), hash_tree(run / "embeddings.parquet")) == before
    assert StageFolder(run).find_damage() == {}


@pytest.mark.promise(
    "Stored bytes", "A stage reads what it builds on whole: a flipped bit is named with its stage, exit code 5"
)
@pytest.mark.parametrize(
    ("pattern", "damaged", "again"),
    [
        ("virtual/images/*/*/*.tif", "screen", "crop"),
        ("crops/*.npy", "crop", "train"),
        ("cells.parquet", "crop", "embed"),
        ("model/encoder.safetensors", "train", "embed"),
    ],
)
def test_a_stage_reads_what_it_builds_on(run: Path, settings: Settings, pattern: str, damaged: str, again: str) -> None:
    file = sorted(run.glob(pattern))[0]
    flip_bit(file)
    StageFolder(run).forget(again)
    with pytest.raises(
        DamagedError, match=rf"{file.name}: other bytes .* --forget` has the stage {damaged} done again"
    ):
        pipeline.run(settings, run, until="embed")


@pytest.mark.promise("Stored bytes", "Two shards that changed places are found")
def test_a_swapped_shard_is_found(run: Path) -> None:
    one, other, *_ = sorted((run / "crops").glob("*.npy"))
    kept = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(kept)
    assert len(StageFolder(run).find_damage()["crop"]) == 2


@pytest.mark.promise("Stored bytes", "A manifest that was changed is refused")
def test_a_manifest_that_was_changed_is_refused(run: Path) -> None:
    path = run / "manifests" / "embed.json"
    path.write_text(path.read_text().replace('"stage": "embed"', '"stage": "embeb"'))
    with pytest.raises(DamagedError, match=r"embed\.json: other bytes than were written"):
        Manifest.read(path)
