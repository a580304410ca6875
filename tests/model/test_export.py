"""An exported encoder is the trial's own, in a folder that sentence-transformers loads by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from adiabatic_ray.model.displacement import Displacement

TEXTS = ["who reads a book?", "кто читает книгу"]


def test_exported_encoder_truncates_as_queries_were(pocket: Path, tmp_path: Path) -> None:
    settings = config.Model(name=str(pocket / "encoder"), max_length=config.Lengths(query=6))
    short = encoders.load(settings)
    export.save(short, tmp_path / "short")
    loaded = SentenceTransformer(str(tmp_path / "short"), device="cpu")
    text = ["the teacher reads a book and the doctor writes a letter"]
    assert torch.allclose(torch.from_numpy(loaded.encode_query(text)), short.encode(text, "query"), atol=1e-5)


def test_exported_encoder_embeds_as_base_plus_displacement(encoder: Any, tmp_path: Path) -> None:
    names = [name for name in encoder.parameters if "layer.1" in name]
    moved = Displacement(encoder, names)
    with torch.no_grad():
        for delta in moved.deltas:
            delta.add_(0.01)
    expected = encoder.encode(TEXTS, "query", moved.weights())
    base = encoder.encode(TEXTS, "query")
    export.save(encoder, tmp_path / "tuned", moved.tensors())

    program = f"""
import sys
from sentence_transformers import SentenceTransformer
import numpy as np
model = SentenceTransformer({str(tmp_path / "tuned")!r}, device="cpu")
np.save({str(tmp_path / "out.npy")!r}, model.encode_query({TEXTS!r}, show_progress_bar=False))
assert not any(name.startswith("adiabatic_ray") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    found = torch.from_numpy(np.load(tmp_path / "out.npy"))
    assert (found - expected).abs().max() < 1e-5
    assert (found - base).abs().max() > 1e-3
    assert torch.equal(encoder.encode(TEXTS, "query"), base)
    assert sorted(path.name for path in (tmp_path / "tuned").glob("*.safetensors")) == ["model.safetensors"]
    assert list((tmp_path / "tuned").rglob("*.bin")) == []
