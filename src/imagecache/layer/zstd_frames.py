"""Where the blocks of a zstd stream end, without decompressing them.

A zstd block expands to at most 128 KiB, and a decompressor has output only for whole blocks. So input that is cut every
N blocks gives output in bounded pieces, whatever the ratio; and the end of the last frame is known exactly, so a stream
that is cut off is detected. It must not decompress. Source: RFC 8878 section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imagecache.errors import LimitExceeded, MalformedLayer

BLOCK_MAXIMUM = 128 * 1024
"""Block_Maximum_Size (RFC 8878 section 3.1.1.2.4)."""

_FRAME_MAGIC = 0xFD2FB528
_SKIPPABLE_MAGIC = 0x184D2A50
_DICTIONARY_ID_SIZES = (0, 1, 2, 4)
_CONTENT_SIZE_SIZES = (0, 2, 4, 8)
_RLE_BLOCK = 1
_CHECKSUM = 4


class FrameWalker:
    """Follows a stream that arrives in chunks of any size. ``max_window`` is bytes."""

    def __init__(self, max_window: int) -> None:
        self._max_window = max_window
        self._blocks = 0
        self._descriptor = 0
        self._held = bytearray()
        """The field that is being collected."""
        self._await(4, self._on_magic)

    @property
    def at_frame_end(self) -> bool:
        """The stream may end here: between two frames."""
        return self._then == self._on_magic and not self._held

    def cuts(self, chunk: memoryview, blocks: int) -> Iterator[int]:
        """Where to cut ``chunk``, so that no piece has the ends of more than ``blocks`` blocks; last is its end.

        Raises MalformedLayer for bytes that are not a zstd frame, LimitExceeded for a window over the maximum.
        """
        at, cut_at = 0, self._blocks + blocks
        while at < len(chunk):
            at += self._step(chunk, at)
            if self._blocks >= cut_at and at < len(chunk):
                cut_at = self._blocks + blocks
                yield at
        yield len(chunk)

    def _await(self, size: int, then: Callable[[bytes], None], *, pass_over: bool = False) -> None:
        """Collect (or only skip) ``size`` bytes, then call ``then`` with them."""
        self._need = size
        self._then = then
        self._passing = pass_over
        if size == 0:
            then(b"")

    def _step(self, chunk: memoryview, at: int) -> int:
        """Use as much of the chunk as the current field needs; returns how much that was."""
        used = min(self._need, len(chunk) - at)
        if not self._passing:
            self._held += chunk[at : at + used]
        self._need -= used
        if self._need == 0:
            field = bytes(self._held)
            self._held.clear()
            self._then(field)
        return used

    def _on_magic(self, field: bytes) -> None:
        magic = int.from_bytes(field, "little")
        if magic == _FRAME_MAGIC:
            self._await(1, self._on_descriptor)
        elif magic & ~0xF == _SKIPPABLE_MAGIC:
            self._await(4, self._on_skippable_size)
        else:
            raise MalformedLayer(f"not a zstd frame: it starts with {field.hex()}")

    def _on_skippable_size(self, field: bytes) -> None:
        self._await(int.from_bytes(field, "little"), self._on_frame_end, pass_over=True)

    def _on_frame_end(self, _: bytes) -> None:
        self._await(4, self._on_magic)

    def _on_descriptor(self, field: bytes) -> None:
        self._descriptor = descriptor = field[0]
        single_segment = descriptor >> 5 & 1
        # A single segment always states its content size: flag 0 means one byte then (section 3.1.1.1.1.1).
        content_size = _CONTENT_SIZE_SIZES[descriptor >> 6] or single_segment
        self._await((1 - single_segment) + _DICTIONARY_ID_SIZES[descriptor & 3] + content_size, self._on_frame_header)

    def _on_frame_header(self, field: bytes) -> None:
        if self._descriptor >> 5 & 1:
            size = int.from_bytes(field[_DICTIONARY_ID_SIZES[self._descriptor & 3] :], "little")
            # A two-byte content size has an offset of 256, since one byte holds the smaller ones.
            window = size + 256 if self._descriptor >> 6 == 1 else size
        else:
            base = 1 << (10 + (field[0] >> 3))
            window = base + base // 8 * (field[0] & 7)
        if window > self._max_window:
            raise LimitExceeded(f"a zstd frame needs a window of {window} bytes, over the limit of {self._max_window}")
        self._await(3, self._on_block_header)

    def _on_block_header(self, field: bytes) -> None:
        header = int.from_bytes(field, "little")
        # An RLE block stores one byte, whatever its Block_Size, which is the regenerated one.
        size = 1 if header >> 1 & 3 == _RLE_BLOCK else header >> 3
        self._await(size, self._on_last_block if header & 1 else self._on_block, pass_over=True)

    def _on_block(self, _: bytes) -> None:
        self._blocks += 1
        self._await(3, self._on_block_header)

    def _on_last_block(self, _: bytes) -> None:
        self._blocks += 1
        self._await(_CHECKSUM if self._descriptor >> 2 & 1 else 0, self._on_frame_end, pass_over=True)
