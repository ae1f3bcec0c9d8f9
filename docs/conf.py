"Settings of the documentation site; `docs/build.py` writes the pages and calls Sphinx"
from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml

project = "galaxy_cnn"
author = "the galaxy_cnn authors"
copyright = f"2026, {author}"
extensions = ["myst_nb"]
html_theme = "pydata_sphinx_theme"
html_title = project
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_nav_level": 1,
    "header_links_before_dropdown": 6,
    "logo": {"text": project},
}
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": []}
nb_ipywidgets_js = {}  # no widgets, and no scripts from elsewhere for them
nb_execution_mode = "off"  # outputs as they are stored in the notebooks
nb_merge_streams = True
nb_code_prompt_show = "Code of the package"
nb_code_prompt_hide = "Code of the package"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]


def inline_math(writer, node):
    "An inline formula as MathML, which every current browser draws without a script"
    writer.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def display_math(writer, node):
    "A formula on a line of its own, as MathML"
    writer.body.append(f'<div class="math">{latex2mathml.tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))


html_math_renderer = "mathml"
