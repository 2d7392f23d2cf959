"""Frames appended to files of fixed size: the cheapest way to have something written before it is told.

A copy into mapped space that is on the disk already: what is there survives a kill. SQLite's own commit takes thirty
times as long between two inferences, whose weights have driven it out of the processor's caches. Two files take turns.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import StoreError

CAPACITY_BYTES = 1 << 20  # of each file
MAX_FRAME_BYTES = 1 << 16
_RESERVE_BYTES = CAPACITY_BYTES // 4  # for the ends of what has begun
_HEADER = struct.Struct("<8sQ")  # magic, generation; 0: empty
_FRAME = struct.Struct("<II")  # length, crc32 that begins with the generation
_MAGIC = b"dimeefr1"


class Frames:
    """Two files, of which one is being appended to; used under the caller's lock, but for ``sync``."""

    def __init__(self, path: Path) -> None:
        """Open the files beside ``path``, or make them.

        Raises:
            StoreError: They cannot be written.
        """
        self._path = path
        self._files: list[int] = []
        self._maps: list[mmap.mmap] = []
        try:
            for number in range(2):
                self._files.append(_open(Path(f"{path}-frames{number}")))
                self._maps.append(mmap.mmap(self._files[number], CAPACITY_BYTES))
            generations = [_generation(mapped) for mapped in self._maps]
        except OSError as exc:
            self.close()
            raise StoreError(f"{path}: its frames cannot be written: {exc.strerror}; free some space") from exc
        self._in_order = sorted(range(2), key=lambda number: generations[number])
        self._found = generations
        self._current = self._in_order[1]
        self._generation = max(generations)
        self._mapped = self._maps[self._current]
        self._end = CAPACITY_BYTES  # nothing is appended before ``clear``
        self._is_other_synced = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        while self._maps:
            self._maps.pop().close()
        while self._files:
            os.close(self._files.pop())

    @property
    def is_filling(self) -> bool:
        """Whether it is time to switch."""
        return self._end > CAPACITY_BYTES // 2

    def leftover(self) -> list[bytes]:
        """Read what a former process appended and never emptied, oldest first; a torn end is left out."""
        return [frame for number in self._in_order for frame in _read(self._maps[number], self._found[number])]

    def clear(self) -> None:
        """Empty both files, and begin anew."""
        for number in range(2):
            self._empty(number)
        self._begin()

    def append(self, payload: bytes, *, is_begin: bool = False) -> bool:
        """Write a frame; False where there is no room, of which what begins leaves some for what ends."""
        end = self._end + _FRAME.size + len(payload)
        if end > CAPACITY_BYTES - (_RESERVE_BYTES if is_begin else 0):
            return False
        frame = _FRAME.pack(len(payload), zlib.crc32(payload, self._generation & 0xFFFFFFFF)) + payload
        self._mapped[self._end : end] = frame
        self._end = end
        return True

    def sync(self) -> None:
        """Wait until the disk has what was appended; any thread may.

        Raises:
            StoreError: The disk refuses.
        """
        is_other_synced = self._is_other_synced
        try:
            os.fdatasync(self._files[self._current])
            if not is_other_synced:
                os.fdatasync(self._files[1 - self._current])
                self._is_other_synced = True
        except OSError as exc:
            raise StoreError(f"{self._path}: its frames cannot be synced to disk: {exc.strerror}") from exc

    def switch(self) -> None:
        """Append to the other file from now on, which must be empty."""
        self._current = 1 - self._current
        self._is_other_synced = False
        self._begin()

    def empty_other(self) -> None:
        """Empty the file that is not appended to: all of it is kept elsewhere."""
        self._empty(1 - self._current)

    def _empty(self, number: int) -> None:
        self._maps[number][: _HEADER.size] = _HEADER.pack(_MAGIC, 0)
        try:
            os.fdatasync(self._files[number])
        except OSError as exc:
            raise StoreError(f"{self._path}: its frames cannot be synced to disk: {exc.strerror}") from exc

    def _begin(self) -> None:
        self._generation += 1
        self._mapped = self._maps[self._current]
        self._mapped[: _HEADER.size] = _HEADER.pack(_MAGIC, self._generation)
        self._end = _HEADER.size


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        missing = CAPACITY_BYTES - os.fstat(file).st_size
        if missing > 0:  # written, not only reserved: later writes change no metadata
            os.pwrite(file, bytes(missing), CAPACITY_BYTES - missing)
            os.fsync(file)
    except OSError:
        os.close(file)
        raise
    return file


def _generation(content: mmap.mmap) -> int:
    magic, generation = _HEADER.unpack_from(content)
    return int(generation) if magic == _MAGIC else 0


def _read(content: mmap.mmap, generation: int) -> list[bytes]:
    frames: list[bytes] = []
    place = _HEADER.size if generation else CAPACITY_BYTES
    while place + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, place)
        payload = content[place + _FRAME.size : place + _FRAME.size + length]
        if not length or len(payload) < length or zlib.crc32(payload, generation & 0xFFFFFFFF) != checksum:
            break
        frames.append(payload)
        place += _FRAME.size + length
    return frames
