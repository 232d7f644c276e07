"""Settings from strangers: no tags, no aliases, no depth, no code; one sentence each."""

import subprocess
import sys
from pathlib import Path

import pytest

from cytoclr.config import read_settings
from cytoclr.config.reading import parse_text
from cytoclr.errors import SettingsError

SECTION = "Nobody let in"

#: "Billion laughs": ten aliases of ten aliases of ten …
LAUGHS = "a0: &a0 [ha]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 12)
)

#: Settings, and what is said of them.
HOSTILE: dict[str, tuple[str, str]] = {
    "a command": ("train: !!python/object/apply:os.system ['touch ran']", "the YAML tag"),
    "a command, applied to all": ("!!python/object/apply:subprocess.run [[touch, ran]]", "the YAML tag"),
    "a module": ("train: !!python/module:antigravity ''", "the YAML tag"),
    "a name": ("train: !!python/name:os.system ''", "the YAML tag"),
    "a tag of its own": ("train: !touch ran", "the YAML tag !touch"),
    "bytes": ("train: !!binary cmFu", "the YAML tag"),
    "a billion laughs": (LAUGHS, r":2: the alias \*a0\. Write the value out"),
    "an alias of itself": ("a: &a [*a]", r"the alias \*a"),
    "a merged section": ("a: &a {epochs: 1}\ntrain:\n  <<: *a", r":3: the alias \*a"),
    "a hundred thousand brackets": ("[" * 100_000, "nested too deeply"),
    "a thousand sections": ("{a: " * 1000 + "1" + "}" * 1000, "nested too deeply"),
    "depth that only JSON minds": ("screen: " + "[" * 300 + "]" * 300, "recursion limit|nested too deeply"),
    "a section for a key": ("{[1, 2]: 3}", ":1: a key that is no word"),
    "a key twice": ("train: {epochs: 1, epochs: 2}", "epochs stands twice"),
    "a number of digits": ("train: {epochs: " + "9" * 5000 + "}", "a number of 5,000 digits"),
    "a list for a preset": ("preset: [laptop]", "preset: expected one of"),
    "a section for a reader": ("screen: {reader: {a: 1}}", "screen.reader: expected one of"),
    "half a letter": ('train: {backbone: "\\uD800"}', "invalid JSON|backbone"),
    "a NUL": ("train: \0", "not YAML"),
    "a NUL in a path": ('train: {fine_tune_from: "\\0"}', "train.fine_tune_from"),
    "a home that is not there": (
        "screen: {reader: images, folder: ~nobody-of-that-name/x, template: '{well}'}",
        "screen.folder: not a path that leads somewhere",
    ),
    "a billion channels": ("batch_size: 1\ndataset: {input_shape: [96, 96, 1000000000]}", "expected 1 to 64 channels"),
    "two documents": ("a: 1\n---\nb: 2", "not YAML"),
}


@pytest.mark.promise(
    SECTION, "Settings with tags, aliases, depth, or keys twice run nothing and are refused in a sentence"
)
@pytest.mark.parametrize(("text", "match"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, match: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=match):
        read_settings(tmp_path / "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.promise(SECTION, "Settings that are an alias bomb cost neither time nor memory")
def test_a_billion_laughs_are_not_laughed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LAUGHS)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from cytoclr.config import read_settings\n"
        "from cytoclr.errors import SettingsError\n"
        "held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    read_settings(Path(sys.argv[1]))\n"
        "except SettingsError as error:\n"
        "    assert 'alias' in str(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 50_000\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "config.yaml")], capture_output=True, text=True, timeout=30
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.promise(SECTION, "What YAML would guess to be something else stays what was written")
def test_nothing_is_guessed() -> None:
    value, _ = parse_text("a: no\nb: 2020-01-01\nc: 0o17\nd: 1:30\ne: '!!python/name:os.system'", source="t")
    assert value == {"a": "no", "b": "2020-01-01", "c": "0o17", "d": "1:30", "e": "!!python/name:os.system"}
