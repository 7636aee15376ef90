"""The command `headgate`. Every command that prints takes `--json`. Exit status: 0 done, 1 refused or failed, 2 wrong use or configuration."""

from __future__ import annotations

import os
import sys

import click
import structlog
from sqlalchemy.exc import SQLAlchemyError

from config.settings import SettingsError
from config.yamlfile import YamlError
from router.cli import archive as archive  # it adds its commands to `ledger`
from router.cli import backtest as backtest  # to `policy`
from router.cli import balance as balance
from router.cli import policy_log as policy_log  # its to `policy`
from router.cli.alerts import alerts
from router.cli.audit import audit
from router.cli.backup import backup, restore
from router.cli.db import db
from router.cli.decisions import decisions, erase
from router.cli.doctor import doctor
from router.cli.documents import documents
from router.cli.identity import keys, teams, tenants, users
from router.cli.policy import policy
from router.cli.reconcile import ledger
from router.cli.serve import serve
from router.cli.statement import statement
from router.cli.usage import usage


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="headgate")
def cli() -> None:
    """One chat endpoint for many teams: routing by policy, grounded answers, moderated streams, every token accounted."""


for command in (serve, policy, tenants, teams, users, keys, documents, usage, statement, ledger, audit, decisions, erase, alerts, db, backup, restore, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; what a user can mend is one clear message, never a traceback."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # a program may read what a command prints
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (YamlError, SettingsError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SQLAlchemyError, OSError) as error:
        click.echo(f"Error: {getattr(error, 'orig', None) or error}; look at the installation with: headgate doctor", err=True)
        sys.exit(1)
