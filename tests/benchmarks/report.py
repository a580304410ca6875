"""How long the report of a large sweep takes, how large its page is, and how soon its charts answer the pointer: 1,000
synthetic trials over four dimensions.

Their outcomes have the shape of XNLI's validation set in 15 languages, 2,000 queries and 800 titles, and go through the
same bootstrap and page as real ones.

    python -m tests.benchmarks.report [TRIALS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch
from playwright.sync_api import sync_playwright
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import discordance, outcomes, significance
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import page
from adiabatic_ray.trials.record import UNTOUCHED, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import chromium, guards
from tests.report.pointing import place_of

LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
EDGES = {"none": 1e-6, "embeddings": 3e-6, "embeddings+output.dense.weight": 1e-5}  # of each freezing mask
SHAPES = {"xnli": (830, 2, 15, 15), "msmarco": (2000,), "arxiv": (800,)}
SWEEP = config.Sweep(
    name="synthetic",
    model=config.Model(name="synthetic"),
    train=config.Train(data=config.Source(path="none"), steps=100),
    evaluate=config.Evaluate(selection={name: config.Source(path="none") for name in ("msmarco", "xnli", "arxiv")}),
    search=config.Search(
        objective="msmarco",
        space={
            "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
            "batch_size": [8, 14, 28, 56],
            "margin": config.Range(low=0.02, high=0.3),
            "freeze": [*EDGES],
        },
    ),
    constraint=config.Constraint(data="xnli"),
    budget=config.Budget(trials=1000),
)


DRAWN = "Promise.all([...views.values()].map(view => view.runAsync())).then(() => null)"


def synthesise(folder: Path, trials: int) -> TrialStore:
    """A sweep whose trials gain with the learning rate, and harm beyond the edge of their mask."""
    store = TrialStore.create(folder, SWEEP)
    chance, draw = torch.Generator().manual_seed(0), np.random.default_rng(0)
    base = {name: torch.rand(shape, generator=chance) < 0.25 for name, shape in SHAPES.items()}
    for number in range(trials + 1):
        chosen: dict[str, config.Scalar] = {
            "learning_rate": 10 ** draw.uniform(-8, -4),
            "freeze": str(draw.choice([*EDGES])),
            "batch_size": int(draw.choice([8, 14, 28, 56])),
            "margin": draw.uniform(0.02, 0.3),
        }
        chosen = chosen if number != UNTOUCHED else {}
        tuned = encoder(base, chosen, chance) if chosen else base
        metrics, worst = measured(base, tuned)
        points = (Evaluation(100, 2.0, metrics),)
        store.put(TrialRecord(number, chosen, "complete", "", 1.0 * number, 2.0 + number, points, worst))
        outcomes.save(store.folder.trial(number).outcomes, Outcomes({1.0: tuned}, {"xnli": LANGUAGES}))
    return store


def encoder(
    base: Mapping[str, Tensor], chosen: Mapping[str, config.Scalar], chance: torch.Generator
) -> dict[str, Tensor]:
    """The outcomes of an encoder that was trained with these choices."""
    rate = float(chosen["learning_rate"])
    gain, harm = 0.3 * min(1.0, rate / 1e-5), 0.05 if rate > EDGES[str(chosen["freeze"])] else 0.0
    tuned = {}
    for name, before in base.items():
        luck = torch.rand(before.shape, generator=chance)
        fixed, broken = (0.01, harm) if name == "xnli" else (gain, 0.002)
        tuned[name] = torch.where(before, luck >= fixed, luck < broken)
    return tuned


def measured(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> tuple[dict[str, float], str]:
    """The metrics of these outcomes, and the worst pair."""
    violation = guards.violation(base["xnli"], tuned["xnli"], LANGUAGES, SWEEP.constraint)
    metrics = {"constraint": violation.value, "constraint/worst_z": violation.worst_z}
    for name, before in base.items():
        broken, fixed = int((tuned[name] & ~before).sum()), int((before & ~tuned[name]).sum())
        metrics[f"improvement/{name}"] = discordance.improvement(int(before.sum()), int(tuned[name].sum()))
        if name != "xnli":
            metrics[f"p_value/{name}"] = significance.mcnemar(broken, fixed)
    metrics |= {"gain": metrics["improvement/msmarco"], "p_value": metrics["p_value/msmarco"]}
    return metrics | {"worst_language": metrics["improvement/xnli"]}, violation.worst


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = synthesise(Path(scratch) / "synthetic", trials)
        started = time.perf_counter()
        report, *_ = page.write(TrialStore(store.folder.path))
        seconds = time.perf_counter() - started
        print(f"{trials} trials: {seconds:.1f} s (at most 30), page {report.stat().st_size / 1e6:.2f} MB (at most 10)")
        answers = pointed_at(report, range(1, trials, max(1, trials // 20)))
        print(
            f"script time of an answer to the pointer: median {median(answers):.0f} ms, at most {max(answers):.0f} ms"
        )


def pointed_at(report: Path, numbers: Iterable[int]) -> list[float]:
    """Milliseconds of script that the page spends when the pointer comes to trials, in a headless Chromium."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium.executable(), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(report.as_uri())
        tab.wait_for_selector("#figure-parallel.live")
        client = tab.context.new_cdp_session(tab)
        client.send("Performance.enable")

        def script() -> float:
            metrics = client.send("Performance.getMetrics")["metrics"]
            return 1000 * next(float(one["value"]) for one in metrics if one["name"] == "ScriptDuration")

        answers = []
        for number in numbers:
            x, y = place_of(tab, "history", number)
            tab.mouse.move(1, 1)
            tab.wait_for_function("focus === null")
            tab.evaluate(DRAWN)
            before = script()
            tab.mouse.move(x, y)
            tab.wait_for_function("focus !== null")
            tab.evaluate(DRAWN)
            answers.append(script() - before)
        browser.close()
    return answers


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
