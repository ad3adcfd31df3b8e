"""Every prediction with its inputs, one JSON line per point, written beside the requests and bounded in size.

Columns: `timestamp version track x y t u residual bc`; `residual` is null where f is unknown, `bc` (boundary condition
violated) is null away from the edges. A file is never rewritten: full ones are closed, and the oldest of the folder are
deleted beyond the limit, whichever process wrote them.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from io import FileIO
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import orjson

from isotherm.predictor.model import Answer, Floats

LIMIT_BYTES = 256 << 20  # of the whole folder
FILE_BYTES = 16 << 20
QUEUE_POINTS = 200_000
_CHUNK = 2000  # points formatted before the file is looked at again
_logger = logging.getLogger("isotherm.predictor")


class PredictionLog:
    """A writer thread behind a bounded queue: a full queue or a failing disk drops points and says so, never waits."""

    def __init__(
        self,
        folder: Path,
        *,
        version: str,
        track: str,
        dropped: Callable[[int], None],
        file_bytes: int = FILE_BYTES,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        """Open the first file; raises `OSError` where the folder cannot be written."""
        self._folder, self._file_bytes, self._limit_bytes = folder, file_bytes, limit_bytes
        self._identity = {"version": version, "track": track}
        self._dropped = dropped
        self._queue: queue.SimpleQueue[tuple[datetime, Answer] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._number = 0
        self._failing = False
        folder.mkdir(parents=True, exist_ok=True)
        self._file: FileIO | None = self._open()
        self._thread = threading.Thread(target=self._write_all, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, moment: datetime, answer: Answer) -> None:
        """Hand an answer to the writer, or drop it where the writer is too far behind."""
        with self._lock:
            full = self._waiting + len(answer.u) > QUEUE_POINTS
            self._waiting += 0 if full else len(answer.u)
        if full:
            self._dropped(len(answer.u))
        else:
            self._queue.put((moment, answer))

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, for at most `seconds`."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            moment, answer = item
            try:
                for block in _lines(moment, answer, self._identity):
                    self._write(block)
                self._failing = False
            except OSError as error:
                self._dropped(len(answer.u))
                self._abandon_file()
                if not self._failing:
                    _logger.error("prediction log cannot be written (%s): free space in %s", error, self._folder)
                self._failing = True
            with self._lock:
                self._waiting -= len(answer.u)
        if self._file:
            self._file.close()

    def _write(self, block: bytes) -> None:
        if self._file and self._file.tell() and self._file.tell() + len(block) > self._file_bytes:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = self._open()
        while block:
            block = block[self._file.write(block) :]

    def _abandon_file(self) -> None:
        # What follows a line cut short would be unreadable with it: the next line opens a file of its own.
        if self._file:
            empty = not self._file.tell()
            self._file.close()
            if empty:
                Path(self._file.name).unlink(missing_ok=True)
            self._file = None

    def _open(self) -> FileIO:
        self._prune()
        self._number += 1
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        # Every pod's program has process number 1: its host's name tells it from the others of a shared volume.
        writer = f"{socket.gethostname()}-{os.getpid()}"
        return (self._folder / f"predictions-{started}-{writer}-{self._number:06}.jsonl").open("ab", buffering=0)

    def _prune(self) -> None:
        files = sorted(self._folder.glob("predictions-*.jsonl"), key=lambda path: path.name, reverse=True)
        total = self._file_bytes  # what the new file may grow to
        for path in files:
            total += path.stat().st_size
            if total > self._limit_bytes:
                path.unlink(missing_ok=True)


def _lines(moment: datetime, answer: Answer, identity: dict[str, str]) -> Iterator[bytes]:
    """Yield the lines of an answer in blocks; columns are formatted whole, four times faster than row by row."""
    timestamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    common = orjson.dumps({"timestamp": timestamp, **identity})[:-1]
    for start in range(0, len(answer.u), _CHUNK):
        part = slice(start, start + _CHUNK)
        columns = {name: _numbers(column) for name, column in zip("xyt", answer.points[part].T, strict=True)}
        columns |= {"u": _numbers(answer.u[part]), "residual": _numbers(answer.residual[part])}
        columns["bc"] = [_BC.get(flag, b"null") for flag in answer.violation[part].tolist()]
        pieces: list[Iterable[bytes]] = [repeat(common)]
        for name, texts in columns.items():
            pieces += [repeat(f',"{name}":'.encode()), texts]
        yield b"".join(chain.from_iterable(zip(*pieces, repeat(b"}\n"), strict=False)))


def _numbers(column: Floats) -> list[bytes]:
    """Format numbers as JSON does; NaN becomes null."""
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


_BC = {0.0: b"false", 1.0: b"true"}
