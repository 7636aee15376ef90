"""Originals: where the uploaded bytes are kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote


class BlobStore(Protocol):
    """Named bytes. Every method blocks; a name is chosen by the caller and never used twice."""

    def begin(self) -> BlobWriter: ...

    def open(self, blob: str) -> BinaryIO:
        """Raises `FileNotFoundError`."""
        ...

    def delete(self, blob: str) -> None:
        """Deleting what is not there is no error."""
        ...


class BlobWriter(Protocol):
    """Bytes on their way in: nobody sees them before `commit`, which makes them durable under a name. `abort` is harmless afterwards."""

    def write(self, data: bytes) -> None: ...

    def commit(self, blob: str) -> None: ...

    def abort(self) -> None: ...


def blob_name(tenant: str, file_id: str) -> str:
    """One folder a tenant. Two uploads never share bytes, so that deleting one cannot race with uploading the other."""
    return f"t-{quote(tenant, safe='')}/{file_id[-2:]}/{file_id}"


class FolderBlobs:
    """Blobs as files in a folder, of mode 600, written beside and renamed into place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"

    def begin(self) -> FolderWriter:
        self._incoming.mkdir(parents=True, exist_ok=True)
        return FolderWriter(self._folder, self._incoming)

    def open(self, blob: str) -> BinaryIO:
        return (self._folder / blob).open("rb")

    def delete(self, blob: str) -> None:
        path = self._folder / blob
        path.unlink(missing_ok=True)
        for parent in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):  # not empty, or another process was first
                parent.rmdir()


class FolderWriter:
    def __init__(self, folder: Path, incoming: Path) -> None:
        self._folder = folder
        handle, name = tempfile.mkstemp(dir=incoming)
        self._file = os.fdopen(handle, "wb")
        self._path = Path(name)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def commit(self, blob: str) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        target = self._folder / blob
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._path.rename(target)
            except FileNotFoundError:
                if not self._path.exists():
                    raise
                continue  # a delete removed the empty folder in between
            break
        _sync_folder(target.parent)

    def abort(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot
    finally:
        os.close(handle)
