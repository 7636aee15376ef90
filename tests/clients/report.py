"""What came of it: on the terminal, and as the page docs/clients.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.clients.catalog import Client

INTRODUCTION = """# Clients

The clients people use, each in an environment of its own, at the versions below, against a whole `headgate serve`. Each is given Headgate's address and a
key the way its own documentation says, and nothing else. `make clients` installs them (that needs the network), tries them, fails where one does not
do what stands here, and writes this page.

"""

MEANING = """
*chat* is `/v1/chat/completions`, *responses* `/v1/responses`, *messages* `/v1/messages`. What a check shows:

- **plain**, **streamed**: the answer's text, and that a stream comes in pieces;
- **tools**: a loop of tools (the client's own where it has one), with two calls in one turn; the answer is made of what both returned;
- **structured**: a schema in, a validated object out, in every mode of the client that is tried;
- **wrong key**, **bad request**: the client raises its own class of error, and its text says what is wrong;
- **usage**: the tokens the client reads are those of the ledger, cached ones too where it shows them;
- **matrix**: text, tools, parallel tools, an image, a JSON schema, reasoning, a refusal and a cut answer, streamed and not: the same text and calls
  from each provider, and usage and (where the client shows it) cost as in the ledger.

Every check except the matrix is made three times, and holds where it holds each time: the models that the client asks for are answered by OpenAI
(Anthropic in its own dialect), then the other way round, then by Gemini, by nothing but a rule of the policy. The providers themselves are faked: they
call the tools that they are offered and fill the schemas that they are given.
"""


@dataclass(frozen=True)
class Check:
    check: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Trial:
    client: Client
    versions: dict[str, str]
    checks: list[Check]
    seconds: float

    @property
    def wrong(self) -> list[Check]:
        """The checks that did not come out as expected: an excused one must fail, and every excuse must be for a check."""
        unused = [Check(name, False, "excused, but not tried") for name in self.client.excused if name not in {check.check for check in self.checks}]
        return [check for check in self.checks if check.ok is (check.check in self.client.excused)] + unused


def merged(trials: list[Trial], names: list[str]) -> Trial:
    """One client's trials under several routings as one: a check holds where it holds in each in which it was made."""
    checks: dict[str, Check] = {}
    for trial, name in zip(trials, names, strict=True):
        for check in trial.checks:
            earlier = checks.get(check.check)
            if earlier is None or (earlier.ok and not check.ok):
                checks[check.check] = check if check.ok else replace(check, detail=f"answered by {name}: {check.detail}")
    return replace(trials[0], checks=list(checks.values()), seconds=sum(trial.seconds for trial in trials))


def table(trial: Trial) -> str:
    """For the terminal."""
    head = f"{trial.client.name} ({', '.join(f'{name} {version}' for name, version in trial.versions.items())}; {trial.seconds:.0f} s)"
    lines = []
    for check in trial.checks:
        word = "ok    " if check.ok else "cannot" if check.check in trial.client.excused else "FAILED"
        lines.append(f"  {word} {check.check:32} {check.detail}")
    return "\n".join([head, *lines])


def page(trials: list[Trial]) -> str:
    """The page of the documentation."""
    lines = ["| client | versions | configured with | holds | does not hold |", "|---|---|---|---|---|"]
    lines += [_row(trial) for trial in trials]
    lines += ["", *_reasons(trials), *_notes(trials)]
    return INTRODUCTION + "\n".join(lines).rstrip() + "\n" + MEANING


def _row(trial: Trial) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in trial.versions.items())
    return f"| {trial.client.name} | {versions} | {trial.client.configured} | {_grouped(trial, True)} | {_grouped(trial, False)} |"


def _grouped(trial: Trial, ok: bool) -> str:
    """The checks by dialect: `chat: plain, streamed; messages: plain`."""
    groups: dict[str, list[str]] = {}
    for check in trial.checks:
        if check.ok is ok:
            dialect, colon, name = check.check.partition(": ")
            name, comma, how = (name if colon else dialect).partition(", ")
            groups.setdefault(dialect if colon else "", []).append(f"{name} ({how})" if comma else name)
    return "; ".join(f"*{dialect}*: {', '.join(names)}" if dialect else ", ".join(names) for dialect, names in groups.items()) or "-"


def _reasons(trials: list[Trial]) -> list[str]:
    excused = [(trial.client.name, name, why) for trial in trials for name, why in trial.client.excused.items()]
    if not excused:
        return []
    return ["What does not hold, and why:", "", *(f"- {client}, {name}: {why}" for client, name, why in excused), ""]


def _notes(trials: list[Trial]) -> list[str]:
    notes = [f"- {trial.client.name}: {note}" for trial in trials for note in trial.client.notes]
    return ["Good to know:", "", *notes, ""] if notes else []
