"""How the processes of one service find each other: what the command line was told, resolved once and handed on."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from sqlalchemy import Connection

from config.database import Database, open_database
from config.schema import migrate, prepare, require_current
from config.settings import Settings, load_settings
from config.yamlbundle import bundled
from policies.including import included_names
from retrieval.blobs import FolderBlobs
from retrieval.store import Documents
from router.limits.remote import Remote
from router.limits.shared_memory import SharedMemory
from router.limits.sql import SqlTransport
from router.limits.values import Store

if TYPE_CHECKING:
    from adapters.embedding import Embedder
    from retrieval.ingest import Ingestor

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_POLICY = ROOT / "config" / "defaults" / "headgate.yaml"
MIGRATIONS = (ROOT / "router" / "migrations", ROOT / "retrieval" / "migrations")


class Launch(Struct, frozen=True):
    """The policy file and the settings it and the environment give; `overrides` are the command line's `HEADGATE_*` equivalents."""

    config: str
    overrides: dict[str, str] = {}

    def environ(self) -> Mapping[str, str]:
        return {**os.environ, **self.overrides}

    def text(self) -> str:
        """The policy file with the files that it includes, as one text that stands alone. Raises `OSError` or `UnicodeDecodeError` for the file itself."""
        file = Path(self.config)
        text = file.read_text(encoding="utf-8")
        return bundled(text, included_names(text), lambda name: _included(file.parent / name))

    def settings(self) -> Settings:
        """Raises `YamlError` or `SettingsError`."""
        return load_settings(self.environ(), self.text(), self.config)

    def command(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]


def _included(file: Path) -> str | None:
    """None for what cannot be read: then the policy is not valid, and says so where it names the file."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def installed(module: str) -> bool:
    """Whether a module of an extra is there, without importing it."""
    return importlib.util.find_spec(module) is not None


def prepare_home(settings: Settings) -> None:
    """Make the home folder where it is not there, for its owner only: it holds documents, decisions and the secret. Raises `OSError`."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_to_others(settings: Settings) -> str | None:
    """What to say where other users of the machine may look into the home folder; it stays as its owner made it."""
    try:
        mode = stat.S_IMODE(settings.home.stat().st_mode)
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return f"others may look into {settings.home.resolve()} (mode {mode:o}), where documents and decisions lie: chmod 700 it, and chmod 600 its headgate.db*"


def open_state(settings: Settings) -> Database:
    """The database of these settings, not migrated."""
    return open_database(settings.database, durability=settings.durability)


def migrate_state(database: Database) -> None:
    """Bring every package's tables to their newest form."""
    migrate(database, MIGRATIONS)


def prepare_state(database: Database, settings: Settings) -> None:
    """Make the tables of a new database. Raises `SettingsError` for an older one unless `auto_migrate` upgrades it, and for a newer one."""
    prepare(database, MIGRATIONS, auto=settings.auto_migrate)


def require_state(connection: Connection) -> None:
    """For processes that find the database prepared: raises `SettingsError` where it is not, or not any more."""
    require_current(connection, MIGRATIONS)


def open_blobs(settings: Settings) -> FolderBlobs:
    """Where the originals of documents lie."""
    return FolderBlobs(settings.home / "files")


def open_documents(database: Database, settings: Settings) -> Documents:
    return Documents(database, open_blobs(settings), max_file_bytes=settings.upload_max_mb * 2**20)


def open_ingestor(database: Database, settings: Settings, embedder: Embedder) -> Ingestor:
    """What indexes this home's uploads; whatever may be uploaded may be indexed."""
    from retrieval.ingest import Ingestor
    from retrieval.parse import Limits

    return Ingestor(database, open_blobs(settings), embedder, limits=Limits(bytes=settings.upload_max_mb * 2**20))


def open_limits(settings: Settings, database: Database, worker: str) -> Store:
    """Where a worker's limits are counted: Redis where there is one, else a PostgreSQL that replicas share, else the memory of this host."""
    if settings.redis_url is not None:
        from router.limits.redis import RedisTransport

        return Remote(RedisTransport(settings.redis_url, worker))
    if database.dialect == "postgresql":
        return Remote(SqlTransport(database, worker))
    return SharedMemory(settings.home / "run" / "limits")


def socket_path(home: Path) -> Path:
    """Where the compute process of this home listens. A socket's path has a short limit, so a deep home gets a short one elsewhere."""
    path = home.resolve() / "run" / "compute.sock"
    if len(str(path)) < 100:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"headgate-{os.getuid()}-{digest}" / "compute.sock"
