"""Scratch: a temporary folder, and a clear word where the system gives none or has no room in it."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from haversack.errors import WorkspaceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEND = "free some space there, or name another folder in the environment variable TMPDIR."


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that goes when the work is done. Raises WorkspaceError where it cannot be written to."""
    try:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        raise WorkspaceError(f"no temporary folder can be made: {error.strerror}.", mend=_MEND) from error
    with folder:
        try:
            yield Path(folder.name)
        except OSError as error:
            inside = str(error.filename or "").startswith(folder.name)
            if not inside and error.errno not in _FULL:
                raise
            why = "the disk is full" if error.errno in _FULL else f"it cannot be written: {error.strerror}"
            raise WorkspaceError(f"{why}.", where=f"temporary folder {Path(folder.name).parent}", mend=_MEND) from error
