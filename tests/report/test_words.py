import re
from pathlib import Path

from echo_tf.models.config import DATASETS, available_methods
from echo_tf.report import words

SOURCES = [path.read_text(encoding="utf-8") for path in Path(words.__file__).parent.glob("*.py")]


def test_words_are_those_of_the_tables_and_notes_that_there_are():
    code = "\n".join(SOURCES)
    assert set(re.findall(r'told_table\("(\w+)"|WORDS\["tables"\]\["(\w+)"\]', code)) == {
        (name, "") if name != "progress" else ("", name) for name in words.WORDS["tables"]
    }
    assert set(re.findall(r'NOTES\["([^"]+)"\]', code)) == set(words.NOTES)


def test_every_data_set_and_no_unknown_method_has_a_title():
    assert set(words.WORDS["data"]) == set(DATASETS)
    assert set(words.WORDS["methods"]) <= set(available_methods())
