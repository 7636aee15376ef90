"""`headgate serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from router.cli.common import config_option, find_launch, set_variables


@click.command()
@config_option
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one (default 8080).")
@click.option("--workers", type=int, help="Gateway workers (default 1).")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    from router.supervisor import AlreadyRunning, Supervisor
    from router.telemetry import configure_logging

    numbers = {"HEADGATE_PORT": port, "HEADGATE_WORKERS": workers}
    set_variables({"HEADGATE_HOST": host, **{name: None if value is None else str(value) for name, value in numbers.items()}})
    configure_logging()
    launch = find_launch(config)
    try:
        status = Supervisor(launch, announce=lambda line: click.echo(line)).run()
    except AlreadyRunning as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        settings = launch.settings()
        raise click.ClickException(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another with --port") from error
    sys.exit(status)
