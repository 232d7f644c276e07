"""How progress and messages look in a terminal, and in a log file where nobody watches."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

from cytoclr.stopping import check_request

__all__ = ["TerminalProgress", "show_log", "terminal_progress"]

#: Seconds between two lines where the output is not a terminal.
_EVERY_S = 15.0


def show_log(console: Console, *, debug: bool) -> None:
    """Send the log to the console: ours from INFO on, others' from WARNING on."""
    form = "%(levelname)s %(name)s: %(message)s" if debug else "%(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[_ConsoleHandler(console)], force=True)
    logging.getLogger("cytoclr").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)


class _ConsoleHandler(logging.Handler):
    """Prints above a live bar, whole lines, nothing read as markup or emoji (``aggregate.py:100:`` would be one)."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, emoji=False, highlight=False, soft_wrap=True)


class TerminalProgress:
    """A bar with units per second and the time left; in a log, a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: rich.progress.Progress | None = None
        self._task = rich.progress.TaskID(0)
        self._stage, self._unit = "", ""
        self._done, self._total = 0, 0
        self._began_s = self._said_s = 0.0
        self._facts: dict[str, float] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a bar."""
        self.finish()
        self._stage, self._unit, self._total, self._done, self._facts = stage, unit, total, 0, {}
        self._began_s = self._said_s = time.monotonic()
        if self._console.is_terminal:
            self._live = rich.progress.Progress(
                rich.progress.TextColumn("{task.description:<12}"),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[text]}"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(stage, total=total, text="")

    def advance(self, count: int = 1, **facts: float) -> None:
        """Move the bar; stop if that was asked and not heard."""
        check_request()
        self._done += count
        self._facts.update(facts)
        if self._live is not None:
            self._live.update(self._task, advance=count, text=self._describe())
        elif time.monotonic() - self._said_s > _EVERY_S:
            self._said_s = time.monotonic()
            left_s = (self._said_s - self._began_s) * (self._total - self._done) / max(self._done, 1)
            self._say(f"{self._describe()}, {left_s:.0f} s left")

    def finish(self) -> None:
        """Take the bar away and leave one line in its place."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._stage:
            elapsed_s = time.monotonic() - self._began_s
            self._say(f"{self._describe()}, {elapsed_s:.1f} s")
            self._stage = ""

    def _say(self, text: str) -> None:
        self._console.print(f"{self._stage:<12} {text}", markup=False, emoji=False, highlight=False)

    def _describe(self) -> str:
        rate = self._done / max(time.monotonic() - self._began_s, 1e-9)
        facts = "".join(f", {_words(name)} {value:,.4g}" for name, value in self._facts.items())
        return f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.4g} {self._unit}/s{facts}"


def _words(name: str) -> str:
    return name.replace("_per_s", "/s").replace("_", " ")


@contextmanager
def terminal_progress(console: Console) -> Iterator[TerminalProgress]:
    """Give a progress display that leaves the terminal in order whatever happens."""
    progress = TerminalProgress(console)
    try:
        yield progress
    finally:
        if progress._live is not None:
            progress._live.stop()
