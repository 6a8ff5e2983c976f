"""The linguistic teacher: a Hugging Face text encoder on manual transcripts (paper, section 3).

The paper's is ``bert-base-uncased``. ``tiny`` is BERT with 2 layers of 128 whose WordPiece
vocabulary is trained on the fold's training transcripts, so that no word of the test speaker
shapes it. PAPER.md rows 8 and 19.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featstore.config import LinguisticSettings, digest
from featstore.schema import UserError
from featstore.teachers.data import Batch, FoldData, Task
from featstore.training import seed_all
from featstore.units import sha256_of

TINY = "tiny"
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


def prepare(data: FoldData, settings: LinguisticSettings, model: str) -> Task:
    """A fold's teacher with its tokenizer.

    Args:
        data: the corpus and the fold's roles.
        settings: of this teacher.
        model: a Hugging Face name, a local folder, or ``tiny``.

    Raises:
        UserError: the weights are neither on this machine nor to be had.
    """
    seed_all(settings.seed)
    if model == TINY:
        tokenizer = train_tokenizer([data.texts[row] for row in data.train_rows], settings)
        encoder = tiny_encoder(tokenizer.vocab_size, settings)
    else:
        tokenizer, encoder = load_encoder(model)
    tokens = tokenizer(
        list(data.texts), truncation=True, max_length=settings.max_tokens
    )["input_ids"]  # fmt: skip
    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
    teacher = LinguisticTeacher(encoder, encoder.config.hidden_size, settings, data.n_classes)
    return Task(
        teacher, partial(collate, tokens, int(tokenizer.pad_token_id)), lengths,
        partial(_save, tokenizer, encoder.config),
    )  # fmt: skip


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

    The words are counted here and presented in one order, because the trainer breaks ties between
    equally frequent pieces by the order in which it met them.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import BertTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocabulary, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return BertTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]",
        cls_token="[CLS]", mask_token="[MASK]",
    )  # fmt: skip


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
        UserError: not to be had, or only as a pickle.
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        encoder = AutoModel.from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model}: no usable text encoder here ({str(error).splitlines()[0]})",
            f"on a machine with a network: `hf download {model}`, then copy the folder and give "
            "its path as teachers.linguistic.model; or try --preset tiny, which needs no weights",
        ) from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{model}: its tokenizer has no padding token", "choose another encoder")
    return tokenizer, encoder


def folder_digest(folder: Path) -> str:
    """What tells one local model from another: ``sha256:`` and the digest of all its files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return f"sha256:{digest({path.name: sha256_of(path) for path in files})}"


def _save(tokenizer: Any, config: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
