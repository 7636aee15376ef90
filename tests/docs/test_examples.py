"""The documentation's examples work: policies validate, links lead somewhere, and what can be run is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from config.settings import Settings
from policies.cases import run_cases
from policies.load import load_policy
from router.backends import load_kinds
from router.launch import DEFAULT_POLICY
from router.policy_in_force import known_price
from tests.docs.reading import PAGES, ROOT, blocks, blocks_of_all_pages, page
from tests.serving import Serve, environment, headgate, served, serving

POLICIES = blocks_of_all_pages("yaml policy")
SCRIPTS = blocks_of_all_pages("bash run")
PROGRAMS = {path.name: "\n".join(found) for path in PAGES if (found := blocks(path.read_text(encoding="utf-8"), "python run"))}
"""The Python of a page is one program: later blocks use what earlier ones made."""

PRINTED = {
    "accounting.md": ["{'type': 'test'}"],
    "api.md": [
        "Hello from a model. demo ",
        "Hello from a model.Hello from a model.",
        "2 384",
        "True [{'rule': 'email', 'category': 'pii', 'start': 9, 'end': 24}]",
    ],
    "documents.md": ["12 euros a day"],
}
"""What a page's program prints, among other things."""

MODEL = """  demo: {kind: scripted, text: Hello from a model., price: {input: 1, output: 1}}
"""


@pytest.mark.parametrize("text", [code for _, code in POLICIES], ids=[name for name, _ in POLICIES])
def test_every_policy_in_the_documentation_is_valid_and_its_cases_hold(text: str) -> None:
    load_kinds(Settings())
    policy = load_policy(text, price_of=known_price)
    assert [result.failures for result in run_cases(policy) if not result.ok] == []


def test_the_default_policy_is_valid_and_its_cases_hold() -> None:
    load_kinds(Settings())
    results = run_cases(load_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), price_of=known_price))
    assert len(results) >= 3
    assert [result.failures for result in results if not result.ok] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
        found = path if not target else (path.parent / target).resolve()
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings], f"{path.name}: #{anchor}"


async def test_the_backend_of_the_documentation_is_one_file_and_serves_a_chat(tmp_path: Path) -> None:
    (code,) = blocks(page("backends.md"), "python plugin")
    assert len(code.strip().splitlines()) <= 25
    (tmp_path / "shout.py").write_text(code, encoding="utf-8")
    (policy,) = [text for text in blocks(page("backends.md"), "yaml") if "shout.py" in text]
    async with serving(policy, tmp_path) as service, openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        whole = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "one small file"}])
        assert whole.choices[0].message.content == "ONE!! SMALL!! FILE!! "
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 3
        stream = await sdk.chat.completions.create(model="loud", messages=[{"role": "user", "content": "again"}], stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream if chunk.choices and chunk.choices[0].delta.content] == ["AGAIN!! "]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The whole service as `make run` starts it, on the embedded defaults."""
    with served(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def surroundings(service: Serve, tmp_path: Path) -> dict[str, str]:
    """What a reader's shell has: the service's address and key, and the command."""
    (tmp_path / "headgate").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m router.cli "$@"\n')
    (tmp_path / "headgate").chmod(0o755)
    return environment(service.home, HEADGATE_URL=service.url, HEADGATE_KEY=service.keys["chat"], PATH=f"{tmp_path}:{os.environ['PATH']}")


def run(command: list[str], surroundings: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def write_pdf(path: Path, pages: list[list[str]]) -> None:
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen import canvas

    drawing = canvas.Canvas(str(path), pagesize=A4)
    for lines in pages:
        for number, line in enumerate(lines):
            drawing.drawString(72, 760 - 18 * number, line)
        drawing.showPage()
    drawing.save()


def write_docx(path: Path, paragraphs: list[str]) -> None:
    from docx import Document

    document = Document()
    document.add_heading("Travel policy")
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    document.save(str(path))


def test_the_first_request_of_the_readme_answers_with_citations_from_a_pdf_and_a_word_file(surroundings: dict[str, str], tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = [code for code in blocks(readme, "python") if code.startswith("# ask.py")]
    (tmp_path / "ask.py").write_text(program, encoding="utf-8")
    opening = ["The office opens at nine in the morning.", "Visitors sign in at the front desk.", "Coffee is free in the kitchen on every floor."]
    parking = ["The garage is below the building.", "Parking in the garage costs 12 euros a day.", "Bicycles are parked in the yard for nothing."]
    write_pdf(tmp_path / "handbook.pdf", [opening, parking])
    write_docx(tmp_path / "travel.docx", ["Trains are preferred to planes.", "A hotel room may cost up to 140 euros a night in every city."])

    def ask(question: str) -> list[str]:
        return run([sys.executable, "ask.py", question, "handbook.pdf", "travel.docx"], surroundings, tmp_path).splitlines()

    questions = ["What does parking in the garage cost?", "How much may a hotel room cost a night?", "Who won the football world cup in 1954?"]
    with ThreadPoolExecutor() as pool:
        from_pdf, from_docx, nothing = pool.map(ask, questions)
    assert from_pdf[:2] == ["handbook.pdf completed ", "travel.docx completed "]
    assert "12 euros a day" in from_pdf[2]
    assert any("handbook.pdf, page 2, characters" in line and "'Parking in the garage costs 12 euros a day.'" in line for line in from_pdf[3:])

    assert "140 euros a night" in from_docx[2]
    assert any("travel.docx, page None" in line and "140 euros" in line for line in from_docx[3:])

    assert "do not answer" in nothing[2]
    assert nothing[3:] == []


@pytest.fixture(scope="module")
def with_a_model(service: Serve) -> Iterator[None]:
    """For a while the policy has a model that talks, as if a key had been given. It is put in force the way an operator does it."""
    key = {"authorization": f"Bearer {service.keys['admin']}"}
    with httpx2.Client(base_url=service.url, headers=key) as admin:
        policy = admin.get("/admin/policy")
        text = policy.text.replace("\nbackends:\n", f"\nbackends:\n{MODEL}").replace("\nfallback: [extractive]", "\nfallback: [extractive, demo]")
        assert text.count("demo") == 2
        headers = {"if-match": policy.headers["etag"], "content-type": "application/yaml"}
        admin.put("/admin/policy?force=true", content=text, headers=headers).raise_for_status()  # one of its cases says that nobody else answers
        yield
        admin.post("/admin/policy/rollback", json={"version": 1}).raise_for_status()


@pytest.mark.parametrize("script", [code for _, code in SCRIPTS], ids=[name for name, _ in SCRIPTS])
def test_every_shell_example_runs(script: str, surroundings: dict[str, str], service: Serve, with_a_model: None, tmp_path: Path) -> None:
    if re.search(r"keys create --tenant acme", script) and "tenants create acme" in script:
        existing = headgate(service.home, "tenants", "list").stdout.split()
        script = script.replace("headgate tenants create acme\n", "") if "acme" in existing else script
    said = run(["bash", "-euo", "pipefail", "-c", script], surroundings, tmp_path)
    assert said
    assert "curl" not in script or '"error"' not in said


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_python_examples_of_a_page_run(name: str, surroundings: dict[str, str], with_a_model: None, tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", PROGRAMS[name]], surroundings, tmp_path)
    assert [expected for expected in PRINTED[name] if expected not in printed] == [], printed
