"""Names: a tensor's name as what it adds to the name before it, since most differ in their ends only."""

from __future__ import annotations

import itertools

from haversack.coded.bits import Cursor
from haversack.errors import CodedError

_LONGEST = 255
_ENDINGS = (b"", b".weight", b".bias")
_SHARED = 63


def name_bytes(name: str, before: str) -> bytes:
    """The name, given the one before it: how many bytes they share and a common ending, then the rest."""
    whole = name.encode()
    if b"\0" in whole:
        raise CodedError(f"the name {name!r} has a zero byte.", mend="leave it out.")
    if len(whole) > _LONGEST:
        raise CodedError(f"the name {name[:40]}... is longer than 255 bytes.", mend="shorten it.")
    ending = next(index for index in (1, 2, 0) if whole.endswith(_ENDINGS[index]))
    stem = whole.removesuffix(_ENDINGS[ending])
    pairs = zip(stem[:_SHARED], before.encode(), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return bytes([shared << 2 | ending, len(stem) - shared]) + stem[shared:]


def read_name(cursor: Cursor, before: str) -> str:
    """The name at the cursor; raises CodedError where there is none."""
    shared, ending = divmod(cursor.byte(), 4)
    if ending == len(_ENDINGS) or shared > len(before.encode()):
        raise CodedError("a name in the file is damaged.", mend="fetch it again.")
    whole = before.encode()[:shared] + cursor.take(cursor.byte()) + _ENDINGS[ending]
    if len(whole) > _LONGEST or b"\0" in whole:
        raise CodedError("a name in the file is damaged.", mend="fetch it again.")
    try:
        return whole.decode()
    except UnicodeDecodeError:
        raise CodedError("a name in the file is damaged.", mend="fetch it again.") from None
