"""What is told in a terminal stands there as it was said."""

import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from cytoclr.terminal import TerminalProgress, show_log


@pytest.fixture
def console() -> Iterator[Console]:
    """A console that writes to memory; the log is as it was afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("cytoclr")
    before = root.handlers[:], root.level, ours.level
    yield Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize(
    "text", ["Cells_:smile:_x", "aggregate.py:100: a warning", "[bold]y[/bold]", "long " * 20 + "."]
)
def test_a_message_is_printed_as_it_is(console: Console, text: str) -> None:
    show_log(console, debug=False)
    logging.getLogger("cytoclr.data").warning("%s", text)
    assert console.file.getvalue() == f"{text}\n"


def test_progress_is_printed_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    progress = TerminalProgress(console)
    progress.start("embed", 2, "cells:100:")
    progress.advance(2)
    progress.finish()
    assert "2 of 2 cells:100:," in console.file.getvalue()
