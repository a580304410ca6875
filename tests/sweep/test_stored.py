"""A sweep on embeddings that the user has stored, and the memory that a large file of them takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import adiabatic_ray
from adiabatic_ray import config
from adiabatic_ray.model.encoder import Encoder
from tests import same_sweeps


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_on_stored_embeddings_is_the_sweep_on_its_own(
    load_sweep: Callable[..., config.Sweep], pocket: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """Judged by rankings of a corpus, whose embeddings are stored for one of the two, to the last bit of a trial."""
    folder = pocket / "archive" / "en"
    texts = [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text().splitlines()]
    np.save(tmp_path / "vectors.npy", encoder.encode(texts, "passage").numpy())
    folders = []
    for name, stored in (("own", {}), ("stored", {"embeddings": str(tmp_path / "vectors.npy")})):
        docs = {part: {"path": str(folder), "split": part} | stored for part in ("selection", "confirmation")}
        changes = {f"evaluate.{part}.docs": source for part, source in docs.items()}
        objective = {"data": "docs", "metric": "ndcg_at_10"}
        result = adiabatic_ray.run(
            load_sweep(changes | {"name": name, "search.objective": objective, "storage": str(tmp_path / name)})
        )
        folders.append(Path(result.folder))
    own, on_stored = (same_sweeps.trials(folder) for folder in folders)
    assert len(own) > 200
    assert on_stored == own


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import torch
from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import ranking
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder
from adiabatic_ray.model import encoder

def anonymous():
    return max(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
model = encoder.load(config.Model(name=sys.argv[1]))
folder = Path(sys.argv[2])
one = model.encode(["a tree"], "passage").numpy()
count = 2 * 2**30 // one.nbytes
stored = np.lib.format.open_memmap(folder / "v.npy", "w+", np.float32, (count, one.shape[1]))
for start in range(0, count, 100_000):
    stored[start:start + 100_000] = one
stored.flush()
del stored
data = sets.Ranking(
    name="docs", queries=["which?"] * 20, passages=["a tree"] * count, judgements=[{0: 1}] * 20,
    identical=np.full(20, -1),
    stored=[sets.Stored(config.Embeddings(path=str(folder / "v.npy")), np.arange(count))],
)
before = anonymous()
steps = EmbeddingBuilder(model, folder / "cache").evaluation_sets({"docs": data})
most = before
while True:
    try:
        next(steps)
    except StopIteration as done:
        (docs,) = done.value
        break
most = max(most, anonymous())
ranking.search(data, docs.queries.open(), docs.passages.open(), 1000)
most = max(most, anonymous())
print(round(most - before), round((folder / "v.npy").stat().st_size / 2**20))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' account of memory")
def test_two_gigabytes_are_mapped_and_not_read_into_memory(pocket: Path, tmp_path: Path) -> None:
    """What is counted is memory of the process' own; pages of the file are the system's to take back."""
    command = [sys.executable, "-c", MEMORY, str(pocket / "encoder"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used, size = map(int, done.stdout.split())
    (tmp_path / "v.npy").unlink()
    assert size >= 2048
    assert used < 300, f"{used} MiB"
