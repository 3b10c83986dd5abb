"""Show Mermaid diagrams without loading anything from another site.

`make docs` fetches the script of Mermaid with npm into `build/mermaid`, so that the site has its own copy. If
npm is missing, or cannot reach its registry, the pages show the source of the diagrams with a note.
"""

# ruff: noqa: INP001 - part of the documentation's build, not a package

import hashlib
import html
import re
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes  # type: ignore[import-untyped]  # its stubs are not needed for anything else
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

__all__ = ["SCRIPT", "Diagram", "setup"]

SCRIPT = Path(__file__).parents[1] / "build" / "mermaid" / "dist" / "mermaid.min.js"
"""The place where `make docs` puts the script, next to its licence."""

_SHA256 = "198b19442f86f0b46a17e56d3abf744c3a28a3427e66fa8dada3b589a77babcc"
_DRAW = """\
const dark = document.body.dataset.theme === "dark"
  || (document.body.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
mermaid.initialize({startOnLoad: true, theme: dark ? "dark" : "default"});
"""
_BEGIN = '<pre class="mermaid">'
_NOTE = "This copy of the documentation was built without npm, so the source of the diagram is shown."
_REMOTE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\brel=["']stylesheet["'][^>]*//"""
)


class Diagram(SphinxDirective):
    """A fenced block `mermaid`."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Return the diagram in the form that Mermaid's script expects and a reader can read without the script."""
        source = html.escape("\n".join(self.content))
        return [nodes.raw("", f"{_BEGIN}\n{source}\n</pre>", format="html")]


def _add_script(app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: nodes.document | None) -> None:
    body = context.get("body", "")
    if _BEGIN not in body:
        return
    if SCRIPT.exists():
        app.add_js_file(SCRIPT.name, priority=800)
        app.add_js_file(None, body=_DRAW, priority=801)
    else:
        context["body"] = body.replace(_BEGIN, f"<p><em>{_NOTE}</em></p>\n{_BEGIN}")


def _check_local(app: Sphinx, error: Exception | None) -> None:
    """Refuse a site that loads anything from another site."""
    if error is None:
        loading = [str(page) for page in Path(app.outdir).rglob("*.html") if _REMOTE.search(page.read_text("utf-8"))]
        if loading:
            raise ExtensionError(f"pages load something from another site: {', '.join(loading)}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive.

    Raises:
        ExtensionError: The fetched script is not the expected one.
    """
    if SCRIPT.exists():
        if hashlib.sha256(SCRIPT.read_bytes()).hexdigest() != _SHA256:
            raise ExtensionError(f"{SCRIPT} is not the expected script; remove it, and run make docs again")
        app.config.html_static_path.extend([str(SCRIPT), str(SCRIPT.parents[1] / "mermaid.LICENSE")])
    app.add_directive("mermaid", Diagram)
    app.connect("html-page-context", _add_script)
    app.connect("build-finished", _check_local)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
