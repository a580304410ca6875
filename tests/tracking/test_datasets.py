"""A sweep's data sets as MLflow lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from adiabatic_ray import config
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.tracking import datasets
from tests.sweeps import MINIMAL


def test_every_set_is_an_input_with_what_it_is(load_sweep: Callable[..., config.Sweep], pocket: Path) -> None:
    sweep = load_sweep()
    data = embedded_data.read(sweep)
    inputs = datasets.inputs(sweep, data)
    assert [(one.dataset.name, one.tags[0].key, one.tags[0].value) for one in inputs] == [
        ("train", "mlflow.data.context", "training"),
        ("questions", "mlflow.data.context", "selection"),
        ("xnli", "mlflow.data.context", "selection"),
        ("questions", "mlflow.data.context", "confirmation"),
        ("xnli", "mlflow.data.context", "confirmation"),
    ]
    assert [json.loads(one.dataset.profile) for one in inputs] == [{"rows": n} for n in (200, 200, 20, 100, 40)]
    paths = [f"{name}.jsonl" for name in ("train", "selection", "selection", "confirmation", "confirmation")]
    folders = ["questions", "questions", "xnli", "questions", "xnli"]
    for one, folder, path, read in zip(inputs, folders, paths, data.all(), strict=True):
        assert json.loads(one.dataset.source) == {"path": str(pocket / folder / path)}
        assert one.dataset.source_type == "local"
        texts = "".join(f"{text}\0" for text in [*read.queries, *read.passages])
        assert one.dataset.digest == hashlib.sha256(texts.encode()).hexdigest()[:16]
    assert len({one.dataset.digest for one in inputs}) == 5


def test_a_path_that_is_no_file_is_a_hub_id(load_sweep: Callable[..., config.Sweep]) -> None:
    data = embedded_data.read(load_sweep())
    hub = MINIMAL  # its paths lie nowhere
    selected = datasets.inputs(hub, embedded_data.Data(data.train, data.selection, {}))
    assert [one.dataset.source_type for one in selected] == ["hugging_face"] * 3
