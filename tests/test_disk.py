import errno
import os
import tempfile
from pathlib import Path

import pytest

from haversack.disk import scratch_folder
from haversack.errors import WorkspaceError


def test_a_temporary_folder_is_there_and_then_gone() -> None:
    with scratch_folder() as folder:
        (folder / "file").write_bytes(b"1")
    assert not folder.exists()


def write(name: str) -> None:
    with scratch_folder() as folder:
        (folder / name).write_bytes(b"1")


def fill() -> None:
    with scratch_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_place_for_temporary_files_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(WorkspaceError, match="no temporary folder can be made: No such file") as refused:
        write("file")
    assert "TMPDIR" in refused.value.mend


def test_a_full_disk_and_a_folder_that_cannot_be_written_to_are_named() -> None:
    where = f"temporary folder {tempfile.gettempdir()}"
    with pytest.raises(WorkspaceError, match=f"{where}: the disk is full"):
        fill()
    with pytest.raises(WorkspaceError, match=f"{where}: it cannot be written: No such file"):
        write("none/file")


def test_an_error_about_another_file_is_none_of_its() -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), scratch_folder():
        Path("elsewhere").read_bytes()
