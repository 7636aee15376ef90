from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import load_settings
from config.yamlbundle import MARKER, bundled, parts_of
from policies.decide import State, decide
from policies.features import Features
from policies.including import included_names
from policies.load import Policy, PolicyError, load_policy
from router.launch import Launch

Load = Callable[..., Policy]
MAIN = """version: 1
include: [rules/legal.yaml, more.yaml]
settings: {port: 9000}
backends:
  local: {kind: llama, model: some/llama}
rules:
  - {name: code, when: {task: code}, use: [local]}
default: local
"""
LEGAL = """# of the legal department
backends:
  clerk: {kind: llama, model: some/clerk}
rules:
  - {name: contracts, when: {tenant: legal}, use: [clerk], lock: true}
tenants:
  legal: {data_class: confidential}
cases:
  - {given: {tenant: legal}, expect: {backend: clerk}}
"""
MORE = "rules:\n  - {name: late, when: {tenant: late}, use: [local]}"


def folder(path: Path, **files: str) -> Launch:
    (path / "rules").mkdir()
    (path / "policy.yaml").write_text(files.get("main", MAIN))
    (path / "rules" / "legal.yaml").write_text(files.get("legal", LEGAL))
    (path / "more.yaml").write_text(files.get("more", MORE))
    return Launch(config=str(path / "policy.yaml"))


def problems(load: Load, launch: Launch) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(launch.text())
    return [f"{problem.file}:{problem.line}:{problem.column}: {problem}" for problem in caught.value.problems]


def test_included_files_are_part_of_the_policy_in_the_order_in_which_they_are_included(load: Load, state: Callable[..., State], tmp_path: Path) -> None:
    launch = folder(tmp_path)
    policy = load(launch.text())
    assert [rule.name for rule in policy.file.rules] == ["code", "contracts", "late"]
    assert set(policy.backends) >= {"local", "clerk"}
    assert policy.tenant("legal").data_class == "confidential"
    assert decide(policy, Features(tenant="legal"), state(policy)).candidates == ("clerk",)
    assert load_settings({}, launch.text()).port == 9000


def test_the_text_stands_alone_once_its_files_are_in_it(load: Load, tmp_path: Path) -> None:
    launch = folder(tmp_path)
    text = launch.text()
    (tmp_path / "more.yaml").unlink()
    assert load(text).version == load(text).version
    (tmp_path / "policy.yaml").write_text(text)  # as somebody does who saves what the API shows
    (tmp_path / "rules" / "legal.yaml").write_text("rules: []")
    assert launch.text() == text


def test_a_file_without_includes_is_read_to_the_letter(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\ndefault: extractive")
    assert Launch(config=str(tmp_path / "policy.yaml")).text() == "version: 1\ndefault: extractive"


def test_a_change_in_an_included_file_makes_another_version(load: Load, tmp_path: Path) -> None:
    launch = folder(tmp_path)
    before = load(launch.text()).hash
    (tmp_path / "more.yaml").write_text(MORE + "  # changed")
    assert load(launch.text()).hash != before


def test_problems_name_the_file_the_line_and_the_column(load: Load, tmp_path: Path) -> None:
    wrong = LEGAL.replace("use: [clerk]", "use: [clark]").replace("data_class: confidential", "data_klass: public")
    found = problems(load, folder(tmp_path, legal=wrong, more="rules:\n  - {name: late, when: {tenant: late}, use: [lokal]}\ndefault: local"))
    assert found == [
        "more.yaml:2:46: rules[0].use[0]: there is no backend 'lokal'; did you mean 'local'?",
        "more.yaml:3:1: default: unknown key 'default'; known: version, backends, embedders, rules, tenants, cases",
        "rules/legal.yaml:5:52: rules[0].use[0]: there is no backend 'clark'; did you mean 'clerk'?",
        "rules/legal.yaml:7:11: tenants.legal.data_klass: unknown key 'data_klass'; did you mean 'data_class'?",
    ]


def test_the_whole_message_leads_to_the_included_file(load: Load, tmp_path: Path) -> None:
    launch = folder(tmp_path, more="rules: [{name: late, use: [nobody]}]")
    with pytest.raises(PolicyError) as caught:
        load_policy(launch.text(), launch.config, price_of=lambda *_: None)
    assert f"{tmp_path}/more.yaml:1:28: rules[0].use[0]: there is no backend 'nobody'" in str(caught.value)


def test_names_that_two_files_give_are_refused_where_the_second_one_stands(load: Load, tmp_path: Path) -> None:
    more = "backends:\n  clerk: {kind: llama, model: b}\nrules:\n  - {name: code, when: {tenant: t}, use: [local]}\n"
    assert problems(load, folder(tmp_path, more=more)) == [
        "more.yaml:2:3: backends.clerk: 'clerk' stands in another file of this policy too",
        "more.yaml:4:12: rules[0].name: rule 0 is called 'code' too",
    ]


def test_a_file_that_is_not_there_is_said_where_it_is_named(load: Load, tmp_path: Path) -> None:
    launch = folder(tmp_path)
    (tmp_path / "more.yaml").unlink()
    (found,) = problems(load, launch)
    assert found.startswith(":2:29: include[1]: 'more.yaml' cannot be read: it must be a file, in UTF-8, at that place from this file's folder")


def test_a_file_that_is_included_twice_and_one_that_is_not_included_are_refused(load: Load, tmp_path: Path) -> None:
    twice = folder(tmp_path, main=MAIN.replace("more.yaml]", "rules/legal.yaml]"))
    assert problems(load, twice)[0].startswith(":2:29: include[1]: 'rules/legal.yaml' is included twice")
    with pytest.raises(PolicyError, match="this part is not included"):
        load(f"version: 1\ndefault: extractive\n{MARKER}stray.yaml\nrules: []\n")


def test_what_comes_without_its_files_never_reads_any(load: Load) -> None:
    with pytest.raises(PolicyError, match="a policy sent over the API brings no files"):
        load("version: 1\ninclude: [/etc/passwd]\ndefault: extractive\n")


def test_a_text_and_its_parts_come_back_as_they_were() -> None:
    text = bundled("a: 1", ["x.yaml", "y.yaml", "gone.yaml", "x.yaml"], {"x.yaml": "b: 2\n", "y.yaml": "\nc: 3"}.get)
    assert parts_of(text) == ("a: 1\n", {"x.yaml": "b: 2\n", "y.yaml": "\nc: 3"})
    assert included_names("include: [x.yaml]\nother: [}") == ()
