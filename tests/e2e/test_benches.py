"""The benchmarks still run: nothing else calls them, and what they measure moves on under them. What they find is not judged here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

SHORT = {
    "books": ["--seconds", "0.3", "--clients", "8", "--rate", "50", "--databases", "sqlite"],
    "usage_query": ["--rows", "5000"],
    "auth_timing": ["50"],
    "decision": ["--requests", "200"],
    "gateway": ["--help"],
    "limits": ["--help"],
    "retrieval_quality": ["--help"],
    "replay": ["--records", "1000"],
    "routing": ["--help"],
    "decision_head": ["20"],
}


@pytest.mark.parametrize("name", SHORT)
def test_a_benchmark_runs(name: str) -> None:
    run = subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *SHORT[name]], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout
