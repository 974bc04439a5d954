"""What the site's build adds: tables, and pages made from files that stand elsewhere in the repository.

- a `<!-- table: ... -->` directive becomes a table (`docs/tables.py`);
- `datasets/*/README.md`, `CONTRIBUTING.md` and `CHANGELOG.md` become pages;
- every room of the package gets a page of the API reference, with a section per module.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reid_jax"


def _load(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the two parts of the navigation that follow the tree: data sets and rooms."""
    sys.path.insert(0, str(ROOT))
    for entry in config.nav or []:
        if "Data sets" in entry:
            entry["Data sets"] = ["datasets/index.md", *(f"datasets/{name}.md" for name in _datasets())]
        if "API reference" in entry:
            entry["API reference"] = ["api/index.md", *({room: f"api/{room}.md"} for room in _rooms())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    pages = {"contributing.md": ROOT / "CONTRIBUTING.md", "changelog.md": ROOT / "CHANGELOG.md"}
    pages |= {"datasets/index.md": ROOT / "datasets" / "README.md"}
    pages |= {f"datasets/{name}.md": ROOT / "datasets" / name / "README.md" for name in _datasets()}
    for path, source in pages.items():
        files.append(File.generated(config, path, content=_moved(source.read_text())))
    files.append(File.generated(config, "api/index.md", content=_api_index()))
    for room in _rooms():
        files.append(File.generated(config, f"api/{room}.md", content=_api_page(room)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Puts the tables in."""
    try:
        return _load("tables").render(markdown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def _moved(text: str) -> str:
    """A README's links as they read on the site."""
    text = text.replace("](../README.md", "](index.md").replace("](datasets/README.md", "](datasets/index.md")
    text = re.sub(r"\]\((?:\.\./)?(\w+)/README\.md", r"](\1.md", text)
    return re.sub(r"\]\(docs/([\w/-]+\.md)", r"](\1", text)


def _datasets() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "datasets").glob("*/README.md"))


def _rooms() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def _modules(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*.py") if not path.name.startswith("_") and _public(path))


def _public(path: pathlib.Path) -> bool:
    return not any(part.startswith("_") for part in path.relative_to(PACKAGE).parts)


def _dotted(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _api_index() -> str:
    """The rooms with the first line of what they say about themselves, then the modules at the root."""
    lines = ["# API reference", "", "| room | holds |", "|---|---|"]
    for room in _rooms():
        lines.append(f"| [`reid_jax.{room}`]({room}.md) | {_summary(PACKAGE / room / '__init__.py')} |")
    lines.append("")
    for path in sorted(PACKAGE.glob("*.py")):
        if not path.name.startswith("_"):
            lines += [f"::: {_dotted(path)}", ""]
    return "\n".join(lines)


def _api_page(room: str) -> str:
    """A room and its modules."""
    lines = [f"# reid_jax.{room}", "", f"::: reid_jax.{room}", "    options:", "      show_root_heading: false"]
    lines += ["      show_root_toc_entry: false", ""]
    for path in _modules(PACKAGE / room):
        lines += [f"::: {_dotted(path)}", ""]
    return "\n".join(lines)


def _summary(path: pathlib.Path) -> str:
    """What a room holds: the first line of its docstring, or its row in the table of rooms of the design."""
    match = re.match(r'"""(.+?)(?:"""|\n\n)', path.read_text(), re.DOTALL)
    if match:
        return " ".join(match[1].split())
    room = f"`{path.parent.name}/`"
    rows = [line.split("|") for line in (ROOT / "docs" / "design.md").read_text().splitlines() if line.startswith("|")]
    return next((cells[2].strip() for cells in rows if room in cells[1]), "")
