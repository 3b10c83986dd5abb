"""The settings of Sphinx for the documentation: Markdown pages (MyST), Mermaid diagrams, Google docstrings.

`make docs` treats every warning as an error; a link to a page, file or heading that does not exist is a warning.
Pages use only markup that GitHub shows too: relative links, fenced blocks, HTML comments. The built pages load nothing
from another site, and diagrams are drawn also on pages that a browser reads from files.
"""

import hashlib
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ConfigError, ExtensionError

project = "Amends"
version = installed_version("amends")
release = version

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/_*"]

smartquotes = False  # readers copy code and quotes from these pages

html_theme = "furo"
html_title = "Amends"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

# ---- Diagrams

_SCRIPT = Path(__file__).parents[1] / "build" / "mermaid" / "dist" / "mermaid.min.js"
_SHA256 = "198b19442f86f0b46a17e56d3abf744c3a28a3427e66fa8dada3b589a77babcc"

if _SCRIPT.exists():
    if hashlib.sha256(_SCRIPT.read_bytes()).hexdigest() != _SHA256:
        raise ConfigError(f"{_SCRIPT} is not the expected script; remove it, and run make docs again")
    extensions.append("sphinxcontrib.mermaid")
    html_static_path = [str(_SCRIPT), str(_SCRIPT.parents[1] / "mermaid.LICENSE")]
    myst_fence_as_directive = ["mermaid"]
    mermaid_use_local = "/mermaid"  # the key of _IMPORT_MAP
    mermaid_fullscreen = False
else:
    # The pages show the sources of the diagrams as code, for which there is no highlighter.
    suppress_warnings = ["misc.highlighting_failure"]

# The extension imports Mermaid as a module. A browser imports no module from a file, but it runs a script from one; the
# map turns the import into a look-up of the object that the script has defined.
_IMPORT_MAP = '{"imports": {"/mermaid": "data:text/javascript,export default globalThis.mermaid"}}'
_REMOTE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\brel=["']stylesheet["'][^>]*//"""
    r"""|\bimport\b[^;<]*["'](?:https?:)?//"""
)


def _add_script(app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: object) -> None:
    if ' class="mermaid"' in context.get("body", ""):
        app.add_js_file(None, body=_IMPORT_MAP, type="importmap", priority=400)
        app.add_js_file(_SCRIPT.name, priority=401)


def _check_local(app: Sphinx, error: Exception | None) -> None:
    """Refuse a site that loads anything from another site."""
    if error is None:
        loading = [str(page) for page in Path(app.outdir).rglob("*.html") if _REMOTE.search(page.read_text("utf-8"))]
        if loading:
            raise ExtensionError(f"pages load something from another site: {', '.join(loading)}")


def setup(app: Sphinx) -> None:
    """Connect the two functions above with the build."""
    app.connect("html-page-context", _add_script)
    app.connect("build-finished", _check_local)
