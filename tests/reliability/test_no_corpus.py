"""What is no corpus at all: one line that names it and says what to give instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from featstore.core.config import CorpusSettings
from featstore.core.schema import UserError
from featstore.corpora import CORPORA, load


def a_folder_of_photos(root: Path) -> None:
    (root / "2019").mkdir(parents=True)
    for name in ("IMG_1.jpg", "2019/IMG_2.jpg", "holiday.wav.jpg"):
        (root / name).write_bytes(b"\xff\xd8\xff\xe0" + bytes(1_000))


NO_CORPUS: Mapping[str, Callable[[Path], object]] = {
    "missing folder": lambda root: None,
    "empty folder": Path.mkdir,
    "file": lambda root: root.write_text("no corpus"),
    "folder of photos": a_folder_of_photos,
    "pipe": os.mkfifo,
    "link to itself": lambda root: root.symlink_to(root.name),
}


@pytest.mark.parametrize("kind", NO_CORPUS)
def test_what_is_no_corpus_at_all(kind: str, tmp_path: Path) -> None:
    # The synthetic corpus is made where nothing is.
    names = [name for name in CORPORA if (name, kind) != ("synthetic", "missing folder")]
    for name in names:
        root = tmp_path / name
        NO_CORPUS[kind](root)
        with pytest.raises(UserError) as told:
            load(name, root, CorpusSettings(name=name))
        assert str(root) in told.value.message
        assert (told.value.exit_code, bool(told.value.hint)) == (2, True)
    print(f"bad corpora, no corpus ({kind}): {len(names)} adapters, all say so")
