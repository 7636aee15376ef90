"""The policy file put in force: at the start, and whenever it changes. What may not be put in force changes nothing, and says where it is wrong.

A start whose file may not be put in force goes on with the version that was in force last, and says so; only where there is none, it is refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from config.database import Database
from config.schema import read_state
from config.settings import Settings, load_settings
from config.yamlfile import Problem, YamlError
from policies.load import PolicyError
from router import policy_store
from router.audit.changes import recorded_policy
from router.audit.log import FILE, AuditLog, Entry, Subject
from router.launch import MIGRATIONS, Launch
from router.policy_checks import check_blocking
from router.policy_file import STARTED, FileStatus, FileWatch, problems_of, put, told, write_status

log = structlog.get_logger("headgate.policy")


def settings_at_start(launch: Launch) -> Settings:
    """The settings of the policy file; where its YAML cannot be read, those with which this home was started last.

    That home is the environment's, for the file does not tell it. Raises the file's own `YamlError` where it was never started.
    """
    try:
        return launch.settings()
    except YamlError as error:
        started = load_settings(launch.environ()).home / STARTED
        try:
            settings = load_settings(launch.environ(), started.read_text(encoding="utf-8"), launch.config)
        except (OSError, ValueError):
            raise error from None
        if settings.home.resolve() != started.parent.parent.resolve():
            raise
        return settings


class PolicyFile:
    """The file of one service. `text` is what it held when the service started; `problem` why that could not be put in force."""

    def __init__(self, launch: Launch, settings: Settings) -> None:
        self._launch = launch
        self._settings = settings
        self.text = ""
        self.problem: PolicyError | YamlError | None = None
        self.version: int | None = None
        self._watch = FileWatch(launch.text, "")

    def read(self) -> None:
        """Read and check it, for the start. Raises `OSError` or `UnicodeDecodeError`; what else is wrong is remembered as the `problem`."""
        self.text = self._launch.text()
        self._watch = FileWatch(self._launch.text, self.text)
        try:
            check_blocking(self.text, self._launch.config, self._launch.environ())
        except YamlError as error:
            self.problem = error

    def require_last_good(self, database: Database) -> None:
        """Raises the file's problem where no version in the database can be put in force in its place."""
        if self.problem is None:
            return
        try:
            if database.read_blocking(lambda connection: read_state(connection, MIGRATIONS)).standing != "current":
                raise self.problem
            last = database.read_blocking(policy_store.active_version)
        except (SQLAlchemyError, OSError):
            raise self.problem from None
        if last is None:
            raise self.problem
        try:
            check_blocking(last.text, f"version {last.version}", self._launch.environ(), cases=False)
        except PolicyError as error:
            log.error("last_good_policy_refused", version=last.version, problems=str(error))
            raise self.problem from None
        log.error("policy_file_refused", problems=str(self.problem), serving=last.version)

    def keep_settings(self) -> Launch:
        """How processes that start later are launched: with the settings of this start, whatever has become of the file. The home's folder `run` is there."""
        kept = self._settings.home / STARTED
        try:
            self._launch.settings()
        except YamlError:
            pass  # those of an earlier start are used, and stay
        else:
            put(kept, self.text.encode())
        return Launch(config=self._launch.config, overrides=self._launch.overrides, started=str(kept.resolve()))

    def import_first(self, connection: Connection) -> None:
        """Put the file in force, if it may be; else what was in force stays. Within the transaction of the start."""
        if self.problem is None:
            policy_store.import_file(connection, self.text)
        active = policy_store.active_version(connection)
        self.version = None if active is None else active.version

    def say(self) -> list[str]:
        """What a person who starts the service must see; writes down the state of the file for the workers."""
        problems = () if self.problem is None else problems_of(self.problem)
        self._status(self.text, self.version, problems)
        if not problems:
            return []
        where = [f"    {self._launch.config}:{problem.line}:{problem.column}: {problem}" for problem in problems]
        return [f"  THE POLICY FILE IS NOT IN FORCE: it has problems, and policy version {self.version}, the last good one, is served:", *where]

    def look(self, database: Database, audit: AuditLog) -> None:
        """Put the file in force if it has changed and may be; else say what is wrong, once, and change nothing. Comes every tick."""
        if self._watch.changed() and self._import(database, audit):
            self._watch.take()

    def _import(self, database: Database, audit: AuditLog) -> bool:
        """False where the database does not take it now: then it is tried again at the next tick."""
        text = ""
        try:
            text = self._launch.text()
            check_blocking(text, self._launch.config, self._launch.environ())
        except (ValueError, OSError) as error:
            self._refuse(database, audit, text, problems_of(error))
            return True
        try:
            work = recorded_policy(audit, FILE, "policy.import", lambda connection: policy_store.import_file(connection, text))
            version = database.write_blocking(work)
        except (SQLAlchemyError, OSError) as error:
            log.error("policy_file_not_imported", error=type(error).__name__)
            return False
        self.version = version.version
        self._status(text, version.version, ())
        log.info("policy_file_imported", version=version.version)
        return True

    def _refuse(self, database: Database, audit: AuditLog, text: str, problems: Sequence[Problem]) -> None:
        log.error("policy_file_refused", problems=told(problems), path=self._launch.config)
        self._status(text, self.version, problems)
        first: dict[str, Any] = {"line": problems[0].line, "column": problems[0].column} if problems else {}
        details = {"hash": policy_store.policy_hash(text), "problems": len(problems), **first}
        entry = Entry(FILE, "policy.import", Subject("policy", "", "", details), "refused")
        try:
            database.write_blocking(lambda connection: audit.append(connection, entry))
        except (SQLAlchemyError, OSError) as error:
            log.error("policy_refusal_not_recorded", error=type(error).__name__)

    def _status(self, text: str, version: int | None, problems: Sequence[Problem]) -> None:
        status = FileStatus(
            path=self._launch.config,
            hash=policy_store.policy_hash(text),
            valid=not problems,
            problems=tuple(problems),
            version=version,
            at=time.time(),
        )
        try:
            write_status(self._settings.home, status)
        except OSError as error:
            log.error("policy_status_not_written", error=type(error).__name__)
