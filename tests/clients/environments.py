"""An environment for each client, in a folder of its own: a virtual environment, or a folder with `node_modules`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.catalog import Client

PRUNED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""Variables of ours that would reach into a client's environment."""


def prepare(client: Client, folder: Path, *, renew: bool = False) -> None:
    """Install the client's newest packages, unless they are there. Raises `subprocess.CalledProcessError` where that fails."""
    mark = folder / ".installed"
    wanted = "\n".join(client.packages)
    if mark.exists() and mark.read_text() == wanted and not renew:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if client.node:
        if not (folder / "package.json").exists():
            (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *(f"{package}@latest" for package in client.packages)], folder)
    else:
        if not (folder / "bin" / "python").exists():
            _run([sys.executable, "-m", "venv", str(folder)], folder)
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "--upgrade", "--disable-pip-version-check", *client.packages], folder)
    mark.write_text(wanted)


def versions(client: Client, folder: Path) -> dict[str, str]:
    """The installed version of every package that the table shows."""
    if client.node:
        return {name: json.loads((folder / "node_modules" / name / "package.json").read_text())["version"] for name in client.shown}
    program = "import importlib.metadata as m, json, sys; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    done = subprocess.run([str(folder / "bin" / "python"), "-c", program, *client.shown], env=clean(), capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def command(client: Client, folder: Path) -> list[str]:
    """What runs the client's script. Node looks for packages beside the script, so its scripts are copied to where they are."""
    here = Path(__file__).resolve().parent
    if not client.node:
        return [str(folder / "bin" / "python"), str(here / client.script)]
    for name in ("kit.mjs", "matrix.mjs", client.script):
        shutil.copy(here / name, folder / name)
    return ["node", str(folder / client.script)]


def clean() -> dict[str, str]:
    """This process's variables, without those that would make a client something else than what its user has."""
    return {name: value for name, value in os.environ.items() if name not in PRUNED and not name.endswith(("_API_KEY", "_BASE_URL"))}


def _run(arguments: list[str], folder: Path) -> None:
    subprocess.run(arguments, cwd=folder, env=clean(), check=True, stdout=subprocess.DEVNULL)
