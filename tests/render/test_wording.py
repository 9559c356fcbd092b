"""Text of files as it can be written anywhere, and the messages that hold it."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from render.meshes import MeshError
from render.wording import plain


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_becomes_one_line_that_utf_8_can_hold(value: str) -> None:
    found = plain(value, 100)
    assert found.encode().decode() == found
    assert len(found) <= 100
    assert found.isprintable() or not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in found)
    assert plain(found, 100) == found


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("Rig|Walk", "Árm.L  2", "歩く", "a" * 200, ""):
        assert plain(name) == name
    assert plain("arm \ud800") == "arm ?"
    assert plain("a" * 201) == "a" * 199 + "…"
    assert plain("a\x00b\nc") == "a b c"


def test_a_message_can_be_written_whatever_its_document_says() -> None:
    error = MeshError("unsupported", "a.glb: needs \udcff\n\x1b[31m" + "x" * 10**6)
    assert len(str(error).encode()) < 2000
    assert not set("\n\x1b") & set(str(error))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
