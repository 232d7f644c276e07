"""Every file of the fuzzer's corpus, and some thousand changes to them, are read or refused in a sentence.

The fuzzer itself (`make fuzz`) goes on where these end; what it finds joins the corpus.
"""

import importlib
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = "Nobody let in"
sys.path.insert(0, str(ROOT))

from fuzz import CORPUS, TARGETS  # noqa: E402

#: Of each target; a few seconds' worth.
NUM_CHANGED = 200
CASES = [(target, path.name) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


def find_target(target: str) -> Callable[[bytes], None]:
    try_one: Callable[[bytes], None] = importlib.import_module(f"fuzz.{target}").try_one
    return try_one


@pytest.fixture(autouse=True)
def unheard() -> Iterator[None]:
    """What libraries warn of a damaged file is theirs to say; that the parsers go on is what counts here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.promise(SECTION, "Every file that ever failed a parser, or could, is read or refused in a sentence")
@pytest.mark.parametrize(("target", "name"), CASES)
def test_the_corpus(target: str, name: str) -> None:
    find_target(target)((CORPUS / target / name).read_bytes())


def change(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Change a file as a bad disk, a bad editor or a bad mind would."""
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        first, second = sorted(draw.randint(0, len(content)) for _ in range(2))
        kind = draw.randrange(6)
        if kind == 0 and content:
            content[min(first, len(content) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del content[first : min(second, first + 50)]
        elif kind == 2:
            content[first:first] = content[first : min(second, first + 200)] * draw.randint(1, 5)
        elif kind == 3:
            content[first:first] = draw.choice(
                [b"\0", b"\xff", b"\n", b",", b'"', b"-1", b"9" * 40, b"nan", b"../", b"[", b"{"]
            )
        elif kind == 4:
            content = content[:first]
        else:
            other = draw.choice(others)
            content[first:second] = other[first:second]
    return bytes(content)


@pytest.mark.promise(
    SECTION, "Files of the corpus, changed at random a thousand times, are read or refused in a sentence"
)
@pytest.mark.parametrize("target", TARGETS)
def test_changed_files(target: str) -> None:
    draw = random.Random(f"{target} 1")
    try_one = find_target(target)
    files = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    for _ in range(NUM_CHANGED):
        changed = change(draw.choice(files), files, draw)
        try:
            try_one(changed)
        except Exception as error:
            raise AssertionError(f"fuzz/{target}.py: {type(error).__name__} {error}, of {changed!r}") from error
