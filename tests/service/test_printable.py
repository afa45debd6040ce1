"""File names are strangers' bytes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grid 1/Ölung µ→Å.mrc", "Grid 1/Ölung µ→Å.mrc"),
        ("a\nb\r\tc", "a?b??c"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("c1 \x9b31m", "c1 ?31m"),
        ("turned \u202e round\u2028line", "turned ? round?line"),
        (os.fsdecode(b"not \xff\xfe UTF-8"), "not ?? UTF-8"),
        ("", ""),
    ],
)
def test_what_does_not_show_becomes_a_question_mark(text, shown):
    assert printable(text) == shown


@given(st.binary(max_size=40))
def test_any_file_name_is_one_line_of_text(raw):
    shown = printable(os.fsdecode(raw))
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable()
    shown.encode("utf-8")
