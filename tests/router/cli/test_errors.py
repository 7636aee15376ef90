"""Wrong input: status 1 (refused) or 2 (wrong use), a sentence that says what to do next, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.router.cli.kit import Command
from tests.serving import headgate as run_headgate

BAD_POLICY = "version: 1\nbackend: {}\nrules:\n  - {name: a, use: [nope]}\ndefault: extractive\n"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["tenants", "create", "Ac me"], 1, "must be 1-64 of a-z"),
        (["tenants", "create", "acme"], 1, "headgate tenants list"),
        (["keys", "create"], 2, "--tenant NAME"),
        (["keys", "create", "--tenant", "acme", "--role", "membr"], 1, "owner, admin, auditor, member, service"),
        (["keys", "create", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["keys", "list", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["keys", "revoke", "key_1"], 1, "headgate keys list"),
        (["keys", "rotate", "key_1"], 1, "headgate keys list"),
        (["keys", "rotate", "key_1", "--overlap", "soon"], 2, "write 30m, 24h or 7d"),
        (["keys", "create", "--tenant", "acme", "--route", "chats"], 2, "'chats' is not one of 'chat'"),
        (["keys", "create", "--tenant", "acme", "--network", "10.0.0.1/8"], 1, "did you mean 10.0.0.0/8?"),
        (["keys", "create", "--tenant", "acme", "--store", "vs_1"], 1, "No vector store with id 'vs_1'"),
        (["keys", "create", "--tenant", "acme", "--team", "team_1"], 1, "headgate teams list"),
        (["keys", "create", "--tenant", "acme", "--user", "user_1"], 1, "headgate users list"),
        (["keys", "create", "--tenant", "acme", "--expires", "2001-01-01"], 2, "is in the past"),
        (["keys", "create", "--tenant", "acme", "--expires", "soon"], 2, "is not a date"),
        (["teams", "create", "x", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["teams", "archive", "team_1"], 1, "headgate teams list"),
        (["users", "create", "--tenant", "acme", "--role", "operator"], 2, "'operator' is not one of 'owner'"),
        (["users", "disable", "user_1"], 1, "headgate users list"),
        (["usage", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["usage", "--since", "yesterday"], 2, "2026-11-21"),
        (["usage", "extra"], 2, "--help"),
        (["ledger", "export", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["ledger", "export", "--format", "xml"], 2, "'jsonl', 'csv'"),
        (["ledger", "export", "--until", "x"], 2, "2026-11-21"),
        (["documents", "add", "missing.pdf", "--store", "kb"], 2, "does not exist"),
        (["documents", "add", "notes.md", "--store", "kb", "--tenant", "nope"], 1, "headgate tenants create nope"),
        (["documents", "add", "notes.md", "--store", "vs_nope", "--tenant", "acme"], 1, "headgate documents list --tenant acme"),
        (["documents", "list", "--store", "nope", "--tenant", "acme"], 1, "headgate documents list --tenant acme"),
        (["documents", "search", "  ", "--store", "kb"], 2, "give a question"),
        (["documents", "search", "what", "--store", "nope", "--tenant", "acme"], 1, "headgate documents list --tenant acme"),
        (["documents", "delete", "file-1", "--tenant", "acme"], 1, "headgate documents list --tenant acme"),
        (["policy", "validate", "missing.yaml"], 2, "leave --config out to use the embedded defaults"),
        (["keys", "create", "--tenant", "acme", "--name", "x" * 201], 1, "at most 200"),
        (["policy", "validate", "latin.yaml"], 2, "not UTF-8"),
        (["policy", "validate", "bad.yaml"], 2, "bad.yaml:2:1: backend: unknown key 'backend'; did you mean 'backends'?"),
        (["policy", "validate", "unmakable.yaml"], 2, "unmakable.yaml:2:15: backends.a: this backend cannot be made"),
        (["policy", "test", "bad.yaml"], 2, "there is no backend 'nope'"),
        (["policy", "explain", "hi", "--config", "bad.yaml"], 2, "there is no backend 'nope'"),
        (["policy", "explain"], 2, "--body"),
        (["policy", "explain", "hi", "--role", "boss"], 2, "'owner', 'admin', 'auditor', 'member', 'service'"),
        (["policy", "explain", "--body", "notes.md"], 1, "Send a JSON object"),
        (["policy", "rollback", "7"], 1, "headgate policy versions"),
        (["policy", "rollback", "last"], 2, "not a valid integer"),
        (["serve", "--port", "99999"], 2, "0<=x<=65535"),
        (["serve", "--workers", "0"], 2, "1<=x<=256"),
        (["serv"], 2, "No such command 'serv'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_refused_with_what_to_do_next(headgate: Command, tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    assert headgate("tenants", "create", "acme").status == 0
    (tmp_path / "notes.md").write_text("# Notes\n\nNothing much.\n")
    (tmp_path / "bad.yaml").write_text(BAD_POLICY)
    (tmp_path / "unmakable.yaml").write_text("version: 1\nbackends: {a: {kind: scripted, capabilities: {tools: 5}}}\ndefault: a\n")
    (tmp_path / "latin.yaml").write_bytes("version: 1 # gr\u00fcn".encode("latin-1"))
    done = headgate(*arguments)
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [["tenants", "list"], ["documents", "list"], ["usage"], ["ledger", "export"], ["policy", "versions"]], ids=" ".join)
@pytest.mark.parametrize(
    ("variables", "status", "says"),
    [
        ({"HEADGATE_PORT": "abc"}, 2, "HEADGATE_PORT: expected a whole number"),
        ({"HEADGATE_WORKER": "2"}, 2, "did you mean HEADGATE_WORKERS?"),
        ({"DATABASE_URL": "mysql://x"}, 2, "use sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ({"DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/x"}, 1, "check DATABASE_URL"),
        ({"HEADGATE_HOME": "notes.md/var"}, 1, "set HEADGATE_HOME to a folder you may write to"),
        ({"HEADGATE_CONFIG": "missing.yaml"}, 2, "there is no policy file missing.yaml"),
    ],
)
def test_a_wrong_variable_is_named(headgate: Command, tmp_path: Path, command: list[str], variables: dict[str, str], status: int, says: str) -> None:
    (tmp_path / "notes.md").write_text("a file, and no folder")
    done = headgate(*command, **variables)
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert "hidden" not in done.err


@pytest.mark.parametrize(
    ("variables", "status", "says"),
    [
        ({"HEADGATE_CONFIG": "bad.yaml"}, 2, "did you mean 'backends'?"),
        ({"HEADGATE_ADMIN_KEY": "changeme-please-now"}, 2, "HEADGATE_ADMIN_KEY is refused: it is well known"),
        ({"DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/x"}, 1, "check DATABASE_URL"),
        ({"HEADGATE_HOME": "bad.yaml/var"}, 1, "set HEADGATE_HOME to a folder you may write to"),
    ],
)
def test_serve_refuses_to_start_and_says_why(tmp_path: Path, variables: dict[str, str], status: int, says: str) -> None:
    """In a process of its own: it takes locks, sockets and signals."""
    (tmp_path / "bad.yaml").write_text(BAD_POLICY)
    done = run_headgate(tmp_path, "serve", "--port", "0", **variables)
    assert (done.returncode, done.stdout) == (status, "")
    assert says in done.stderr
    assert not {word for word in ("Traceback", "hidden", "changeme") if word in done.stderr}


def test_a_file_that_cannot_be_indexed_says_why_and_the_command_fails(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "noise.pdf").write_bytes(bytes(range(256)))
    done = headgate("documents", "add", "empty.txt", "noise.pdf", "--store", "kb")
    assert done.status == 1
    assert "The file is empty." in done.out
    assert "Supported are: PDF" in done.out
    assert "not every file could be indexed" in done.err
