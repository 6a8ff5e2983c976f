"""The store in others' hands: xarray, and the lines of Python that the README shows."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
from zarr.errors import ZarrUserWarning

from featstore.store.store import Store
from tests import ROOT
from tests.featstore.store.kept_store import KEPT

README = ROOT / "README.md"


class TestXarray:
    """It names the tables and records beside the arrays in a warning, and passes them over."""

    def test_opens_a_teacher_with_named_dimensions(self) -> None:
        with pytest.warns(ZarrUserWarning, match=r"unit\.json"):
            found = xarray.open_zarr(KEPT, group="folds/01/linguistic", consolidated=False)
        outputs = Store.open(KEPT).fold(1)["linguistic"]
        assert dict(found.sizes) == {"utterance": 8, "class": 2, "embedding": 128}
        assert found["logits"].dims == ("utterance", "class")
        np.testing.assert_array_equal(found["logits"], outputs.logits)
        np.testing.assert_array_equal(found["embeddings"].mean("utterance"),
                                      outputs.embeddings.mean(axis=0))  # fmt: skip

    @pytest.mark.parametrize("unit", ["corpus", "audio", "lld", "splits", "folds/02/prosodic"])
    def test_opens_every_unit(self, unit: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            found = xarray.open_dataset(KEPT, engine="zarr", group=unit, consolidated=False)
        assert found.sizes
        assert not any(str(name).startswith("dim_") for name in found.sizes)

    def test_reads_one_utterance_of_the_signals(self) -> None:
        store = Store.open(KEPT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            found = xarray.open_dataset(KEPT, engine="zarr", group="audio", consolidated=False)
        start, stop = store.audio.offsets[2:4]
        signal = found["values"].isel(sample=slice(start, stop))
        np.testing.assert_array_equal(signal, store.audio.read(2))

    def test_selects_the_test_utterances_of_a_fold(self) -> None:
        store = Store.open(KEPT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            splits = xarray.open_zarr(KEPT, group="splits", consolidated=False)
            teacher = xarray.open_zarr(KEPT, group="folds/02/prosodic", consolidated=False)
        held_out = splits["role"].isel(fold=1).load() == 3
        found = teacher["logits"].load().where(held_out, drop=True)
        np.testing.assert_array_equal(found, store.fold(2)["prosodic"].logits[store.roles[1] == 3])


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_shows_the_python_interface() -> None:
    assert any("Store.open" in block and ".logits" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_of_the_readme_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, beside a store where ``make demo`` leaves its own (which has ten folds)."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/store").symlink_to(KEPT, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    here = block.replace("fold(3)", "fold(2)").replace("folds/03", "folds/02")
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        exec(compile(here, "README.md", "exec"), names)
    assert names.keys() - {"__builtins__"}
