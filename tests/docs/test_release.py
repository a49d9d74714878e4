"""What a release states: one version, files of the documentation in the table of contents."""

import re
import tomllib
from types import ModuleType

import dampode
from tests.helpers import ROOT


def test_the_version_is_stated_once_and_cited():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert dampode.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")


def test_every_file_that_the_readme_links_to_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", readme) if not link.startswith("https://")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_api_pages_list_every_public_module_and_name():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")}
    for name in set(dampode.__all__) - {"__version__"}:
        if isinstance(getattr(dampode, name), ModuleType):
            entry = f".. automodule:: dampode.{name}\n   :members:\n"
            assert sum(entry in page for page in pages.values()) == 1, name
        else:
            assert f"`{name}`" in pages["index"]
