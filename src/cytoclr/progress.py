"""How a long stage tells how far it is, without knowing who listens."""

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "Silent"]


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
