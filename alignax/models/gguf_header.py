"""Whether the counts and lengths of a GGUF file's header can be true, before anybody trusts them.

The package gguf reads whatever number of elements an array claims to have, of which there may be
fewer in the file, and keeps an array of NumPy, 0.6 KB, for each number and two for each text.

    magic, version   u32, u32
    tensors, keys    u64, u64
    each key         name, type u32, value
    each tensor      name, dimensions u32, one u64 each, type u32, offset u64
    name, text       length u64, bytes
    array            type u32, length u64, elements
"""

import mmap
import struct
from pathlib import Path

MOST_KEPT = 1_500_000  # 1 GB; a vocabulary of 128,000 with 280,000 merges and its kinds is 0.94M
_OF_KEY, _OF_TENSOR, _OF_TEXT = 4, 6, 2  # arrays that gguf keeps
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of plain types
_TEXT, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4  # of a tensor of ggml


def check_header(path: Path) -> None:
    """Reads through the header once.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no GGUF file, or one that cannot be whole.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("an empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                _Header(content).walk()
            except struct.error as error:
                raise ValueError("a header that breaks off") from error


class _Header:
    """A place in a header, which moves on as numbers and texts are read."""

    def __init__(self, content: mmap.mmap):
        self._content, self._at, self._kept = content, 0, 0
        self._order = "<"

    def walk(self) -> None:
        if self._content[:4] != b"GGUF":
            raise ValueError("another magic number than GGUF")
        if self._content[4:6] == b"\0\0":  # the version of a file of the other byte order
            self._order = ">"
        self._at = 8
        tensors, keys = self._long(), self._long()
        for _ in range(keys):
            self._keep(_OF_KEY)
            self._text()
            self._value(self._int())
        for _ in range(tensors):
            self._keep(_OF_TENSOR)
            self._text()
            dimensions = self._int()
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 12)

    def _value(self, kind: int) -> None:
        if kind == _TEXT:
            self._text()
        elif kind == _ARRAY:
            of, count = self._int(), self._long()
            self._keep(count * (_OF_TEXT if of == _TEXT else 1))
            if of == _TEXT:
                for _ in range(count):
                    self._text()
            else:
                self._skip(count * self._size(of))
        else:
            self._skip(self._size(kind))

    def _keep(self, arrays: int) -> None:
        self._kept += arrays
        if self._kept > MOST_KEPT:
            raise ValueError(f"a header of {self._kept:,} numbers and texts")

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError(f"a value of type {kind}" + " in an array" * (kind == _ARRAY))
        return _SIZES[kind]

    def _int(self) -> int:
        return self._number("I", 4)

    def _long(self) -> int:
        return self._number("Q", 8)

    def _number(self, form: str, size: int) -> int:
        (found,) = struct.unpack_from(self._order + form, self._content, self._at)
        self._at += size
        return found

    def _text(self) -> None:
        self._skip(self._long())

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._content):
            raise ValueError("a header that breaks off")
