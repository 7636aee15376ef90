"""`headgate serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from router.cli.common import config_option, find_launch, make_home, no_database, set_variables


@click.command()
@config_option
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one (default 8080).")
@click.option("--workers", type=click.IntRange(1, 256), help="Gateway workers (default 1).")
@click.option("--strict", is_flag=True, help="Do not start where the policy file has a problem, even where an earlier version could be served.")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None, strict: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    from router.supervisor import AlreadyRunning, CannotListen, Supervisor
    from router.telemetry import configure_logging

    numbers = {"HEADGATE_PORT": port, "HEADGATE_WORKERS": workers}
    set_variables({"HEADGATE_HOST": host, **{name: None if value is None else str(value) for name, value in numbers.items()}})
    configure_logging()
    launch = find_launch(config)
    supervisor = Supervisor(launch, announce=lambda line: click.echo(line), strict=strict)
    settings = supervisor.settings
    make_home(settings)
    try:
        status = supervisor.run()
    except AlreadyRunning as error:
        raise click.ClickException(str(error)) from error
    except CannotListen as error:
        raise click.ClickException(str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise no_database(settings, error) from error
    sys.exit(status)
