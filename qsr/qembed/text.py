"""Text as sequences of tokens: sentences from a file, and the vocabulary of the training part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsr.hparams.base import ConfigError, nearest
from qsr.training.columns import read_text_columns

Tokens = Literal["words", "characters"]


def tokens_of(text: str, tokens: Tokens) -> list[str]:
    """What stands between white space, or every character (white space as one blank)."""
    words = text.split()
    return words if tokens == "words" else list(" ".join(words))


@dataclass(frozen=True)
class Vocabulary:
    """Tokens 0 to W - 1 of a text, with four special ones after them.

    Attributes:
        words: of the training part, in the order of their ids.
        tokens: words, or characters.
        begins: whether every sentence begins with the token `bos`.
    """

    words: tuple[str, ...]
    tokens: Tokens = "words"
    begins: bool = False

    @classmethod
    def of(cls, texts: Iterable[str], tokens: Tokens = "words", begins: bool = False) -> Vocabulary:
        """All tokens of some texts, sorted."""
        return cls(tuple(sorted({token for text in texts for token in tokens_of(text, tokens)})), tokens, begins)

    @property
    def num_words(self) -> int:
        """W, the tokens that can be predicted."""
        return len(self.words)

    @property
    def padding(self) -> int:
        """Stands after the end of a sentence."""
        return self.num_words

    @property
    def unknown(self) -> int:
        """Stands for a token that the training part does not have."""
        return self.num_words + 1

    @property
    def mask(self) -> int:
        """Stands for a token that is hidden."""
        return self.num_words + 2

    @property
    def bos(self) -> int:
        """Stands before the first token, with `begins`."""
        return self.num_words + 3

    @property
    def vocab_size(self) -> int:
        """W + 4."""
        return self.num_words + 4

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(S, L) int64 ids and (S, L) int64 attention mask; L is the length of the longest."""
        numbers = {word: number for number, word in enumerate(self.words)}
        first = [self.bos] if self.begins else []
        rows = [[*first, *(numbers.get(token, self.unknown) for token in tokens_of(text, self.tokens))] for text in texts]
        length = max(map(len, rows), default=0)
        ids = torch.tensor([[*row, *[self.padding] * (length - len(row))] for row in rows], dtype=torch.long)
        return ids, (ids != self.padding).long()


class TextSource:
    """Sentences, and their labels if there are any: of a csv or tsv file with the columns `text` and `label`, or the lines of
    any other file.

    Args:
        data: what is in the file.

    Raises:
        ConfigError: for a file without sentences, or one that is no text in UTF-8.
    """

    kind = "text"

    def __init__(self, file: str, data: bytes) -> None:
        self.where = file
        self._columns: dict[str, list[str]] = {}
        if Path(file).suffix.lower() in (".csv", ".tsv"):
            self._columns = read_text_columns(Path(file))
            if "text" not in self._columns:
                raise ConfigError(f"{file}: no column 'text'{nearest('text', self._columns)}")
            self.texts = self._columns["text"]
        else:
            try:
                lines = data.decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise ConfigError(f"{file}: not a text in UTF-8 ({error})") from None
            self.texts = [line for line in lines if line.strip()]
        if not self.texts:
            raise ConfigError(f"{file}: has no sentences")
        empty = [row for row, text in enumerate(self.texts) if not text.strip()]
        if empty:
            raise ConfigError(f"{file}: row {empty[0] + 1} has no text")

    def __len__(self) -> int:
        return len(self.texts)

    def code(self, settings: Any, training: NDArray[np.int64]) -> Vocabulary:
        """How sentences become tokens.

        Args:
            settings: `SequencesHparams`; its vocabulary, or else that of the training part.
            training: rows of the training part.

        Raises:
            ConfigError: for a patch, which text does not have.
        """
        if settings.patch is not None:
            raise ConfigError(f"qembed.patch={settings.patch}: is for snapshots; {self.where} is text")
        if settings.vocabulary is not None:
            return Vocabulary(settings.vocabulary, settings.tokens, settings.bos)
        return Vocabulary.of((self.texts[row] for row in training), settings.tokens, settings.bos)

    def columns(self, code: Any) -> dict[str, Tensor]:
        """Inputs of a network."""
        ids, mask = code.encode(self.texts)
        return {"input_ids": ids, "attention_mask": mask}

    def labels(self, target: str | None) -> NDArray[np.str_] | None:
        """(S,) the names of classes; None where the file has no such column.

        Args:
            target: the column; None: `label`.

        Raises:
            ConfigError: for a row without one.
        """
        values = self._columns.get(target or "label")
        if values is None:
            return None
        empty = [row for row, value in enumerate(values) if not value.strip()]
        if empty:
            raise ConfigError(f"{self.where}: row {empty[0] + 1} has no {target or 'label'}")
        return np.array([value.strip() for value in values])

    def names(self) -> list[str]:
        """Columns that may hold classes."""
        return [name for name in self._columns if name != "text"]
