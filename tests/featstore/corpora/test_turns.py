from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.corpora.iemocap import UTTERANCE, Turn, parse_transcript, parse_turns, strip_tags

IDS = st.from_regex(
    r"Ses0[1-5][FM]_(impro[0-9][0-9][ab]?|script[0-9][0-9]_[0-9][ab]?)_[FM][0-9]{3}", fullmatch=True
)


@given(IDS, st.sampled_from(["ang", "xxx"]), st.integers(0, 10**6), st.integers(1, 10**5))
def test_every_turn_that_is_written_is_read(name: str, code: str, start: int, length: int) -> None:
    begin, end = start / 10_000, (start + length) / 10_000
    line = f"[{begin:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]"
    turns, faults = parse_turns(f"% header\n\n{line}\nC-E2:\tAnger;\t()\n", "f.txt", name[:5])
    assert faults == []
    assert turns == [Turn(name, code, begin, end, "f.txt", 3)]
    last = name.split("_")[-1]
    assert turns[0].speaker == name[:5] + last[0]
    assert turns[0].gender == {"F": "female", "M": "male"}[last[0]]
    assert turns[0].kind == ("scripted" if "script" in name else "improvised")
    assert f"{turns[0].dialogue}_{last}" == name


@given(st.text(alphabet="[] -.0123456789\tSes01FM_impro\n\r:\x85\u2028\x00", max_size=200))
def test_no_text_whatever_raises(text: str) -> None:
    turns, _ = parse_turns(text, "f.txt", "Ses01")
    assert all(UTTERANCE.match(turn.utterance_id) for turn in turns)
    parse_transcript(text, "f.txt")


@pytest.mark.parametrize(
    "name",
    [
        "Ses01F_impro01_F000",
        "Ses03M_impro05b_M099",
        "Ses05M_script01_1b_F012",
        "Ses02F_script03_2_M041",
    ],
)
def test_ids_of_the_release(name: str) -> None:
    assert UTTERANCE.match(name)


@pytest.mark.parametrize(
    "name",
    [
        "Ses06F_impro01_F000",
        "Ses01X_impro01_F000",
        "Ses01F_impro1_F000",
        "Ses01F_impro01c_F000",
        "Ses01F_script01_F000",
        "Ses01F_impro01_F00",
        "Ses01F_impro01_F0000",
        "Ses01F_impro01_MXX0",
        "Ses01F_impro01_F000\n",
        "._Ses01F_impro01_F000",
        "Ses01F_impro01_F00\u0660",
    ],
)
def test_no_ids(name: str) -> None:
    assert not UTTERANCE.match(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[LAUGHTER]", ""),
        ("Oh [BREATHING] no.", "Oh no."),
        ("[A][B] a  b\t[C]", "a b"),
        ("half [open", "half [open"),
        ("[LAUGHTER [more", "[LAUGHTER [more"),
        ("plain", "plain"),
    ],
)
def test_strip_tags(text: str, expected: str) -> None:
    assert strip_tags(text) == expected


def test_untimed_lines_and_other_ids_are_no_utterances() -> None:
    text = (
        "M: Mmhmm.\n"
        "Ses01F_impro01_F000 Hello.\n"
        "Ses01F_impro01_MXX0 [014.1411-018.0116]: [LAUGHTER]\n"
        "Ses01F_impro01_F001 [014.1411-018.0116]: Well: yes [LAUGHTER] [no].\n"
    )
    assert parse_transcript(text, "f.txt") == (
        {"Ses01F_impro01_F001": ("Well: yes [LAUGHTER] [no].", 4)},
        [],
    )


@pytest.mark.timeout(20)
def test_no_line_takes_more_than_linear_time() -> None:
    """A hundred thousand times as much would take hours if each character meant another pass."""
    n = 2_000_000
    for text in ("[" * n, "[1" * n, "1" * n, "[" + "1" * n, "[ " * n, "[]" * n, " " * n + "x"):
        strip_tags(text)
        parse_turns(f"[{text}", "a.txt", "Ses01")
        parse_transcript(f"Ses01F_impro01_F000 {text}", "a.txt")
        parse_transcript(text, "a.txt")
