"""What training says while it runs: ``metrics.jsonl``, a line an event, and the same for TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch.utils.tensorboard import SummaryWriter

from cytoclr.storage import write_text

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends lines to ``metrics.jsonl`` and events to ``tensorboard/``; on going on, later ones are dropped.

    Parameters
    ----------
    folder
        The model folder.
    last_step
        The step to go on from: lines of later steps are dropped. Nought begins anew.
    """

    def __init__(self, folder: Path, *, last_step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if last_step and line["step"] <= last_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def write(self, event: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Append a line of the event ``step`` or ``epoch``; a value that is not finite becomes null."""
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"event": event, "epoch": epoch, "step": step, **plain}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Bring every line to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl``; a last line cut short by a power cut is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
