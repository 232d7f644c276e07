"""How a long stage tells how far it is, without knowing who listens."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

__all__ = ["Progress", "Silent", "track"]

Item = TypeVar("Item")


@runtime_checkable
class Progress(Protocol):
    """Whoever shows progress: a terminal, a log, nobody."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units, for instance 8,064 cells."""

    def advance(self, count: int = 1, **facts: float) -> None:
        """Say that `count` more units are done; `facts` are shown beside (``loss=1.83``)."""

    def finish(self) -> None:
        """End the stage begun last."""


class Silent:
    """Shows nothing: the default of every stage when it is called from Python."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Show nothing."""

    def advance(self, count: int = 1, **facts: float) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""


def track(items: Iterable[Item], progress: Progress, stage: str, total: int, unit: str) -> Iterator[Item]:
    """Yield the items, one unit of progress each."""
    progress.start(stage, total, unit)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.finish()
