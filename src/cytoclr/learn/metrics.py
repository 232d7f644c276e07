"""What training says while it runs: ``metrics.jsonl``, a line an event, and the same to the loggers."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from cytoclr.config import LoggerName
from cytoclr.learn.loggers import finish_logger, log_cells, log_picture, start_loggers
from cytoclr.storage import write_text

__all__ = ["EPOCH_METRICS", "STEP_METRICS", "MetricsLog", "read_metrics"]

#: What a line of the event ``step`` holds, and what it is.
STEP_METRICS = {
    "train_loss": "loss of this minibatch",
    "learning_rate": "at this step, as warm-up and cosine have it",
    "grad_norm": "length of the gradient of all parameters; null where float16 overflowed and the step was left out",
    "cells_per_s": "cells trained on per second since the epoch began, of all devices",
    "wait_share": "share of that time in which steps waited for crops",
}
#: What a line of the event ``epoch`` holds; beside these, ``probe_…``: what the probe returned.
EPOCH_METRICS = {
    "train_loss": "mean loss of the epoch's minibatches",
    "val_loss": "loss on wells never trained on, their views the same in every epoch",
    "val_alignment": "mean squared distance between two views of a cell on the unit sphere",
    "val_uniformity": "log of the mean of exp(-2 x squared distance) between cells on the unit sphere",
    "embedding_rank": "effective rank of the last minibatch's embeddings",
    "embedding_rank_share": "the same as a share of the embedding's features",
    "projection_rank": "effective rank of the last minibatch's projections",
    "projection_spread": "0: the last minibatch's projections all point the same way; 1: all ways",
    "grad_norm": "mean length of the gradient over the epoch's steps, those with an overflow left out",
    "cells_per_s": "cells trained on per second, validation and probe not counted",
    "wait_share": "share of that time in which steps waited for crops",
    "collapsed": "1 where the encoder tells no cells apart; absent where all is well",
}


class MetricsLog:
    """Appends lines to ``metrics.jsonl`` and tells the loggers; on going on, later lines are dropped.

    Parameters
    ----------
    folder
        The model folder.
    last_step
        The step to go on from: lines of later steps are dropped. Nought begins anew.
    loggers
        Who else is told; `check_loggers` must have found their packages.
    about
        The settings, for the loggers.

    Notes
    -----
    A process that is killed loses the line it was writing, and no other; a power cut loses no whole epoch's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        last_step: int,
        loggers: Sequence[LoggerName] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if last_step and line["step"] <= last_step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._loggers = start_loggers(loggers, folder, last_step=last_step, about=about or {})

    def write(
        self, event: Literal["step", "epoch", "probe"], epoch: int, step: int, values: Mapping[str, float]
    ) -> None:
        """Append a line; a value that is not finite becomes null, and loggers are not told of it."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        plain = {name: finite.get(name) for name in values}
        self._file.write(json.dumps({"event": event, "epoch": epoch, "step": step, **plain}) + "\n")
        self._file.flush()
        if event != "step":
            os.fsync(self._file.fileno())
        for logger in self._loggers:
            logger.log_metrics({f"{event}/{name}": value for name, value in finite.items()}, step)

    def show_views(self, picture: UInt8[np.ndarray, "height width"], step: int) -> None:
        """Show the loggers what views look like."""
        for logger in self._loggers:
            log_picture(logger, "views", picture, step)

    def show_cells(
        self,
        embeddings: Float[Tensor, "cell feature"],
        crops: Float[Tensor, "cell channel height width"],
        columns: Mapping[str, Sequence[str]],
        step: int,
    ) -> None:
        """Show the loggers where cells lie."""
        for logger in self._loggers:
            log_cells(logger, embeddings, crops, columns, step)

    def close(self, *, succeeded: bool) -> None:
        """Bring every line to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        for logger in self._loggers:
            finish_logger(logger, succeeded=succeeded)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl``; a last line cut short by a power cut is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except (ValueError, RecursionError):
            break
    return lines
