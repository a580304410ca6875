"""From a text to what a model takes: rows of tokens, or of a `StaticEmbedding` the tokens of all texts in one row.

A `StaticEmbedding` (model2vec) is a table of token embeddings, of which it takes the mean. It adds no special tokens,
and knows no maximum length unless its tokenizer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor

UNLIMITED = 2**31  # tokens, of a model that knows no maximum length

Features = dict[str, Tensor]


def is_static(module: SentenceTransformer) -> bool:
    """Whether a model begins with a `StaticEmbedding`."""
    return isinstance(module[0], StaticEmbedding)


def max_length(module: SentenceTransformer) -> int:
    """The most tokens that a model embeds of a text."""
    if not is_static(module):
        return module.max_seq_length or 512
    truncation = module.tokenizer.truncation
    return truncation["max_length"] if truncation else UNLIMITED


def set_max_length(module: SentenceTransformer, tokens: int) -> None:
    """Let a model embed at most so many tokens of a text."""
    if not is_static(module):
        module.max_seq_length = tokens
    elif tokens < UNLIMITED:
        module.tokenizer.enable_truncation(tokens)
    else:
        module.tokenizer.no_truncation()


def ids(module: SentenceTransformer, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Token ids of each text, at most `longest` of them."""
    if is_static(module):
        return [one.ids[:longest] for one in module.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    rows: list[list[int]] = module.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    return rows


def padding(module: SentenceTransformer) -> int:
    """The id of the token that fills rows up. A `StaticEmbedding` has none, and never sees it."""
    return getattr(module.tokenizer, "pad_token_id", None) or 0


def inputs(module: SentenceTransformer, features: Features) -> dict[str, Any]:
    """What a model takes, from padded rows of tokens and their mask, `[b, t]` both."""
    if not is_static(module):
        return dict(features)
    lengths = features["attention_mask"].sum(1)
    return {
        "input_ids": features["input_ids"][features["attention_mask"].bool()],
        "offsets": lengths.cumsum(0) - lengths,
    }


def settings(module: SentenceTransformer) -> str:
    """All that a tokenizer does, as far as it says so."""
    tokenizer = module.tokenizer
    if is_static(module):
        return str(tokenizer.to_str())
    return str(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else repr(tokenizer)
