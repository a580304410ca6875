"""Benchmarks: each prints both sides of a comparison from one run. `python -m tests.benchmarks.training_speed`."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

from adiabatic_ray import config
from adiabatic_ray.data import sets, sources
from adiabatic_ray.model import encoder
from adiabatic_ray.pocket import folder, pretraining, world


def pocket_source(name: str, limit: int) -> config.Source:
    """A file of the pocket world, which is made on first use."""
    for _ in folder.make():
        pass
    return config.Source(path=str(folder.location() / f"{name}.jsonl"), limit=limit)


def encoder_folder() -> Path:
    """The real encoder where ADIABATIC_REAL_DATA names one, else a random one of its shape."""
    if "ADIABATIC_REAL_DATA" in os.environ:
        return Path(os.environ["ADIABATIC_REAL_DATA"]) / "encoder"
    folder = Path(tempfile.mkdtemp()) / "encoder"
    folder.mkdir()
    pretraining.tokenizer().save(str(folder / "tokenizer.json"))
    shape = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 128,
    }
    encoder.initialise(folder, folder / "tokenizer.json", seed=0, **shape)
    return folder


def training_triplets(count: int) -> sets.Triplets:
    """MS MARCO where it is there, else texts of the pocket world of about its lengths."""
    if "ADIABATIC_REAL_DATA" in os.environ:
        path = Path(os.environ["ADIABATIC_REAL_DATA"]) / "msmarco"
        source = config.Source(path=str(path), split="train", limit=count)
    else:
        rng = random.Random(0)

        def passage() -> str:
            return " ".join(world.sentence(world.any_scene(rng), "en") for _ in range(7))

        def query() -> str:
            return world.sentence(world.any_scene(rng), "en")

        rows = [json.dumps({"query": query(), "positive": passage(), "negative": passage()}) for _ in range(count)]
        path = Path(tempfile.mkdtemp()) / "train.jsonl"
        path.write_text("\n".join(rows))
        source = config.Source(path=str(path))
    triplets = sources.load("train", source, seed=0)
    assert isinstance(triplets, sets.Triplets)
    return triplets


def premises(count: int) -> sets.Xnli:
    """XNLI in 15 languages where it is there, else the pocket world's in its seven."""
    if "ADIABATIC_REAL_DATA" in os.environ:
        path = Path(os.environ["ADIABATIC_REAL_DATA"]) / "xnli"
        source = config.Source(path=str(path), name="all_languages", split="validation", limit=count)
    else:
        folder = Path(tempfile.mkdtemp())
        world.write(folder)
        source = config.Source(path=str(folder / "xnli" / "selection.jsonl"), limit=count)
    xnli = sources.load("xnli", source, seed=0)
    assert isinstance(xnli, sets.Xnli)
    return xnli
