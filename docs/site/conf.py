"""The site of docs/: Sphinx with MyST and the furo theme; `make docs` builds it, with every warning an error.

Nothing comes from the network: the theme's fonts are the reader's own, its search works in the browser, and a page
loads no address but the site's.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "src")]

import swathe  # noqa: E402

project = "Swathe"
author = "Swathe"
release = version = swathe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "site_pages"]
exclude_patterns = ["site"]
root_doc = "index"

# Headings have the anchors that they have on GitHub, where the same pages are read.
myst_heading_anchors = 4
myst_enable_extensions = ["strikethrough"]
# The pictures of a page and the lists of its tables begin where their headings are, not at the first level.
suppress_warnings = ["myst.header"]

# Docstrings are plain sentences, see `site_pages.as_rst`; their types are read from the signature.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "Swathe"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_permalinks_icon = "#"
pygments_style = "friendly"
pygments_dark_style = "monokai"
