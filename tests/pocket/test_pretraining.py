"""The pocket encoder knows the languages of the pocket world and every word that is said in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Xnli
from adiabatic_ray.evaluate import discordance
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.pocket import pretraining, world


def test_pocket_encoder_is_far_from_chance_in_every_language(pocket: Path, encoder: Encoder) -> None:
    source = config.Source(path=str(pocket / "xnli" / "confirmation.jsonl"))
    data = sources.load("xnli", source, seed=0)
    assert isinstance(data, Xnli)
    outcomes = discordance.outcomes(
        discordance.leads(data, encoder.encode(data.queries, "query"), encoder.encode(data.passages, "passage"))
    )
    by_pair = outcomes.double().mean((0, 1))  # [L, L]
    assert float(by_pair.max()) < 0.35, by_pair
    assert float(outcomes.double().mean()) < 0.25


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = pretraining.tokenizer()
    for text in list(world.texts())[:500]:
        tokens = tokenizer.encode(text).tokens
        assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
        assert not [token for token in tokens if token == "[UNK]" or token.startswith("##")], text
    pieces = tokenizer.encode("archivist").tokens[1:-1]  # no word of the world: characters stand for it
    assert "".join(piece.removeprefix("##") for piece in pieces) == "archivist"


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process() -> None:
    """A set of texts has another order in each process."""
    program = "from adiabatic_ray.pocket import pretraining; print(pretraining.tokenizer().to_str())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == pretraining.tokenizer().to_str()
