"""Documents hold together: lines that fit, links that lead somewhere, modules and files that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "imagecache"
WIDTH = 120
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "charts/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
FOLDERS = ("bench", "charts", "config", "demo", "docs", "packaging", "proto", "requirements", "src", "testkit", "tests")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w{}.-]+(?:/[\w{}.-]+)*\.(?:py|md|yaml)")
DOTTED = re.compile(r"[a-z_]+(?:\.\w+)+")
ELSEWHERE = {
    # of users, of containerd, of other projects
    "imagecache.yaml",
    "prometheus.yaml",
}
NO_MODULES = {"registry.example.com", "host.example"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, but those of code blocks."""
    code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_lines_fit(path: Path) -> None:
    """Tables, code and single words such as addresses may be longer."""
    long = [
        f"{name(path)}:{number}"
        for number, line in prose(path)
        if len(line) > WIDTH and not line.startswith("|") and len(line.split(maxsplit=1)[0]) < WIDTH // 2
    ]

    assert long == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    dead = []
    for number, line in prose(path):
        for link in LINK.findall(line):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{name(path)}:{number}: {link}")

    assert dead == []


def anchors(path: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(path) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_and_modules_that_are_named_exist(path: Path) -> None:
    missing = [
        f"{name(path)}:{number}: {code}"
        for number, line in prose(path)
        for code in CODE.findall(line)
        if not (names_a_file(code, path) and names_a_module(code))
    ]

    assert missing == []


def names_a_file(code: str, document: Path) -> bool:
    """True also for what is no name of a file of ours."""
    code = code.partition("::")[0]  # a test, as pytest names it
    first = code.partition("/")[0]
    if code in ELSEWHERE or code.startswith(("/", "-", "~")) or "*" in code or " " in code:
        return True
    if first in FOLDERS and "/" in code:
        return (ROOT / code.rstrip("/")).exists()
    if not FILE.fullmatch(code) or code.endswith("config.yaml"):
        return True
    if "/" in code:
        return any((place / code).exists() for place in (SOURCE, ROOT, document.parent))
    return bool(
        list(SOURCE.rglob(code)) or list(ROOT.glob(code)) or list((ROOT / "docs").rglob(code)) or in_chart(code)
    )


def in_chart(code: str) -> bool:
    return (ROOT / "charts" / "imagecache" / code).exists()


VALUES = yaml.safe_load((ROOT / "charts" / "imagecache" / "values.yaml").read_text())


def names_a_module(code: str) -> bool:
    """``fetch.trust``, ``served.remote_store.RemoteStore``; true for what does not begin with a package of ours."""
    package, _, rest = code.partition(".")
    if not DOTTED.fullmatch(code) or not (SOURCE / package).is_dir() or code in NO_MODULES or is_value(code):
        return True
    module, *attribute = rest.split(".")
    file = SOURCE / package / f"{module}.py"
    if not file.exists():
        return False
    return not attribute or re.search(rf"\b{re.escape(attribute[0])}\b", file.read_text()) is not None


def is_value(code: str) -> bool:
    """Whether the chart has such a value."""
    found: object = VALUES
    for part in code.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def test_every_adr_has_one_form_of_title() -> None:
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        number = int(path.name[:4])
        assert re.match(rf"# ADR {number}: \w", path.read_text()), path.name


def test_every_document_is_linked() -> None:
    linked = {
        (path.parent / link.partition("#")[0]).resolve()
        for path in DOCUMENTS
        for _, line in prose(path)
        for link in LINK.findall(line)
        if not re.match(r"[a-z]+:", link)
    }
    pages = {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs") and path.parent.name != "adr"}

    assert {name(path) for path in pages - linked} == set()


OTHERS = {"docs/hosts.md", "docs/PLUGINS.md"}
"""Of containerd."""
CITED = re.compile(r"docs/(?:adr/|internals/)?[\w.-]+\.md")
SECTION = re.compile(r"\b(unpack-rules|eci-api)(?:\.md)?(?:``)? \(?((?:§[\d.]+(?:, | to )?)+)")
SOURCES = sorted(
    path
    for folder in ("src", "testkit", "tests", "tools", "bench", "demo")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent.name != "contenders"  # these cite the documents of other systems
)


def test_documents_that_the_source_cites_exist() -> None:
    missing = [
        f"{name(path)}: {cited}"
        for path in SOURCES
        for cited in CITED.findall(path.read_text())
        if not (ROOT / cited).exists() and cited not in OTHERS
    ]

    assert missing == []


def test_sections_that_are_cited_exist() -> None:
    headings = {
        page: {line.split()[1] for _, line in prose(ROOT / "docs" / "internals" / f"{page}.md") if line.startswith("#")}
        for page in ("unpack-rules", "eci-api")
    }
    cited = [
        (name(path), page, section.rstrip("."))
        for path in (*SOURCES, *DOCUMENTS)
        for page, sections in SECTION.findall(path.read_text())
        for section in re.findall(r"§[\d.]+", sections)
    ]

    assert len(cited) > 15
    assert [each for each in cited if each[2] not in headings[each[1]]] == []


def test_commands_that_are_named_exist() -> None:
    """In text and in code blocks: ``imagecache VERB`` and ``./dev VERB``."""
    known = set(re.findall(r"^## (imagecache .*)$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))
    groups = {command.rpartition(" ")[0] for command in known} - {"imagecache"}
    verbs = set(re.findall(r"^cmd_([a-z]+)\(\)", (ROOT / "dev").read_text(), re.MULTILINE))
    unknown = []
    for path in DOCUMENTS:
        text = path.read_text()
        blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        named = re.findall(r"[`/](imagecache(?: [a-z][a-z-]*)+)", text)
        named += re.findall(r"^(imagecache(?: [a-z][a-z-]*)+)", blocks, re.MULTILINE)
        unknown += [
            f"{name(path)}: {words}"
            for words in named
            if not any(words == command or words.startswith(f"{command} ") for command in known | groups)
        ]
        unknown += [f"{name(path)}: ./dev {verb}" for verb in re.findall(r"\./dev ([a-z]+)", text) if verb not in verbs]

    assert unknown == []
