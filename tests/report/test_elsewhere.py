import json

import pytest

from echo_tf.experiments.elsewhere import elsewhere_path
from echo_tf.experiments.records import QUANTITIES
from echo_tf.files import checksum
from echo_tf.report.elsewhere import elsewhere_table


@pytest.fixture
def evaluated(result, on_disk, tmp_path):
    """A function that puts a result on disk, evaluated on Omniglot, the reconstruction of it, too."""

    def put(method, **changes):
        found = result(method, folder=tmp_path / method, **changes)
        on_disk(found)
        about = {"dataset": "omniglot", "fingerprint": "", "source": "reconstruction", "images": 8_070, "passes": 5}
        values = {"evaluated_on": about}
        values |= {quantity: {"mean": 100.0 + i, "se": 0.1} for i, quantity in enumerate(QUANTITIES)}
        values |= {} if method == "echo" else {"importance_bound_nats": {"mean": 99.0}}
        path = elsewhere_path(found.folder, "omniglot")
        path.write_text(json.dumps({**values, "checksum": checksum(values)}))
        return found

    return put


def test_a_line_for_each_model(evaluated, result, tmp_path):
    validation = result(split="validation", folder=tmp_path / "echo")
    table = elsewhere_table([evaluated("echo", neg_elbo=90.0), evaluated("vae"), validation])
    echo, vae = (dict(zip(table.header, line, strict=True)) for line in table.lines)
    assert (echo["data"], echo["evaluated on"], echo["own -ELBO"]) == ("binary_mnist", "omniglot*", "90.00")
    assert (echo["rate"], vae["rate"]) == ("≈ 100.00 ± 0.10", "100.00 ± 0.10")
    assert (echo["distortion"], vae["-ELBO"], vae["IS bound"]) == ("101.00 ± 0.10", "102.00 ± 0.10", "99.00")
    assert table.notes.count(next(note for note in table.notes if note.startswith("* Omniglot"))) == 1
    assert table.records[0]["neg_elbo_nats"] == 102.0 and table.records[0]["images"] == 8_070


def test_no_table_without_evaluations(result):
    assert elsewhere_table([result()]) is None
