from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featstore import teachers
from featstore.core.config import LinguisticSettings, ProsodicSettings
from featstore.core.schema import Corrupt, UserError
from featstore.teachers import linguistic
from featstore.teachers.linguistic import SPECIAL, check, collate, load_encoder, train_tokenizer
from tests import ROOT

TEXTS = ["I was furious when your mother cleaned the basement.", "Wir hören größere Wörter",
         "aaa aab aba abb baa bab bba bbb", "don't, won't; can't!", ""]  # fmt: skip
TINY = LinguisticSettings(model="tiny")


@pytest.fixture(scope="module")
def tiny_task(toy_fold: Any) -> Any:
    task = linguistic.prepare(toy_fold, TINY)
    task.model.eval()
    return task


@pytest.fixture(scope="module")
def local_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT in a folder, as somebody would have downloaded it."""
    folder = tmp_path_factory.mktemp("models") / "our-bert"
    tokenizer = train_tokenizer(TEXTS, TINY)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    linguistic.tiny_encoder(tokenizer.vocab_size, TINY).save_pretrained(folder)
    return folder


def vocabulary(data: Any) -> set[str]:
    return set(linguistic.load(data, TINY)[0].get_vocab())


class TestTokenizer:
    def test_vocabulary_is_the_same_in_every_process(self) -> None:
        """The library's own trainer gives another one each time, hash seed or not."""
        here = [train_tokenizer(TEXTS, TINY).get_vocab() for _ in range(4)]
        assert all(vocab == here[0] for vocab in here)
        script = (
            "import sys, json; from featstore.core.config import LinguisticSettings as S\n"
            "from featstore.teachers.linguistic import train_tokenizer\n"
            "texts = json.loads(sys.argv[1])\n"
            "print(json.dumps(train_tokenizer(texts, S(model='tiny')).get_vocab()))\n"
        )
        root = str(ROOT)
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(TEXTS)],
            env=os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": root},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == here[0]

    def test_vocabulary_does_not_depend_on_the_order_of_the_texts(self) -> None:
        assert train_tokenizer(TEXTS[::-1], TINY).get_vocab() == (
            train_tokenizer(TEXTS, TINY).get_vocab()
        )

    def test_splits_as_bert_does(self) -> None:
        tokenizer = train_tokenizer(TEXTS, TINY)
        for text, pieces in (
            ("I was FURIOUS!", ["[CLS]", "i", "was", "furious", "!", "[SEP]"]),
            ("Wörter", ["[CLS]", "worter", "[SEP]"]),
            ("", ["[CLS]", "[SEP]"]),
            ("\u4e2d", ["[CLS]", "[UNK]", "[SEP]"]),
        ):
            assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == pieces
        assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2, 3, 4]
        assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.vocab_size))

    def test_pieces_of_words_are_no_special_tokens(self) -> None:
        """They are numbered as such while training, and would be cut out of running text."""
        tokenizer = train_tokenizer(TEXTS, TINY)
        assert "##a" in tokenizer.get_vocab()
        pieces = tokenizer.convert_ids_to_tokens(tokenizer("##a")["input_ids"])
        assert pieces == ["[CLS]", "[UNK]", "[UNK]", "a", "[SEP]"]

    def test_size_is_a_setting(self) -> None:
        texts = [f"word{a}{b} pair{b}{a}" for a in "abcdefghij" for b in "klmnopqrst"]
        small, large = (
            train_tokenizer(texts, LinguisticSettings(vocabulary=n)).vocab_size for n in (100, 500)
        )
        assert small == 100
        assert 100 < large <= 500

    def test_more_letters_than_any_limit_lose_none(self) -> None:
        letters = [chr(0x4E00 + n) for n in range(1200)]
        vocab = train_tokenizer(
            [" ".join(letters)], LinguisticSettings(vocabulary=2000)
        ).get_vocab()
        assert set(letters) <= set(vocab)

    def test_learns_from_the_training_rows_alone(self, toy_fold: Any) -> None:
        """Not one piece of a word that only the test speaker says."""
        with_test = vocabulary(toy_fold)
        assert "lovely" in with_test
        assert not [piece for piece in with_test if "x" in piece.lower() and piece not in SPECIAL]
        others = [text if row < 16 else "quite other words" for row, text in
                  enumerate(toy_fold.texts)]  # fmt: skip
        assert vocabulary(replace(toy_fold, texts=tuple(others))) == with_test


