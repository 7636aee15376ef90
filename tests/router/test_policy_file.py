"""Seeing that the policy file has changed, and saying what became of it."""

from __future__ import annotations

import os
from pathlib import Path

from config.yamlfile import Problem
from policies.load import PolicyError
from router.policy_file import FileStatus, FileWatch, problems_of, read_status, told, write_status


def test_a_change_is_seen_once_it_has_stood_still_and_until_it_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    watch = FileWatch(file.read_text, "one")
    assert not watch.changed()
    file.write_text("tw")
    assert not watch.changed(), "it may be half written"
    file.write_text("two")
    assert not watch.changed()
    assert watch.changed()
    assert watch.changed(), "whoever could not take it is told again"
    watch.take()
    assert not watch.changed()


def test_a_change_counts_whatever_the_times_of_the_file_say(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    watch = FileWatch(file.read_text, "one")
    times = os.stat(file)
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.take()
    file.write_text("two")
    assert [watch.changed(), watch.changed()] == [False, False], "written again with the same text, it has not changed"


def test_a_file_that_goes_away_or_cannot_be_read_is_a_change_and_so_is_its_return(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    watch = FileWatch(lambda: file.read_text("utf-8"), "one")
    file.unlink()
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.take()
    file.write_bytes(b"\xff")
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.take()
    file.write_text("one")
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_file_that_was_put_back_before_it_was_taken_is_no_change(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    watch = FileWatch(file.read_text, "one")
    file.write_text("two")
    assert not watch.changed()
    file.write_text("one")
    assert [watch.changed(), watch.changed()] == [False, False]


def test_the_status_is_read_back_and_nothing_is_read_where_there_is_none_or_half_of_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert read_status(tmp_path) is None
    status = FileStatus(path="p", hash="h", valid=False, problems=(Problem(1, 2, "a", "b"),), version=3, at=4.0)
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["policy_file.json"]
    (tmp_path / "run" / "policy_file.json").write_text("{")
    assert read_status(tmp_path) is None


def test_problems_are_told_with_their_lines_and_the_first_ones_only() -> None:
    problems = [Problem(line, 1, "rules", "is wrong") for line in range(1, 9)]
    assert told(problems[:1]) == "line 1, column 1: rules: is wrong"
    assert told(problems).endswith("; and 3 more")
    assert problems_of(PolicyError(problems, "x")) == tuple(problems)
    assert problems_of(FileNotFoundError(2, "No such file or directory")) == (Problem(1, 1, "", "the file cannot be read: No such file or directory"),)
