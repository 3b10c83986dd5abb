"""The settings of Sphinx for the documentation: Markdown pages (MyST), Mermaid diagrams, Google docstrings.

`make docs` treats every warning as an error; a link to a page, file or heading that does not exist is a warning.
Pages use only markup that GitHub shows too: relative links, fenced blocks, HTML comments.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Amends"
version = installed_version("amends")
release = version

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "diagram_directive"]
exclude_patterns = ["**/_*"]

smartquotes = False  # readers copy code and quotes from these pages

html_theme = "furo"
html_title = "Amends"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
