"""Placing: one result folder takes another's place whole, whoever is killed meanwhile; without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from haversack.artifact import CODED_FILE
from haversack.disk import (
    LISTING,
    REPLACED,
    aside,
    digest_of,
    digests,
    disk_errors,
    hidden,
    listed,
    locked,
    recover,
    retired,
    seal,
    write_listing,
)
from haversack.errors import UntrustedError, WorkspaceError
from haversack.progress import tell
from haversack.result import NETWORK, TEXTS, WORKSPACE
from haversack.runtimes import formats

_COMPLETE = ".complete"
# What results of versions without a listing consist of.
_BEFORE_LISTINGS = {*(known.file for known in formats()), *(CODED_FILE, *TEXTS, NETWORK)}


def check_place(folder: Path) -> None:
    """Makes `folder` ready for a result: what a killed run began is finished, an older result is known as such.

    Raises WorkspaceError where it holds something else, which a result must not replace.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        inside = {each.name for each in folder.iterdir() if not each.name.startswith(".")} - {WORKSPACE}
        ours = _tops(folder)
        foreign = (inside - ours) & _BEFORE_LISTINGS if ours else inside - _BEFORE_LISTINGS
        if not inside or (ours and not foreign):
            return
        if foreign or not (folder / NETWORK / "network.json").is_file():
            raise WorkspaceError(
                f"it holds {min(foreign or inside)}, which is of no result of haversack.",
                where=str(folder),
                mend="name a new folder, or an empty one, with --out.",
            )
        _relist(folder, digests(folder, inside))


@contextmanager
def anew(folder: Path) -> Iterator[Path]:
    """Where to write a result that then takes an older one's place in `folder`; no exchange where the block raises.

    All is written beside the older result: whoever is killed meanwhile leaves the old one, or none with the new one
    whole beside it, which the next command puts in place. `workspace` stays as it is.
    """
    check_place(folder)
    with disk_errors(folder), aside(folder) as fresh:
        yield fresh
        seal(fresh)
        replaced = _exchange(folder, fresh)
    if replaced:
        tell(f"the older result in {folder} gave way to this one.")


def settled(folder: Path) -> None:
    """Puts what a killed run left half exchanged in its place, where there is such a folder."""
    if folder.is_dir():
        with disk_errors(folder):
            _recover(folder)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Puts one file of a result, written anew, in the place of the one there."""
    with disk_errors(folder), aside(folder) as fresh:
        (fresh / name).write_bytes(content)
        digest = digest_of(fresh / name)
        (fresh / name).replace(folder / name)
        if _tops(folder):
            _relist(folder, {**listed(folder), name: digest})


def _exchange(folder: Path, fresh: Path) -> bool:
    """Puts what is in `fresh` in the place of the result in `folder`; whether there was one."""
    with locked(folder):
        ours = _tops(folder)
        there = sorted(each.name for each in fresh.iterdir() if (folder / each.name).exists())
        foreign = [name for name in there if name not in ours]
        if foreign:
            raise WorkspaceError(
                f"it holds {foreign[0]}, which is no part of the result there.",
                where=str(folder),
                mend="move it elsewhere, or name another folder with --out.",
            )
        fresh.replace(folder / _COMPLETE)
        _finish(folder)
    return bool(ours)


def _recover(folder: Path) -> None:
    """Finishes an exchange that a kill broke off, then sweeps what else it left."""
    with locked(folder):
        _finish(folder)
    recover(folder)


def _finish(folder: Path) -> None:
    """Puts what is complete in place, file by file; can be broken off anywhere and done again.

    All of the old result leaves, its listing last, before anything of the new one comes, its listing last: a listing in
    the folder is of the old result as long as something is left to be put in place.
    """
    complete = folder / _COMPLETE
    if not (complete.is_symlink() or complete.exists()):
        return
    waiting = not complete.is_symlink() and complete.is_dir()
    if not waiting or (any(complete.iterdir()) and not (complete / LISTING).is_file()):
        raise WorkspaceError("it is none of haversack's folders.", where=str(complete), mend="move it elsewhere.")
    if any(complete.iterdir()):
        ours, old = _tops(folder), retired(folder)
        for name in sorted(ours, key=lambda each: each == LISTING):
            if (folder / name).exists():
                (folder / name).replace(old / name)
        for each in sorted(complete.iterdir(), key=lambda each: each.name == LISTING):
            each.replace(folder / each.name)
    for old in hidden(folder, REPLACED):
        shutil.rmtree(old)
    complete.rmdir()


def _tops(folder: Path) -> set[str]:
    """What of `folder` is its result's: files and folders, and the listing itself; nothing where there is none."""
    if not (folder / LISTING).exists():
        return set()
    try:
        return {LISTING, *(name.partition("/")[0] for name in listed(folder))} - {WORKSPACE}
    except UntrustedError as error:
        raise WorkspaceError(
            error.what, where=error.where, mend="name a new folder, or an empty one, with --out."
        ) from error


def _relist(folder: Path, files: Mapping[str, str]) -> None:
    """Gives a result another listing."""
    with aside(folder) as fresh:
        write_listing(fresh, files)
        (fresh / LISTING).replace(folder / LISTING)
