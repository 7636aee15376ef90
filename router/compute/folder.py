"""The folder of the compute socket: in a place where everybody may write, somebody else could have made it first, to listen in our stead."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from router.compute.protocol import ProtocolError


class UnsafeFolder(ProtocolError, PermissionError):
    """The socket's folder could be another user's."""


def check_folder(folder: Path) -> None:
    """Raises `UnsafeFolder` where others may write in or beside the folder and it is not a directory that only this user may enter.

    A folder that passes cannot be exchanged by others: such places (`/tmp`) let nobody remove what is somebody else's. Raises
    `FileNotFoundError` where it is missing.
    """
    found = folder.lstat()
    if not (found.st_mode | folder.parent.stat().st_mode) & stat.S_IWOTH:
        return
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeFolder(f"{folder} is no directory, and others may write beside it: remove it")
    if found.st_uid != os.getuid():
        raise UnsafeFolder(f"{folder} belongs to user {found.st_uid}, not to this one ({os.getuid()}): remove it, or choose a shorter HEADGATE_HOME")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeFolder(f"others may use {folder} (mode {stat.S_IMODE(found.st_mode):o}): remove it, or chmod 700 it")
