"""The shape of the tree is what ARCHITECTURE.md and the conventions say, and the documentation is what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger import wire
from banger.frontends.cli.commands import GROUPS, SINGLE
from banger.model import codec
from banger.model.catalog import ImageCatalog
from banger.model.config import Settings, load_settings
from banger.model.errors import CODES, every_error
from banger.model.published import Published, require_sound
from banger.ops import every_op
from tests import pages

ROOT = pages.ROOT
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}
#: Composition roots of their own processes, by design.
NAMED_SO = {"src/banger/helper.py"}
#: Hosts of package registries and mirrors, in pieces so that this file names none. Docker Hub is no such: its name is the default of image references.
REGISTRIES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("proxy", "golang", "org"), ("npmjs", "org"), ("crates", "io"))]
REGISTRIES += [".".join(parts) for parts in (("deb", "debian", "org"), ("ftp", "debian", "org"), ("ghcr", "io"), ("quay", "io"))]
TEXT = {".py", ".go", ".md", ".json", ".toml", ".conf", ".sh", ".cfg", ".mod", ".service", ".socket", ""}


def sources(*suffixes: str) -> list[Path]:
    """Every source file of the checkout with one of these endings."""
    roots = [ROOT / name for name in ("agent", "bench", "docs", "packaging", "src", "tests")]
    found = [path for root in roots for path in root.rglob("*") if path.is_file() and not pages.hidden(path)]
    found += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".") and path.name != "bench.json"]
    return sorted(path for path in found if path.suffix in suffixes)


def named(path: Path) -> str:
    """A file's name from the checkout."""
    return str(path.relative_to(ROOT))


def package() -> list[Path]:
    """The modules that are shipped."""
    return [path for path in sources(".py") if named(path).startswith("src/")]


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Every function and class with its dotted name, but for those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")


def test_made_parts_of_the_documentation_are_what_the_code_says() -> None:
    stale = [named(path) for path in pages.pages() if pages.renewed(path.read_text()) != path.read_text()]
    assert not stale, "write them anew: .venv/bin/python -m tests.pages"


@pytest.mark.parametrize(
    ("page", "part"), [("ARCHITECTURE.md", "tree"), ("docs/guide/settings.md", "settings"), ("docs/guide/errors-and-exit-codes.md", "errors")]
)
def test_a_page_has_its_made_part(page: str, part: str) -> None:
    assert f"<!-- made: {part} -->" in (ROOT / page).read_text()


def test_every_folder_says_what_it_is_for() -> None:
    assert [named(folder) for folder in pages.folders() if not pages.purpose(folder)] == []


def test_the_drawing_has_every_layer() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawing = text[text.index("```text") : text.index("Three sentences")]
    layers = {path.name for path in (ROOT / "src" / "banger").iterdir() if path.is_dir() and not pages.hidden(path)} - {"catalog", "client"}
    kinds = {path.name for path in (ROOT / "src" / "banger" / "backends").iterdir() if path.is_dir() and not pages.hidden(path)}
    fronts = {path.name for path in (ROOT / "src" / "banger" / "frontends").iterdir() if path.is_dir() and not pages.hidden(path)}
    assert {word for word in layers | kinds | fronts if not re.search(rf"\b{word}\b", drawing)} == set()


def test_no_file_is_long() -> None:
    lengths = {named(path): len(path.read_text().splitlines()) for path in sources(".py", ".go")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_long() -> None:
    long = {}
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{named(path)}:{node.name}"] = length
    assert long == {}


def test_no_go_function_is_long() -> None:
    long = {}
    for path in sources(".go"):
        began, name = 0, ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("func ") and not line.endswith("}"):
                began, name = number, line
            elif line == "}" and name:
                if number - began + 1 > LONGEST_FUNCTION:
                    long[f"{named(path)}: {name}"] = number - began + 1
                name = ""
    assert long == {}


def test_no_name_is_vague() -> None:
    found = {named(path) for path in sources(".py", ".go") for part in path.relative_to(ROOT).with_suffix("").parts if part.lower() in VAGUE}
    assert found <= NAMED_SO


def test_every_module_has_a_docstring() -> None:
    assert [named(path) for path in sources(".py") if not ast.get_docstring(ast.parse(path.read_text())) and path.read_text().strip()] == []


def test_every_public_definition_has_a_docstring() -> None:
    lacks = []
    for path in package():
        for name, node in definitions(ast.parse(path.read_text())):
            private = any(part.startswith("_") for part in name.split("."))
            overload = any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
            if not private and not overload and not ast.get_docstring(node):
                lacks.append(f"{named(path)}:{name}")
    assert lacks == []


def test_every_operation_is_told_in_the_reference() -> None:
    text = (ROOT / "docs" / "guide" / "reference.md").read_text()
    ops = every_op()
    assert [name for name, op in ops.items() if not op.summary] == []
    assert [name for name in ops if f"`{name}`" not in text] == []


def test_every_error_has_its_statuses() -> None:
    assert set(every_error()) == set(CODES)


def test_every_setting_is_in_the_guide() -> None:
    text = (ROOT / "docs" / "guide" / "settings.md").read_text()
    assert [name for name in Settings.__struct_fields__ if f"`{name}`" not in text] == []


def test_the_wire_page_has_the_frames_of_the_code() -> None:
    text = (ROOT / "docs" / "wire.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([a-z]+)` \|", text, re.MULTILINE)
    assert {int(number): name for number, name in rows} == {number: name for number, name in enumerate(wire.NAMES) if name}


def test_no_package_registry_is_named() -> None:
    named_in = {}
    for path in sources(*TEXT):
        text = path.read_text(errors="replace")
        if found := [host for host in REGISTRIES if host in text]:
            named_in[named(path)] = found
    assert named_in == {}


def known_commands() -> set[str]:
    """Every `banger …` that exists, as its words."""
    known = {f"{noun} {verb}" for noun, (_, commands) in GROUPS.items() for command in commands for verb in (command.verb.split()[0], *command.aliases)}
    return known | set(SINGLE)


def test_every_command_in_the_documentation_exists() -> None:
    known, wrong = known_commands(), []
    for path in pages.pages():
        blocks = re.findall(r"```(?:console|sh)\n(.*?)```", path.read_text(), re.DOTALL)
        spans = re.findall(r"`(banger [a-z][^`]*)`", path.read_text())
        for line in [line for block in blocks for line in block.splitlines()] + spans:
            for words in re.findall(r"(?:^|[$|(;] ?|\./)banger ([a-z][a-z-]*(?: [a-z-]+)?)", line):
                if words not in known and words.split()[0] not in known and words not in GROUPS:
                    wrong.append(f"{named(path)}: banger {words}")
    assert wrong == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for path in pages.pages():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / target).exists():
                broken.append(f"{named(path)} → {target}")
    assert broken == []


def test_the_catalogs_in_the_guide_are_some() -> None:
    text = (ROOT / "docs" / "guide" / "images-and-kernels.md").read_text()
    own, published = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert codec.decode(own.encode(), ImageCatalog, what="the example").entries
    require_sound(codec.decode(published.encode(), Published, what="the example"), "the example", secure=True)


def test_the_settings_in_the_guide_are_some() -> None:
    text = (ROOT / "docs" / "guide" / "settings.md").read_text()
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        assert load_settings(block, {}) != Settings()


def test_the_guide_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in (ROOT / "docs" / "guide").glob("*.md") if f"docs/guide/{path.name}" not in text] == []
