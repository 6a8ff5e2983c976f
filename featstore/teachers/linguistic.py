"""The linguistic teacher: a Hugging Face text encoder on manual transcripts (paper, section 3).

The paper's is ``bert-base-uncased``. ``tiny`` is BERT with 2 layers of 128 whose WordPiece
vocabulary is trained on the fold's training transcripts, so that no word of the test speaker
shapes it. PAPER.md rows 8 and 19.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featstore.core.config import TINY, LinguisticSettings
from featstore.core.os_errors import is_library_failure
from featstore.core.schema import UserError
from featstore.core.training import seed_all
from featstore.core.weights import check_weights, quiet
from featstore.teachers import FoldData
from featstore.teachers.finetune import Batch, Prepared

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class LinguisticTeacher(nn.Module):
    """Encoder, [CLS] or mean embedding, dropout, linear classifier."""

    def __init__(self, encoder: nn.Module, width: int, settings: LinguisticSettings, n: int):
        super().__init__()
        self.encoder = encoder
        self.pooling = settings.pooling
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(width, n)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[B, C]`` and embeddings ``[B, D]`` (before dropout) of tokens ``[B, T]``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            embeddings = hidden[:, 0]
        else:
            mask = attention_mask[:, :, None].to(hidden.dtype)
            embeddings = (hidden * mask).sum(1) / mask.sum(1)
        return self.classifier(self.dropout(embeddings)), embeddings


def prepare(data: FoldData, settings: LinguisticSettings) -> Prepared:
    """A fold's teacher with its tokenizer.

    Args:
        data: the corpus and the fold's roles.
        settings: of this teacher.

    Raises:
        UserError: the weights are neither on this machine nor to be had.
    """
    seed_all(settings.seed)
    tokenizer, encoder = load(data, settings)
    tokens = tokenizer(
        list(data.texts), truncation=True, max_length=settings.max_tokens
    )["input_ids"]  # fmt: skip
    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
    teacher = LinguisticTeacher(encoder, encoder.config.hidden_size, settings, data.n_classes)
    return Prepared(teacher, partial(collate, tokens, int(tokenizer.pad_token_id)), lengths)


def load(data: FoldData, settings: LinguisticSettings) -> tuple[Any, Any]:
    """Tokenizer and encoder; those of ``tiny`` are made from the fold's training transcripts."""
    if settings.model != TINY:
        return load_encoder(settings.model)
    tokenizer = train_tokenizer([data.texts[row] for row in data.train_rows], settings)
    return tokenizer, tiny_encoder(tokenizer.vocab_size, settings)


def collate(
    tokens: list[list[int]],
    pad: int,
    rows: npt.NDArray[np.int64],
    rng: np.random.Generator | None,
) -> Batch:
    """Pad to the longest: ``input_ids`` and ``attention_mask``, both ``[B, T]``."""
    parts = [tokens[row] for row in rows]
    longest = max(len(ids) for ids in parts)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids in parts])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in parts])
    return {"input_ids": ids, "attention_mask": mask}


def train_tokenizer(texts: list[str], settings: LinguisticSettings) -> Any:
    """A BERT tokenizer whose WordPiece vocabulary comes from these texts alone.

    The library's trainer numbers the letters within words in the order of a randomly seeded hash
    map, and breaks ties between equally frequent pieces by number: each process would get another
    vocabulary. Handed in as special tokens, the letters are numbered before it starts; the pieces
    then go into a tokenizer to which only :data:`SPECIAL` is special.
    """
    from tokenizers import models, trainers
    from transformers import BertTokenizerFast

    tokenizer = _splitting_as_bert(models.WordPiece(unk_token="[UNK]"))
    words = [
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
    ]
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=SPECIAL + sorted({f"##{letter}" for word in words for letter in word[1:]}),
        limit_alphabet=max(len(set("".join(words))), 1),  # a limit would cut ties by hash, too
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return BertTokenizerFast(
        tokenizer_object=_splitting_as_bert(
            models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]")
        ),
        unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]",
        mask_token="[MASK]",
    )  # fmt: skip


def _splitting_as_bert(model: Any) -> Any:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def tiny_encoder(vocabulary: int, settings: LinguisticSettings) -> Any:
    """BERT with 2 layers of 128, randomly initialised."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=512, max_position_embeddings=512,
        hidden_dropout_prob=settings.dropout, attention_probs_dropout_prob=settings.dropout,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def load_encoder(model: str) -> tuple[Any, Any]:
    """Tokenizer and encoder by Hugging Face name or from a local folder; safetensors only.

    Raises:
        UserError: not to be had, only as a pickle, or without some of its weights.
    """
    from transformers import AutoModel, AutoTokenizer

    check_weights(model, local=False)
    with _with_remedy(model), quiet():
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        encoder, found = AutoModel.from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    fresh = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if fresh:  # transformers draws them at random and only logs it
        raise UserError(
            f"{model}: {len(fresh)} of its weights are not there, such as {fresh[0]}",
            "download it again, or choose another encoder",
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"{model}: its tokenizer has no padding token", "choose another encoder")
    return tokenizer, encoder


def check(model: str) -> None:
    """Make sure that an encoder is to be had, from its configuration alone.

    Raises:
        UserError: it is not.
    """
    from transformers import AutoConfig

    with _with_remedy(model):
        AutoConfig.from_pretrained(model, trust_remote_code=False)


@contextmanager
def _with_remedy(model: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if is_library_failure(error):  # an installation that is broken, not a missing encoder
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{model}: no usable text encoder here ({first})",
            f"on a machine with a network: `hf download {model}`, then copy the folder and give "
            "--set teachers.linguistic.model=FOLDER; or try --preset tiny, which needs no weights",
        ) from error
