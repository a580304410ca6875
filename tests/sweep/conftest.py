"""The small sweep with its documents embedded, for tests of what works on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adiabatic_ray import config, sweep_file
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddedData, EmbeddingBuilder
from adiabatic_ray.model.encoder import Encoder
from tests.generators import drain


@pytest.fixture(scope="session")
def small(write_sweep_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> config.Sweep:
    """The small sweep as it stands in its file; its storage holds nothing but a cache."""
    return sweep_file.load(write_sweep_in(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="session")
def data(small: config.Sweep) -> Data:
    """Its data sets."""
    return embedded_data.read(small)


@pytest.fixture(scope="session")
def embedded(data: Data, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedData:
    """Its data sets beside the embeddings of their documents."""
    _, embedded = drain(EmbeddingBuilder(encoder, tmp_path_factory.mktemp("cache")).embedded_data(data))
    return embedded
