"""What README and documentation say runs, and what they point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*/*.md")))]
BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
LINKS = re.compile(r"\]\(([^)\s]+)\)|<(\.\./[^>\s]+)>`")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    for target in filter(None, (part for found in LINKS.findall(text) for part in found)):
        if not re.match(r"https?:|#", target):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCKS.search((ROOT / page).read_text(encoding="utf-8"))])
def test_code_runs(page, monkeypatch, tmp_path):
    """The blocks of a page in their order, in one namespace; tutorials run when the documentation is built."""
    monkeypatch.chdir(tmp_path)
    names = NAMES.get(page, dict)()
    for block in BLOCKS.findall((ROOT / page).read_text(encoding="utf-8")):
        exec(compile(block, page, "exec"), names)


def of_the_layer():
    """What the fragments of the guide are about: encoder, decoder and images of a model."""
    import keras

    import echo_tf

    inputs, images = keras.Input((28, 28, 1)), echo_tf.load_dataset("digits").train[:400]
    encoder = keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(16)])
    decoder = keras.Sequential([keras.Input((16,)), keras.layers.Dense(784), keras.layers.Reshape((28, 28, 1))])
    return {"keras": keras, "echo_tf": echo_tf, "images": images, "encoder": encoder, "decoder": decoder, "inputs": inputs}


NAMES = {"docs/guides/layer.md": of_the_layer}