class TestOutputs:
    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_are_the_same_alone_and_in_a_batch(self, toy_fold: Any, pooling: str) -> None:
        texts = ("yes", *toy_fold.texts[1:23], " ".join(toy_fold.texts[:4]))
        settings = LinguisticSettings(model="tiny", pooling=pooling)
        task = linguistic.prepare(replace(toy_fold, texts=texts), settings)
        task.model.eval()
        with torch.inference_mode():
            logits, embeddings = task.model(**task.collate(np.arange(24), None))
            for row in (0, 5, 23):
                alone = task.model(**task.collate(np.array([row]), None))
                torch.testing.assert_close(alone[0][0], logits[row], rtol=0, atol=1e-5)
                torch.testing.assert_close(alone[1][0], embeddings[row], rtol=0, atol=1e-5)
        assert logits.shape == (24, 2)
        assert embeddings.shape == (24, 128)
        assert (embeddings[0] - embeddings[5]).abs().max() > 1e-3

    def test_logits_are_the_classifier_on_the_embedding(self, tiny_task: Any) -> None:
        """In evaluation no dropout stands between; the embedding is [CLS] of the last layer."""
        batch = tiny_task.collate(np.array([3, 4]), None)
        with torch.inference_mode():
            logits, embeddings = tiny_task.model(**batch)
            hidden = tiny_task.model.encoder(**batch).last_hidden_state
            torch.testing.assert_close(embeddings, hidden[:, 0])
            torch.testing.assert_close(logits, tiny_task.model.classifier(hidden[:, 0]))

    def test_batch_is_padded_to_its_longest(self) -> None:
        batch = collate([[2, 7, 3], [2, 3], [2, 7, 8, 3]], 0, np.array([1, 2]), None)
        assert batch["input_ids"].tolist() == [[2, 3, 0, 0], [2, 7, 8, 3]]
        assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]

    def test_longer_texts_are_cut(self, toy_fold: Any) -> None:
        settings = LinguisticSettings(model="tiny", max_tokens=8)
        task = linguistic.prepare(toy_fold, settings)
        assert int(task.lengths.max()) == 8
        assert task.collate(np.arange(24), None)["input_ids"].shape == (24, 8)

    def test_seed_decides_the_weights(self, toy_fold: Any) -> None:
        one, same, other = (
            linguistic.prepare(toy_fold, TINY.model_copy(update={"seed": seed})).model.state_dict()
            for seed in (1, 1, 2)
        )
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


class TestLocalModel:
    def test_works_offline(self, toy_fold: Any, local_bert: Path) -> None:
        task = linguistic.prepare(toy_fold, LinguisticSettings(model=str(local_bert)))
        tokenizer, encoder = load_encoder(str(local_bert))
        key = "encoder.layer.1.output.dense.weight"
        assert torch.equal(task.model.encoder.state_dict()[key], encoder.state_dict()[key])
        torch.manual_seed(3)  # the weights are those of the folder, not fresh ones
        written = linguistic.tiny_encoder(tokenizer.vocab_size, TINY).state_dict()
        assert torch.equal(encoder.state_dict()[key], written[key])

    def test_is_recorded_by_content_and_not_by_place(
        self, local_bert: Path, tmp_path: Path
    ) -> None:
        copied = shutil.copytree(local_bert, tmp_path / "elsewhere" / "our-bert")
        settings = LinguisticSettings(model=str(local_bert))
        recorded, provenance = teachers.portable(settings)
        assert recorded.model.startswith("sha256:")
        assert provenance == {"model_name": "our-bert"}
        assert teachers.portable(LinguisticSettings(model=str(copied)))[0] == recorded
        with (copied / "config.json").open("a") as file:
            file.write(" ")
        assert teachers.portable(LinguisticSettings(model=str(copied)))[0] != recorded

    def test_name_is_recorded_as_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert teachers.portable(LinguisticSettings()) == (LinguisticSettings(), {})
        (tmp_path / "tiny").mkdir()  # what `tiny` means does not depend on the folder we are in
        monkeypatch.chdir(tmp_path)
        assert teachers.portable(TINY) == (TINY, {})

    def test_pickled_weights_are_not_loaded(self, local_bert: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(local_bert, tmp_path / "pickled")
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="no usable text encoder"):
            load_encoder(str(folder))

    def test_weights_that_are_not_there_are_not_drawn_at_random(
        self, local_bert: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(local_bert, tmp_path / "half")
        weights = load_file(folder / "model.safetensors")
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match="1 of its weights are not there, such as encoder"):
            load_encoder(str(folder))

    def test_loading_says_nothing(
        self, local_bert: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The folder lacks the pooler, which transformers reports at length."""
        load_encoder(str(local_bert))
        assert capfd.readouterr() == ("", "")

    def test_damaged_weights_are_told(self, local_bert: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(local_bert, tmp_path / "damaged")
        (folder / "model.safetensors").write_bytes(b"\xff" * 64)
        with pytest.raises(Corrupt, match="not a sound safetensors file") as caught:
            load_encoder(str(folder))
        assert str(folder) in caught.value.message


class TestMissingModel:
    def test_is_one_error_with_a_remedy(self) -> None:
        with pytest.raises(UserError, match=r"nobody/no-such-bert: no usable text enc") as caught:
            check("nobody/no-such-bert")
        assert "\n" not in caught.value.message
        assert "hf download nobody/no-such-bert" in caught.value.hint
        assert caught.value.exit_code == 2
        with pytest.raises(UserError, match="no usable text encoder"):
            load_encoder("nobody/no-such-bert")

    def test_foreign_code_is_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}})
        )
        (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
        with pytest.raises(UserError, match="no usable text encoder"):
            check(str(tmp_path))

    def test_tiny_and_prosodic_teachers_need_none(self) -> None:
        teachers.check(TINY)
        teachers.check(ProsodicSettings())
