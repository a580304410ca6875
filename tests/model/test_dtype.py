"""A document side in 16 bits: what is embedded, measured and handed over is that side, and queries stay in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray.model import export
from adiabatic_ray.trials.layout import ExportFolder
from tests.model.test_sides import TEXTS, asymmetric, load, oracle, tuned


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["one module", "a Router"])
def test_the_document_side_alone_is_in_16_bits(kind: str, dtype: Any, pocket: Path, tmp_path: Path) -> None:
    base = pocket / "encoder" if kind == "one module" else asymmetric(pocket, tmp_path / "base")
    model, exact = load(base, dtype=dtype), load(base)
    assert torch.equal(model.encode(TEXTS, "query"), exact.encode(TEXTS, "query"))
    assert model.fingerprint("query") == exact.fingerprint("query")
    assert model.fingerprint("passage") != exact.fingerprint("passage")
    passages = model.encode(TEXTS, "passage")
    assert passages.dtype == torch.float32
    assert 1e-5 < (passages - exact.encode(TEXTS, "passage")).abs().max() < 0.05
    sixteen = SentenceTransformer(str(base), device="cpu").to(getattr(torch, dtype))
    theirs = torch.from_numpy(sixteen.encode_document(TEXTS, normalize_embeddings=True))
    assert torch.nn.functional.cosine_similarity(passages, theirs.float()).min() > 0.9995

    weights = tuned(model, pocket, "embeddings")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    export.hand_over(model, ExportFolder(tmp_path / "out"), weights, "card")
    both = tmp_path / "out" / "retrieval_model"
    assert (oracle(both, "query") - model.encode(TEXTS, "query", weights)).abs().max() < 1e-5
    documents = torch.nn.functional.cosine_similarity(oracle(both, "passage").float(), passages)
    assert documents.min() > 0.9995
    sides = SentenceTransformer(str(both), device="cpu")[0].sub_modules
    assert {p.dtype for p in sides["document"].parameters()} == {getattr(torch, dtype)}
    assert {p.dtype for p in sides["query"].parameters()} == {torch.float32}
