"""What a proof leaves: C in a folder, plain or as a package, where nothing that somebody else wrote is overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haversack.disk import disk_errors
from haversack.errors import MeasureError, WorkspaceError
from haversack.runtimes.c_source.packages import packaged, require_package
from haversack.runtimes.c_source.write import CModel

_OURS = b"ritten by Haversack"
_HEAD_BYTES = 200


@dataclass(frozen=True)
class Left:
    """The folder, where one is wanted, and the packages that it is; plain files where it is none."""

    folder: Path | None
    packages: tuple[str, ...] = ()

    def check(self) -> None:
        """Nothing, or the error that would come when all is proved.

        Raises MeasureError for a package without a folder, ExportError for one that there is none of or that cannot be
        called like its folder, WorkspaceError for a folder that holds something, but no package of ours.
        """
        if not self.packages:
            return
        if self.folder is None:
            raise MeasureError("--package needs a folder.", mend="add --out NAME: the package is called like it.")
        require_package(self.folder.name, self.packages)
        with disk_errors(self.folder):
            inside = sorted(each.name for each in self.folder.iterdir()) if self.folder.is_dir() else []
            if inside and not _is_ours(self.folder / "src" / self.folder.name / "model.h"):
                raise WorkspaceError(
                    f"it holds {inside[0]}, which is of no package of haversack.",
                    where=str(self.folder),
                    mend="name a new folder, or an empty one, with --out.",
                )

    def write(self, model: CModel) -> None:
        """All files, where a folder is wanted; older ones that say they are ours give way.

        Raises WorkspaceError, and writes nothing, where another one would be lost.
        """
        if self.folder is None:
            return
        plain = {**model.files, **model.around()}
        files = packaged(model, self.folder.name, self.packages) if self.packages else plain
        with disk_errors(self.folder):
            _require_nothing_lost(self.folder, files)
            for name, content in files.items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)


def _require_nothing_lost(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in ((folder / name, content) for name, content in files.items()):
        if path.exists() and not _is_ours(path) and path.read_bytes() != content:
            raise WorkspaceError(
                "it is there already, and is not what would be written.",
                where=str(path),
                mend="name another folder with --out, or move it away; nothing was written.",
            )


def _is_ours(path: Path) -> bool:
    """Whether it is a file that says that we wrote it."""
    return path.is_file() and _OURS in path.read_bytes()[:_HEAD_BYTES]
