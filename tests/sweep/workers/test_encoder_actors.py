"""Encoders in Ray's processes: what each is given, and many texts embedded by all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache
from adiabatic_ray.evaluate.embedded_data import Texts
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.workers import encoder_actors

pytestmark = pytest.mark.usefixtures("ray_cluster")

Result = TypeVar("Result")
TWO = Plan(cpus=1, gpus=0, concurrent=2, workers=1, fitting=2, filling_cpus=2)


def on_ray(work: Callable[..., Result], *arguments: object, cpus: float) -> Result:
    """What a function comes to in a Ray task that is given so many CPUs."""
    import ray

    result: Result = ray.get(ray.remote(num_cpus=cpus)(work).remote(*arguments), timeout=120)
    return result


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"), [(2, 1, (2, False)), (2, 2, (1, False)), (0.5, 1, (1, False))]
)
def test_a_process_is_told_what_it_has(cpus: float, workers: int, expected: tuple[int, bool]) -> None:
    assert on_ray(encoder_actors.assigned, workers, cpus=cpus) == expected


def loaded_twice(model: config.Model) -> tuple[bool, str, int]:
    import torch

    one, two = encoder_actors.load(model), encoder_actors.load(model)
    return one is two, str(one.device), torch.get_num_threads()


def test_a_process_loads_an_encoder_once_on_what_it_has(small: config.Sweep) -> None:
    assert on_ray(loaded_twice, small.model, cpus=2) == (True, "cpu", 2)
    assert on_ray(loaded_twice, small.model, cpus=1) == (True, "cpu", 1)


@pytest.mark.slow
def test_texts_are_embedded_in_their_order(small: config.Sweep, encoder: Encoder) -> None:
    """As the encoder does it in this process, in two tables, the first of two blocks."""
    many = [f"who reads book {number}?" for number in range(cache.TEXTS_PER_CHUNK + 10)]
    texts: list[Texts] = [("query", many), ("passage", []), ("passage", ["a book", "кто читает книгу"])]
    blocks = list(encoder_actors.on_cluster(small.model, TWO)(texts))
    tables = [position for position, _ in blocks]
    assert tables == [0, 0, 2]
    for position in (0, 2):
        side, own = texts[position]
        embedded = torch.cat([block for at, block in blocks if at == position])
        torch.testing.assert_close(embedded, encoder.encode(own, side), atol=1e-6, rtol=0)
    assert list(encoder_actors.on_cluster(small.model, TWO)([])) == []


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_there_is_an_error_of_ours(pocket: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pocket / "encoder", tmp_path / "encoder")
    embed = encoder_actors.on_cluster(config.Model(name=str(folder)), TWO)
    shutil.rmtree(folder)
    with pytest.raises(errors.SweepError, match=r"embedding failed on the cluster: .*encoder"):
        list(embed([("query", ["who reads a book?"])]))
