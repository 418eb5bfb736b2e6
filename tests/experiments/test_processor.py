import platform
import sys

import pytest

from echo_tf.experiments import processor
from echo_tf.experiments.processor import instructions, lacks_bfloat16


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="only Linux tells, and only x86 is asked")
def test_instructions_are_those_of_this_processor():
    assert {"sse2", "fxsr"} <= instructions()  # every x86-64 has them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: sse2 avx2\nprocessor\t: 1\nflags\t\t: sse2 avx2\n", {"sse2", "avx2"}),
        ("processor\t: 0\nFeatures\t: fp asimd\n", set()),  # ARM
        ("", set()),
    ],
)
def test_instructions_are_those_of_the_file(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert instructions(tmp_path / "cpuinfo") == expected


def test_without_the_file_nothing_is_known(tmp_path):
    assert instructions(tmp_path / "cpuinfo") == frozenset()
    assert instructions(tmp_path) == frozenset()  # a folder cannot be read


@pytest.mark.parametrize(
    ("known", "expected"),
    [({"avx2"}, True), ({"avx2", "avx512f"}, False), ({"avx2", "avx_ne_convert"}, False), (set(), False)],
)
def test_bfloat16_is_slow_without_avx512(monkeypatch, known, expected):
    monkeypatch.setattr(processor, "instructions", lambda: frozenset(known))
    assert lacks_bfloat16() is expected
