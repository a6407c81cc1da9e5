"""Hints as text."""

from aevb.doctor.hints import CAUSES, Hint, text


def test_a_hint_is_shown_in_three_lines():
    lines = text(Hint("one_class", "one label", "1 class; at least 2", "check it")).splitlines()
    assert lines == ["one_class: one label", "  seen: 1 class; at least 2", "  do: check it"]


def test_causes_have_short_keys_and_one_line_each():
    for cause, meaning in CAUSES.items():
        assert cause.replace("_", "").isalpha()
        assert 0 < len(meaning) < 100
        assert "\n" not in meaning
