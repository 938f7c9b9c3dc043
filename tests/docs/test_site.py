"""The site is whole: it builds without a warning, links lead somewhere on it and on GitHub, and it loads nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import site_pages
from tests.docs.links import broken, links
from tests.docs.snippets import ROOT, pages
from tests.integration import swathes

# What a page loads by itself, and not where a reader's click may lead.
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//""")
IMPORTED = re.compile(r"""url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//""")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_on_github(page: Path) -> None:
    found = {target: broken(page, target) for target in links(page)}
    assert not {target: reason for target, reason in found.items() if reason}


def test_a_broken_link_is_told(tmp_path: Path) -> None:
    page = ROOT / "docs" / "index.md"
    assert broken(page, "sweeps.md#ready-sweeps") is None
    assert broken(page, "sweeps.md#no-such-heading") == "has no heading no-such-heading"
    assert broken(page, "no-such-page.md") == "is not there"
    assert broken(page, "/etc/hostname") == "is not there"
    assert broken(page, "https://nowhere") == "is no address"


def test_a_docstring_of_the_house_is_read_as_it_is_meant() -> None:
    given = ["Return `a * b`, and **options.", "", "    a * b", "", "    c", "", "Raises `SwatheError`."]
    said = ["Return ``a * b``, and \\*\\*options.", "", ".. code-block:: python", "", "    a * b", "", "    c", "", ""]
    assert site_pages().as_rst(given) == [*said, "Raises ``SwatheError``."]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "-c", "docs/site", "-d", str(folder / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", str(folder / "site")],
        cwd=ROOT,
        env=swathes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_it_builds_without_a_warning_and_has_every_page(site: Path) -> None:
    for page in pages():
        name = "readme.md" if page.name == "README.md" else str(page.relative_to(ROOT / "docs"))
        assert (site / name).with_suffix(".html").is_file()


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not LOADED.search(path.read_text()), path
    for path in site.rglob("*.css"):
        assert not IMPORTED.search(path.read_text()), path


def test_it_has_the_reference(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text()
    assert all(f'id="swathe.{name}"' in python for name in ("report", "trial", "checkpoint", "restore", "Sweep"))
    assert 'id="swathe-lr-find"' in (site / "reference" / "commands.html").read_text()
    described = json.loads((site / "openapi.json").read_text())
    assert "/api/v1/sweeps" in described["paths"]
    assert "/api/v1/sweeps" in (site / "reference" / "http.html").read_text()
