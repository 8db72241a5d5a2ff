"""CBOR: the few kinds of values that a header needs, each in the one way that RFC 8949 allows it (section 4.2.1).

cbor2 writes. What is read may come from anyone, so no general parser sees it: whole numbers, bytes, texts, lists and
maps with rising whole numbers as keys are all there is, lengths are the shortest, and levels are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2

from haversack.errors import UpdateError

Value = int | bytes | str | list["Value"] | dict[int, "Value"]

_DEPTH = 4
_NUMBER, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP = range(6)


def written(value: Value) -> bytes:
    """The value in its deterministic encoding."""
    return cbor2.dumps(value, canonical=True)


def read(content: bytes) -> Value:
    """The value that these bytes are; raises UpdateError where they are none, more than one, or written otherwise."""
    items = Items(content)
    value = items.value()
    items.close()
    return value


@dataclass
class Items:
    """Reads one data item after the other from `at` on; raises UpdateError for what `written` would not write."""

    content: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self.content) - self.at:
            raise UpdateError("it is cut off.", mend="fetch it again.")
        self.at += count
        return self.content[self.at - count : self.at]

    def expect(self, start: bytes) -> None:
        """Goes on behind bytes that must stand here."""
        if self.take(len(start)) != start:
            raise UpdateError("this is no bundle of haversack's.", mend="name a file that `haversack bundle` wrote.")

    def bytes_string(self, most: int) -> bytes:
        """The next item, which is a string of at most `most` bytes."""
        kind, length = self._head()
        if kind != _BYTES:
            raise _damaged()
        if length > most:
            raise UpdateError(f"a part of it has {length:,} bytes, and may have {most:,}.", mend="make a smaller one.")
        return self.take(length)

    def value(self, depth: int = _DEPTH) -> Value:
        """The next item, whatever it is."""
        kind, argument = self._head()
        if kind in (_NUMBER, _NEGATIVE):
            return argument if kind == _NUMBER else -1 - argument
        if kind in (_BYTES, _TEXT):
            return _text(self.take(argument)) if kind == _TEXT else self.take(argument)
        # Each item takes a byte or more, so what is left bounds how many there can be.
        if kind > _MAP or not depth or argument > len(self.content) - self.at:
            raise _damaged()
        if kind == _LIST:
            return [self.value(depth - 1) for _ in range(argument)]
        return self._map(argument, depth - 1)

    def close(self) -> None:
        """Raises UpdateError unless all was read."""
        if self.at != len(self.content):
            raise UpdateError("bytes follow where it should end.", mend="fetch it again.")

    def _map(self, count: int, depth: int) -> dict[int, Value]:
        found: dict[int, Value] = {}
        before = -1
        for _ in range(count):
            kind, key = self._head()
            if kind != _NUMBER or key <= before:
                raise _damaged()
            found[key], before = self.value(depth), key
        return found

    def _head(self) -> tuple[int, int]:
        """The kind of the next item, and the number, length or count that it begins with."""
        kind, short = divmod(self.take(1)[0], 32)
        if short < 24:
            return kind, short
        if short > 27:
            raise _damaged()
        argument = int.from_bytes(self.take(1 << short - 24), "big")
        if argument < (24, 1 << 8, 1 << 16, 1 << 32)[short - 24]:
            raise _damaged()
        return kind, argument


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _damaged() from None


def _damaged() -> UpdateError:
    return UpdateError("it is damaged, or not written as a bundle is.", mend="fetch it again.")
