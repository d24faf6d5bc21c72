"""Parts of the documentation that are made from the code: `python -m tests.pages` writes them anew, and a test compares them.

A part stands between `<!-- made: NAME -->` and `<!-- end -->`; what is outside of the marks is written by hand and left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from banger.model.config import Settings
from banger.model.errors import CODES, every_error

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r"(<!-- made: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TREE_WIDTH = 116
#: Folders whose purpose no docstring tells.
PURPOSE = {
    "agent": "The guest's half, one static Go binary: /init of the initramfs, then the server of everything that happens in the guest.",
    "docs": "`wire.md`: the protocol between the daemon and the guest's agent, and between the command line and the daemon.",
    "docs/adr": "Decisions that close a door, half a page each.",
    "docs/guide": "For users; blocks marked `console` are run by a test, tables are made from the code.",
    "packaging": "What makes a checkout ready on first use.",
    "src/banger/catalog": "The shipped catalogs, what is laid over an image from the Debian archive, and the units for systemd.",
    "tests": "Everything below runs with `make test`.",
    "tests/cli": "The command line against a daemon that answers from a list.",
    "tests/contract": "The same test on the fake and on the real thing.",
    "tests/lab": "A machine of banger's own with an emulated processor that has AMD-V: KVM and Firecracker are real in it.",
    "tests/lab/inside": "Tests that run in the lab machine.",
    "tests/lab/measured": "On the path of the lab's Python while coverage is measured.",
    "tests/unit": "No process is started and no machine booted.",
    "tests/vectors": "Bytes that both implementations of the wire must produce and accept.",
    "tests/vm": "Real machines.",
}
#: Where the names of files are listed too: the file name is the name.
LISTED = "src/banger"
DATA = "src/banger/catalog"


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings() -> str:
    """Every setting: key, variable, default, meaning."""
    properties = msgspec.json.schema_components([Settings])[1]["Settings"]["properties"]
    rows = [(f"`{name}`", f"`BANGER_{name.upper()}`", shown(found.get("default")), found["description"]) for name, found in properties.items()]
    return table(("key in `config.toml`", "variable", "default", "meaning"), rows)


def shown(value: object) -> str:
    """A default as TOML writes it."""
    return f"`{msgspec.json.encode(value).decode()}`"


def errors() -> str:
    """Every error: code, meaning, exit status, HTTP status."""
    meaning = {code: sentence(kind.__doc__ or "") for code, kind in every_error().items()}
    meaning["internal"] = "Nobody foresaw this; the daemon's log has the details."
    rows = [(f"`{code}`", meaning[code], str(status), str(http)) for code, (http, status) in CODES.items()]
    return table(("code", "meaning", "exit status", "HTTP status"), rows)


def sentence(text: str) -> str:
    """The first sentence, or what stands before a colon."""
    return re.split(r"(?<=[.])\s|\n\n", text.strip(), maxsplit=1)[0].replace("\n", " ")


def purpose(folder: Path) -> str:
    """What a folder is for: said here, by the docstring of its package, or by the comment of its Go package."""
    name = str(folder.relative_to(ROOT))
    if name in PURPOSE:
        return PURPOSE[name]
    if (folder / "__init__.py").exists():
        return sentence(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "")
    comments = [found for path in sorted(folder.glob("*.go")) if (found := re.search(r"^// Package \w+ (.+)$", path.read_text(), re.MULTILINE))]
    said = sentence(comments[0][1]).removeprefix("is ").removeprefix("the ") if comments else ""
    return said[:1].upper() + said[1:]


def hidden(path: Path) -> bool:
    """Whether a path below the checkout is no source: made, cached, or the build's."""
    parts = path.relative_to(ROOT).parts
    return any(part.startswith((".", "__pycache__")) or part.endswith((".egg-info", ".pyc")) for part in parts) or parts[:3] == (
        "src",
        "banger",
        "agent",
    )


def folders() -> list[Path]:
    """Every folder of sources that holds files, parents first."""
    roots = [ROOT / name for name in ("agent", "bench", "docs", "packaging", "src/banger", "tests")]
    found = [folder for root in roots for folder in (root, *root.rglob("*")) if folder.is_dir() and not hidden(folder)]
    holding = [folder for folder in found if any(path.is_file() and not hidden(path) for path in folder.iterdir())]
    return sorted(folder for folder in holding if not str(folder.relative_to(ROOT)).startswith(f"{DATA}/"))


def modules(folder: Path) -> list[str]:
    """The names of a package's files."""
    return sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")


def tree() -> str:
    """Every folder with its purpose; those of the package with the names of their files."""
    lines = []
    for folder in folders():
        name = str(folder.relative_to(ROOT))
        lines.append(f"{name}/  {purpose(folder)}")
        lines += wrapped(modules(folder)) if name.startswith(LISTED) else []
    return "```text\n" + "\n".join(lines) + "\n```\n"


def wrapped(names: list[str]) -> list[str]:
    """Names on indented lines of bounded width."""
    lines: list[str] = []
    for name in names:
        if not lines or len(lines[-1]) + len(name) > TREE_WIDTH:
            lines.append("   ")
        lines[-1] += f" {name}"
    return lines


PARTS: dict[str, Callable[[], str]] = {"settings": settings, "errors": errors, "tree": tree}


def pages() -> list[Path]:
    """Every page that is written by hand, at least in part."""
    return sorted([*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if path.name != "reference.md")])


def renewed(text: str) -> str:
    """A page with its made parts as the code would have them."""
    return PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], text)


def main() -> None:
    """Write every made part anew."""
    for path in pages():
        text = path.read_text()
        if (new := renewed(text)) != text:
            path.write_text(new)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
