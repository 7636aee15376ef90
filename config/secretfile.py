"""The two secrets of an installation: the admin's first key, and the secret that API keys are hashed with."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from config.settings import SettingsError
from config.weakness import weakness

FILE_NAME = "secret"


class Secret:
    """A string that shows itself only to `reveal()`: not in `repr`, a traceback, a log line or an f-string."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def admin_key(environ: Mapping[str, str], names: Iterable[str] = ()) -> Secret | None:
    """`HEADGATE_ADMIN_KEY`, or None where it is not set. Raises `SettingsError` when it can be guessed (`names`: the tenants'), or could not be sent."""
    key = _from(environ, "HEADGATE_ADMIN_KEY", names)
    if key is not None and not re.fullmatch(r"[!-~]{1,8192}", key.reveal()):
        raise SettingsError(["HEADGATE_ADMIN_KEY is refused: it cannot be sent in a header; use printable ASCII characters without spaces"])
    if key is not None and key.reveal() == environ.get("HEADGATE_SECRET"):
        raise SettingsError(["HEADGATE_ADMIN_KEY is refused: it is HEADGATE_SECRET too; whoever is given the one must not know the other"])
    return key


def load_secret(environ: Mapping[str, str], home: Path) -> Secret:
    """`HEADGATE_SECRET`, else the content of `home/secret`, which is made at the first call, readable by its owner only.

    Safe against processes that start together: all of them get the same secret, and no one ever sees half a file. Raises `SettingsError`.
    """
    secret = _from(environ, "HEADGATE_SECRET")
    if secret is not None:
        return secret
    path = home / FILE_NAME
    try:
        if not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror or error}; set HEADGATE_SECRET, or let HEADGATE_HOME name a folder that can be written"]) from error


def _from(environ: Mapping[str, str], variable: str, names: Iterable[str] = ()) -> Secret | None:
    value = environ.get(variable)
    if not value:
        return None
    reason = weakness(value, names)
    if reason is not None:
        raise SettingsError([f"{variable} is refused: {reason}"])
    return Secret(value)


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was quicker: its secret is the one
            os.link(draft, path)
    finally:
        draft.unlink()


def _read(path: Path) -> Secret:
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise SettingsError([f"{path} can be read by others (mode {mode:o}): run chmod 600 on it"])
        value = file.read().strip()
    reason = weakness(value)
    if reason is not None:
        raise SettingsError([f"{path} is refused: {reason}; restore it, since the keys that exist were hashed with it"])
    return Secret(value)
