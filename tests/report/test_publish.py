import json

import pytest

from echo_tf.errors import ResultError
from echo_tf.experiments.records import noise_path, read_noise, read_results
from echo_tf.files import checksum
from echo_tf.report.publish import (
    check_results,
    check_tables,
    copy_results,
    copy_tables,
    publish_files,
    publish_measured,
    publish_report,
)
from echo_tf.report.rows import compare


def test_files_are_copied(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("table")
    assert publish_files([path], None) == [path]
    assert publish_files([path], tmp_path) == [path]  # onto itself
    (copy,) = publish_files([path], tmp_path / "published")
    assert (copy, copy.read_text()) == (tmp_path / "published" / "table.md", "table")
    for name in ("figure.png", "figure.pdf"):
        (tmp_path / name).write_text(name)
    assert publish_files([tmp_path / "figure.png"], tmp_path / "published") == [tmp_path / "published" / "figure.png"]
    assert (tmp_path / "published" / "figure.pdf").read_text() == "figure.pdf"  # to which the page has a link


def test_tables_of_experiments_without_cells_lose_no_setting(tmp_path):
    table, folder = tmp_path / "digits.csv", tmp_path / "published"
    table.write_text("channel,beta,seed,rate_nats\necho,0.1,0,2.0\nnone,,0,inf\n")
    assert publish_measured([table], None) == [table]
    publish_measured([table], folder)
    table.write_text("channel,beta,seed,rate_nats\necho,0.1,0,2.5\nnone,,0,inf\necho,0.2,0,1.0\n")  # measured anew
    publish_measured([table], folder)
    table.write_text("channel,beta,seed,rate_nats\necho,0.2,0,1.0\nnone,,0,inf\necho,0.3,0,1.0\n")
    with pytest.raises(ResultError, match=r"lacks \(channel echo, beta 0\.1, seed 0\)"):
        publish_measured([table], folder)
    assert "echo,0.1,0,2.5" in (folder / table.name).read_text()


@pytest.fixture
def put(result, on_disk, tmp_path):
    """Write a result under a folder for all cells, and return its own folder."""

    def write(out, name, **values):
        folder = tmp_path / out / "binary_mnist" / "echo" / name
        on_disk(result(folder=folder, **values))
        return folder

    return write


@pytest.mark.parametrize(("published", "name"), [(True, "index.html"), (False, "comparison.md"), (False, "comparison.pdf")])
def test_a_file_of_somebody_else_is_kept(put, tmp_path, published, name):
    put("runs", "cell")
    results, folder, page = read_results(tmp_path / "runs"), tmp_path / "site", tmp_path / "index.html"
    page.write_text("Made by echo_tf")
    for _ in range(2 * published):
        publish_report(tmp_path / "runs", results, [page], folder)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("my own")
    for own in ("comparison.md", "comparison.png", "comparison.pdf"):
        (tmp_path / own).write_text("ours")
    with pytest.raises(ResultError, match=f"{name} is not of a published report"):
        publish_report(tmp_path / "runs", results, [tmp_path / "comparison.md", tmp_path / "comparison.png", page], folder)
    assert (folder / name).read_text() == "my own"


def test_published_results_make_the_same_tables(put, tmp_path):
    folder = put("runs", "cell")
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
    (folder / "model.keras").write_text("weights")
    results = read_results(tmp_path / "runs")
    for out in (tmp_path / "published", tmp_path / "runs"):  # the second over itself
        copy_results(results, out)
        assert compare(read_results(out)) == compare(results)
    (published,) = (tmp_path / "published").glob("*/*/*")
    assert {path.name for path in published.iterdir()} == {"result.json", "metrics.jsonl"}
    assert (folder / "model.keras").exists()


def test_publishing_keeps_what_other_models_left(put, tmp_path, caplog):
    put("one", "a", neg_elbo=90.0)
    for seed, name in enumerate(("a", "b")):
        put("two", name, seed=seed, training={"epochs": 10})
    published = tmp_path / "published"
    copy_results(read_results(tmp_path / "one"), published)
    with pytest.raises(ResultError, match=r"training\.epochs: 200 there, 10 wanted"):
        check_results(read_results(tmp_path / "two"), published)
    assert [path.name for path in published.glob("*/*/*")] == ["a"]
    copy_results([read_results(tmp_path / "two")[1]], published)
    assert "1 more results" in caplog.text
    assert {found.mean["neg_elbo_nats"] for found in read_results(published)} == {90.0}
    assert sorted(path.name for path in published.glob("*/*/*")) == ["a", "b"]


def test_evaluations_on_other_data_are_published_with_their_model(put, tmp_path):
    folder = put("runs", "cell")
    (folder / "on_others.json").write_text("{}")
    published = tmp_path / "published"
    copy_results(read_results(tmp_path / "runs"), published)
    (copied,) = published.glob("*/*/*/on_others.json")
    for name, neg_elbo, stays in (("same", 90.0, True), ("trained_again", 91.0, False)):
        put(name, "cell", neg_elbo=neg_elbo)
        copy_results(read_results(tmp_path / name), published)
        assert copied.exists() == stays


def test_total_correlation_is_published_with_its_model(put, tmp_path, noise):
    folder = put("runs", "cell")
    put("runs", "cell", split="validation")
    noise |= {"checksum": checksum(noise)}
    (folder / "noise_validation.json").write_text(json.dumps(noise))
    published = tmp_path / "published"
    copy_results(read_results(tmp_path / "runs"), published)
    paths = [noise_path(found.folder, found.split) for found in read_results(published)]
    assert [path.exists() for path in paths] == [False, True]
    assert read_noise(paths[1]) == noise
    for name, neg_elbo, stays in (("same", 90.0, True), ("trained_again", 91.0, False)):  # neither was analysed
        put(name, "cell", neg_elbo=neg_elbo, split="validation")
        copy_results(read_results(tmp_path / name), published)
        assert paths[1].exists() == stays


def test_tables_of_every_experiment_are_published(tmp_path):
    out, published = tmp_path / "runs", tmp_path / "published"
    tables = [out / name for name in ("noise/digits/laws.csv", "noise/digits/fits.csv", "disentanglement/sprites/scores.csv")]
    others = [out / name for name in ("report/comparison.csv", "digits/echo/cell/table.csv", "noise/digits/pictures.npz")]
    for path in (*tables, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of,nats\n{path.stem},1\n")
    for folder in (published, published, out):  # again, and onto itself
        copy_tables(out, folder)
    copies = [path.relative_to(published) for path in published.rglob("*") if path.is_file()]
    assert sorted(copies) == sorted(path.relative_to(out) for path in tables)
    assert all((published / path.relative_to(out)).read_text() == path.read_text() for path in tables)
    tables[0].write_text("of,nats\nlaws,1\nmore,2\n")  # rows are added
    copy_tables(out, published)
    tables[0].write_text("of,nats\nmore,2\n")
    tables[1].write_text("of,nats\nnew,3\n")
    with pytest.raises(ResultError, match=r"fits\.csv has rows that .* lacks"):
        check_tables(out, published)
    assert "laws,1" in (published / "noise/digits/laws.csv").read_text()
    tables[0].write_text("of,kind,nats\nlaws,,1\nmore,,2\n")  # a later version has one column more
    tables[1].unlink()
    check_tables(out, published)
    copy_tables(out, published)
    assert (published / "noise/digits/laws.csv").read_text() == tables[0].read_text()
