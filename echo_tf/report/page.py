"""The report as one HTML page that needs no other file: tables, figures, and what is missing."""

import base64
import html
from pathlib import Path

from echo_tf.files import write_atomically
from echo_tf.report.table import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; }
ul { color: #555; font-size: 13px; padding-left: 1.2rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 13px; }
"""


def write_page(tables: list[Table], figures: list[Path], path: Path) -> Path:
    """Write the page.

    Args:
        tables: Tables, in the order in which they stand.
        figures: PNG files, which become part of the page.
        path: The HTML file.

    Returns:
        `path`.
    """
    parts = ["<h1>Rate and distortion: results beside the paper</h1>"]
    parts.append(
        "<p>Reproduction of <em>Exact Rate-Distortion in Autoencoders via Echo Noise</em> (Brekelmans et al. 2019). "
        "All quantities are in nats per example. Made from result files by <code>reproduce.py --report</code>.</p>"
    )
    parts += [f"<h2>{html.escape(table.title)}</h2>\n{table.html()}" for table in tables]
    parts.append("<h2>Figures</h2>")
    parts += [_figure(figure) for figure in figures]
    body = "\n".join(parts)
    write_atomically(
        path,
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>echo_tf: results</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
    )
    return path


def _figure(path: Path) -> str:
    name = html.escape(path.stem.replace("_", " "))
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'
