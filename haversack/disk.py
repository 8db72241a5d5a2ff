"""Disk: folders that are whole or absent, whoever writes them, is killed meanwhile or runs out of space."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from haversack.errors import UntrustedError, WorkspaceError
from haversack.untrusted import plain_name, read_json, typed

try:
    import fcntl
except ImportError:  # Windows: nobody waits there, and nothing is swept
    fcntl = None  # type: ignore[assignment]

LISTING = "files.json"
"""Holds the digest of each file of a sealed folder."""
_UNFINISHED, REPLACED = ".unfinished-", ".replaced-"
_LARGEST = 1 << 31
"""Where protobuf ends, and with it every ONNX file; so nobody hashes for hours what only claims to be long."""


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Whatever the disk refuses within this block is a WorkspaceError that names `place`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WorkspaceError(
            "the disk is full." if full else f"it cannot be written: {error.strerror}.",
            where=str(place),
            mend="free some space (or choose another folder) and run the same command again: finished work is kept.",
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Within this block no other process is in a block of the same folder. A lock ends with the process, killed too.

    It is told whether that holds: not everywhere can folders be locked.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent` to write in, which is gone after the block unless it was moved elsewhere."""
    with locked(parent):
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
        if fcntl and handle is not None:
            _lock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def put(folder: Path, place: Path) -> None:
    """Moves `folder` to `place`. What is there already leaves whole."""
    with locked(place.parent):
        if place.exists() or place.is_symlink():
            old = retired(place.parent)
            place.replace(old / place.name)
            folder.replace(place)
            shutil.rmtree(old)
        else:
            folder.replace(place)


def retired(parent: Path) -> Path:
    """A new hidden folder in `parent` for what gives way to something newer."""
    return Path(tempfile.mkdtemp(prefix=REPLACED, dir=parent))


def recover(parent: Path) -> None:
    """What killed processes left in `parent`: what had given way to nothing comes back, what is unfinished goes."""
    with locked(parent):
        for old in hidden(parent, REPLACED):
            for each in old.iterdir():
                if not (parent / each.name).exists():
                    each.replace(parent / each.name)
            shutil.rmtree(old)
        for unfinished in hidden(parent, _UNFINISHED):
            if not _is_held(unfinished):
                shutil.rmtree(unfinished)


def hidden(parent: Path, prefix: str) -> Iterator[Path]:
    """The hidden folders in `parent` whose names start so; a link to elsewhere is none."""
    return (each for each in list(parent.glob(f"{prefix}*")) if each.is_dir() and not each.is_symlink())


def _is_held(folder: Path) -> bool:
    """Whether a process that lives still writes there."""
    if fcntl is None:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(BlockingIOError):
            return not _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    finally:
        os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """Locks a folder; False where its file system, such as NFS, does not lock folders: there nobody waits either."""
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def seal(folder: Path) -> None:
    """Writes down the digest of each file in `folder` in a listing there."""
    write_listing(folder, digests(folder, [each.name for each in folder.iterdir()]))


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The digest of each of these files in `folder`, and of each file in these folders there."""
    tops = (folder / name for name in names)
    found = (each for top in tops for each in ([top] if top.is_file() else top.rglob("*")) if each.is_file())
    return {each.relative_to(folder).as_posix(): digest_of(each) for each in found}


def write_listing(folder: Path, files: Mapping[str, str]) -> None:
    """Writes down the digests of these files in `folder`."""
    text = json.dumps({"files": dict(sorted(files.items()))}, indent=1)
    (folder / LISTING).write_text(f"{text}\n", encoding="utf-8")


def listed(folder: Path) -> dict[str, str]:
    """The files that `seal` wrote down, with their digests; raises UntrustedError where it did not."""
    path = folder / LISTING
    files = typed(_Listing, read_json(path), str(path)).files
    strange = [name for name in files if not all(map(plain_name, name.split("/")))]
    if strange:
        raise UntrustedError(f"it names {strange[0]!r}, which is no file in this folder.", where=str(path))
    return dict(files)


def changed(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Those of the files, by name with their digests, that are gone from `folder`, or no longer what they were."""
    return [name for name, digest in files.items() if not _holds(folder, name, digest)]


@dataclass(frozen=True)
class _Listing:
    files: Mapping[str, str]


def _holds(folder: Path, name: str, digest: str) -> bool:
    try:
        return digest_of(file_in(folder, name)) == digest
    except (OSError, UntrustedError):
        return False


def file_in(folder: Path, name: str) -> Path:
    """Where a file lies in `folder`; raises UntrustedError for a name or link that leads elsewhere, and for no file."""
    parts = name.split("/")
    if not all(map(plain_name, parts)):
        raise UntrustedError(f"{name!r} is no file in this folder.", where=str(folder))
    path = folder
    for part in parts[:-1]:
        path /= part
        if stat.S_ISLNK(_status(path).st_mode):
            raise UntrustedError("it is a link, and leads elsewhere.", where=str(path), mend="put the folder there.")
    check_regular(path / parts[-1])
    return path / parts[-1]


def check_regular(path: Path) -> None:
    """Raises UntrustedError unless `path` is itself a file, and of a size that files here may have."""
    known = _status(path)
    if not stat.S_ISREG(known.st_mode):
        raise UntrustedError("it cannot be read: no regular file.", where=str(path))
    if known.st_size > _LARGEST:
        raise UntrustedError(f"it has more than {_LARGEST:,} bytes.", where=str(path))


def _status(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as error:
        raise UntrustedError(f"it cannot be read: {error.strerror}.", where=str(path)) from error


def digest_of(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
