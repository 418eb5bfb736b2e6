"""What README and documentation say runs, and what they point to is there."""

import re
from pathlib import Path

import pytest

import echo_tf
from echo_tf import theory
from echo_tf.command.options import parse_arguments

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts)
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(str(p.relative_to(ROOT)) for p in DOCS)]
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
LINKS = re.compile(r"\]\(([^)\s]+)\)|<(\.\./[^>\s]+)>`")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    for target in filter(None, (part for found in LINKS.findall(text) for part in found)):
        if not re.match(r"https?:|#", target):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_every_public_name_is_in_the_reference():
    text = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/api/*.md"))
    names = {f"echo_tf.{name}" for name in echo_tf.__all__ if name != "__version__"}
    names |= {f"echo_tf.theory.{name}" for name in theory.__all__}
    assert names - set(re.findall(r"^\.\. auto\w+:: (\S+)", text, re.M)) - {"echo_tf.theory"} == set()


def test_every_figure_is_in_the_gallery():
    text = (ROOT / "docs/results/gallery.md").read_text(encoding="utf-8")
    ignored = ("reconstructions_", "matched_")  # images of data sets, which git ignores
    figures = {str(path.relative_to(ROOT)) for path in ROOT.glob("results/*/*.png") if not path.name.startswith(ignored)}
    assert figures - set(re.findall(r"\.\./\.\./(results/\S+\.png)", text)) == set()


@pytest.mark.parametrize("page", PAGES)
def test_options_of_the_command_line_exist(page, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    option = re.compile(r"--[a-z][\w-]*")
    known = set(option.findall(capsys.readouterr().out))
    text = (ROOT / page).read_text(encoding="utf-8")
    for command in re.findall(r"python reproduce\.py([^\n#`|]*)", text):
        assert set(option.findall(command)) <= known, command


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]
WITH_CODE = [page for page in PAGES if page not in TUTORIALS and BLOCKS.search((ROOT / page).read_text(encoding="utf-8"))]


def test_tutorials_have_the_line_in_the_place_of_which_the_notebook_is_linked():
    assert TUTORIALS
    assert all("\n*Output and figures of this page" in (ROOT / page).read_text(encoding="utf-8") for page in TUTORIALS)


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs(page, monkeypatch, tmp_path):
    """The blocks of a page in their order, in one namespace; tutorials run when the documentation is built."""
    monkeypatch.chdir(tmp_path)
    names = NAMES.get(page, dict)()
    for block in BLOCKS.findall((ROOT / page).read_text(encoding="utf-8")):
        exec(compile(block, page, "exec"), names)


def of_the_layer():
    """What the fragments of the guide are about: encoder, decoder and images of a model."""
    import keras

    inputs, images = keras.Input((28, 28, 1)), echo_tf.load_dataset("digits").train[:400]
    encoder = keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(16)])
    decoder = keras.Sequential([keras.Input((16,)), keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))])
    return {"keras": keras, "echo_tf": echo_tf, "images": images, "encoder": encoder, "decoder": decoder, "inputs": inputs}


NAMES = {"docs/guides/layer.md": of_the_layer}
