"""How Sphinx builds this documentation: `python -m sphinx -W docs docs/_build/html`."""

import contextlib
import inspect
import io
import os
import re
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.nodes import image as image_node
from docutils.utils.math.latex2mathml import tex2mathml

import echo_tf
from echo_tf.command.options import parse_arguments

ROOT = Path(__file__).resolve().parent.parent

project, author, copyright = "echo_tf", "The echo_tf developers", "2026, the echo_tf developers"
version = release = echo_tf.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True  # a name in a signature or docstring that leads nowhere is a warning, too
nitpick_ignore = [("py:class", "numpy.ndarray")]  # on a site that a build without a network cannot ask

html_theme = "furo"
html_title = "echo_tf"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_enable_extensions = ["deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3

# What `reproduce.py --help` prints, for the guide of the command line.
os.environ["COLUMNS"] = "82"  # what the column of a page holds
with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
    parse_arguments(["--help"])
myst_substitutions = {"options": f"```text\n{printed.getvalue()}```"}

# Tutorials run when the documentation is built; an exception in one ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / "cache")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_execution_in_temp = True  # what a tutorial saves does not stay here
nb_output_stderr = "remove"  # TensorFlow's start-up messages
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

default_role = "literal"  # single backticks in docstrings are code
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_custom_sections = [("Call arguments", "params_style")]

# Pages are plain Markdown, which GitHub shows too. What only the documentation can do takes the place of these lines.
_NOTEBOOK = "---\nfile_format: mystnb\nkernelspec: {name: python3, display_name: Python 3}\n---\n\n"
_NOTE = re.compile(r"^\*Output and figures .*\*$", re.M)  # in tutorials
_TEXT_ELSEWHERE = re.compile(r"^\[.*\]\((\S*results/\w+/README\.md|\S*CHANGELOG\.md)\)$", re.M)


def _complete(app, docname, content):
    """Tutorials as notebooks that run; a page with a link on a line of its own has the text that the link leads to."""
    if docname.startswith("tutorials/"):
        notebook = f"This page as a notebook: {{nb-download}}`{docname.rpartition('/')[2]}.ipynb`"
        content[0] = _NOTEBOOK + _NOTE.sub(notebook, content[0]).replace("```python\n", "```{code-cell} python\n")
    title = ":start-line: 1\n" if content[0].startswith("# ") else ""  # one title a page
    content[0] = _TEXT_ELSEWHERE.sub(rf"```{{include}} \1\n:relative-images:\n{title}```", content[0])


_LINK = re.compile(r"(?<!!)\[([^\]\n]+(?:\n[^\]\n]+)?)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def _link_to_files(app, relative_path, parent_docname, content):
    """Links of an included file of the repository: another results page, or a file to download; a folder is only named."""
    folder = Path(app.srcdir, relative_path).resolve().parent

    def link(found):
        text, target = found[1], found[2]
        path = (folder / target).resolve()
        if "://" in target or (path.suffix == ".md" and path.is_relative_to(app.srcdir)):
            return found[0]
        readme = path / "README.md" if path.is_dir() else path
        page = Path(app.srcdir) / "results" / f"{readme.parent.name}.md"
        if readme.name == "README.md" and page.exists():
            return f"[{'' if text.startswith('..') else text}](/results/{page.name})"  # without a text: the title
        if path.is_dir():
            return text
        return f"{{download}}`{text} </{os.path.relpath(path, app.srcdir)}>`"

    content[0] = _LINK.sub(link, content[0])


def _source(app, what, name, obj, options, lines):
    """The last words of a docstring, `Source: ...` over several lines, as one paragraph."""
    joined = []
    for line in lines:
        if joined and re.match(r"\*\*(Source|Differs)", joined[-1]) and line.startswith("    "):
            joined[-1] += " " + line.strip()
        else:
            found = re.match(r"(Source|Differs)\b", line)
            joined += ["", f"**{found[1]}**{line[found.end() :]}"] if found else [line]
    lines[:] = joined


def _link_figures(app, doctree):
    """Sphinx links what has a width to the file in full size, which a phone needs."""
    for image in doctree.findall(image_node):
        if "results/" in image["uri"]:
            image["width"] = "100%"


def _signature(app, what, name, obj, options, signature, returns):
    """That of a layer: Keras hides it behind `(*args, **kwargs)`."""
    if what != "class":
        return signature, returns
    found = inspect.signature(obj.__init__)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in list(found.parameters.values())[1:]]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)), None


def _visit_math(self, node, block):
    """Formulas as MathML, which browsers draw without a script."""
    tree = tex2mathml(node.astext(), as_block=block)
    self.body.append(f'<div class="math">{tree}</div>' if block else tree)
    raise SkipNode


def setup(app):
    """Register the functions above."""
    app.connect("source-read", _complete)
    app.connect("include-read", _link_to_files)
    app.connect("doctree-read", _link_figures)
    app.connect("autodoc-process-docstring", _source, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: _visit_math(self, node, False), None),
        block_renderers=(lambda self, node: _visit_math(self, node, True), None),
    )
