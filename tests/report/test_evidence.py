"""Intervals and regimes of a small sweep whose outcomes are known, and what damaged outcomes cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import evidence
from adiabatic_ray.report.evidence import Evidence
from adiabatic_ray.report.regime import Change
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests.records import checked
from tests.report.sweeps import pilot

Array: TypeAlias = npt.NDArray[np.float64]

LANGUAGES = {"xnli": ["de", "en", "fr"]}
RATES = {1: 1e-8, 2: 1e-7, 3: 1e-6}


def untouched(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"msmarco": (400,), "xnli": (60, 2, 3, 3)}
    return {name: torch.rand(shape, generator=random) < 0.4 for name, shape in shapes.items()}


def changed(base: Mapping[str, Tensor], fixed: int, harmed: bool = False) -> dict[str, Tensor]:
    """What an encoder does that fixes the first `fixed` discordant triplets, and fails all of XNLI where it harms."""
    tuned = {name: outcome.clone() for name, outcome in base.items()}
    tuned["msmarco"][base["msmarco"].nonzero()[:fixed, 0]] = False
    if harmed:
        tuned["xnli"][:] = True
    return tuned


def metrics(gain: float, constraint: float) -> dict[str, float]:
    return {"gain": gain, "p_value": 1e-6 if gain else 1.0, "constraint": constraint}


def put(store: TrialStore, number: int, by_scale: Mapping[float, Mapping[str, Tensor]], **changes: Any) -> None:
    """Store a complete trial with its outcomes."""
    chosen = {"learning_rate": RATES[number], "freeze": "embeddings"} if number else {}
    points = (Evaluation(8, 1.0, metrics(0.0, -1.0)),)
    made = TrialRecord(number, chosen, "complete", "", 1.0, 2.0, points, "neutral/de/en")
    store.put(dataclasses.replace(made, **changes))
    outcomes.save(store.folder.trial(number).outcomes, Outcomes(by_scale, LANGUAGES))


def measured(gain: float, constraint: float) -> tuple[Evaluation, ...]:
    return (Evaluation(8, 1.0, metrics(gain, constraint)),)


@pytest.fixture
def base() -> dict[str, Tensor]:
    return untouched()


@pytest.fixture
def store(tmp_path: Path, base: dict[str, Tensor]) -> TrialStore:
    """Trial 1 changes nothing, trial 2 gains and harms nobody, trial 3 gains more and harms every language."""
    store = TrialStore.create(tmp_path / "sweep", pilot())
    put(store, 0, {1.0: base})
    put(store, 1, {1.0: base})
    put(store, 2, {1.0: changed(base, 60)}, points=measured(36.0, -1.0))
    put(store, 3, {1.0: changed(base, 90, harmed=True)}, points=measured(54.0, 9.0))
    return store


def improvement(base: Tensor, tuned: Tensor) -> Interval:
    """The same by scipy, whose bootstrap draws on its own: an interval to compare with."""

    def relative(before: Array, after: Array, axis: int = -1) -> Array:
        return np.asarray(100 * (before.sum(axis) - after.sum(axis)) / before.sum(axis))

    before, after = (outcome.reshape(len(outcome), -1).sum(1).double().numpy() for outcome in (base, tuned))
    drawn = stats.bootstrap((before, after), relative, paired=True, method="percentile", n_resamples=4000, rng=1)
    return Interval(float(relative(before, after)), *drawn.confidence_interval)


def assert_close(ours: Interval, other: Interval) -> None:
    assert ours.value == pytest.approx(other.value)
    tolerance = 0.15 * (other.high - other.low) + 1e-9  # of 1,000 replicates against 4,000
    assert (ours.low, ours.high) == pytest.approx((other.low, other.high), abs=tolerance)


def test_improvements_are_those_of_whole_displacements(store: TrialStore, base: dict[str, Tensor]) -> None:
    gathered = evidence.gather(store)
    assert gathered.damaged == []
    assert set(gathered.improvements) == {1, 2, 3}
    assert gathered.improvements[1] == dict.fromkeys(("msmarco", "xnli"), Interval(0.0, 0.0, 0.0))
    for number, fixed, harmed in ((2, 60, False), (3, 90, True)):
        tuned = changed(base, fixed, harmed)
        for name in base:
            assert_close(gathered.improvements[number][name], improvement(base[name], tuned[name]))


def test_the_regime_lies_between_the_trials_that_show_it(store: TrialStore) -> None:
    (regime,) = evidence.gather(store).regimes
    assert (regime.mask, regime.rates, regime.trials) == ("embeddings", (1e-8, 1e-7, 1e-6), 3)
    assert regime.edge == Change(1e-7, 1e-6, 1e-7, 1e-6)
    assert regime.onset == Change(1e-8, 1e-7, 1e-8, 1e-7)


def test_a_significant_loss_is_no_gain(store: TrialStore, base: dict[str, Tensor]) -> None:
    lost = {**base, "msmarco": torch.ones(400, dtype=torch.bool)}
    put(store, 2, {1.0: lost}, points=measured(-150.0, -1.0))
    (regime,) = evidence.gather(store).regimes
    assert regime.onset == Change(1e-7, None, 1e-7, None)


def test_regimes_are_of_trials_that_ran_with_a_rate_of_their_own(store: TrialStore) -> None:
    store.put(dataclasses.replace(store.records[3], state="stopped"))
    assert evidence.gather(store).regimes[0].trials == 3
    store.put(dataclasses.replace(store.records[3], state="crashed"))
    assert evidence.gather(store).regimes[0].trials == 2
    assert 3 in evidence.gather(store).improvements
    store.put(dataclasses.replace(store.records[2], config={"margin": 0.1}))
    assert evidence.gather(store).regimes[0].trials == 1


def test_a_trial_that_names_no_mask_has_that_of_the_sweep(tmp_path: Path, base: dict[str, Tensor]) -> None:
    train = config.Train(data=config.Source(path="org/data"), steps=8, freeze="none")
    store = TrialStore.create(tmp_path / "sweep", pilot(train=train))
    put(store, 0, {1.0: base})
    put(store, 1, {1.0: base}, config={"learning_rate": 1e-8})
    put(store, 2, {1.0: base})
    assert [regime.mask for regime in evidence.gather(store).regimes] == ["none", "embeddings"]


def test_a_set_of_triplets_can_be_the_guard(tmp_path: Path, base: dict[str, Tensor]) -> None:
    store = TrialStore.create(tmp_path / "sweep", pilot(constraint=config.Constraint(data="msmarco")))
    put(store, 0, {1.0: base})
    put(store, 1, {1.0: base})
    harmful = {**base, "msmarco": torch.ones(400, dtype=torch.bool)}
    put(store, 2, {1.0: harmful}, points=measured(-150.0, 9.0))
    (regime,) = evidence.gather(store).regimes
    assert regime.edge == Change(1e-8, 1e-7, 1e-8, 1e-7)


def with_winner(store: TrialStore, base: dict[str, Tensor]) -> TrialRecord:
    """Trial 3 can hand over half of its displacement, which gains more than trial 2."""
    by_scale = {0.5: changed(base, 75), 1.0: changed(base, 90, harmed=True)}
    half = Candidate(0.5, metrics(45.0, -0.5), "neutral/de/en")
    put(store, 3, by_scale, points=measured(54.0, 9.0), scaled=(half,))
    return store.records[3]


def test_the_winner_is_estimated_at_the_scale_that_is_handed_over(store: TrialStore, base: dict[str, Tensor]) -> None:
    with_winner(store, base)
    gathered = evidence.gather(store)
    assert_close(gathered.selection["msmarco"], improvement(base["msmarco"], changed(base, 75)["msmarco"]))
    assert gathered.selection["xnli"] == Interval(0.0, 0.0, 0.0)
    assert gathered.improvements[3]["xnli"].value < -100
    assert gathered.confirmation == {}


def test_the_winner_is_estimated_on_the_confirmation_sets_too(store: TrialStore, base: dict[str, Tensor]) -> None:
    winner = with_winner(store, base)
    unseen = untouched(seed=1)
    for number, scale, outcome in ((0, 1.0, unseen), (3, 0.5, changed(unseen, 30))):
        outcomes.save(store.folder.trial(number).confirmation_outcomes, Outcomes({scale: outcome}, LANGUAGES))
    store.put(dataclasses.replace(winner, confirmations=checked(metrics(18.0, -0.4), 0.5)))
    gathered = evidence.gather(store)
    assert_close(gathered.confirmation["msmarco"], improvement(unseen["msmarco"], changed(unseen, 30)["msmarco"]))

    store.folder.trial(0).confirmation_outcomes.unlink()
    assert evidence.gather(store) == dataclasses.replace(gathered, confirmation={})


def test_the_same_folder_gives_the_same_evidence(store: TrialStore) -> None:
    assert evidence.gather(TrialStore(store.folder.path)) == evidence.gather(store)


def test_another_seed_draws_other_replicates(store: TrialStore, base: dict[str, Tensor], tmp_path: Path) -> None:
    other = TrialStore.create(tmp_path / "other", pilot(seed=1))
    put(other, 0, {1.0: base})
    put(other, 2, {1.0: changed(base, 60)}, points=measured(36.0, -1.0))
    ours, theirs = (evidence.gather(one).improvements[2]["msmarco"] for one in (store, other))
    assert ours.value == theirs.value
    assert (ours.low, ours.high) != (theirs.low, theirs.high)


@pytest.mark.parametrize("damage", ["missing", "garbage", "cut", "other scale"])
def test_a_trial_whose_outcomes_cannot_be_read_is_left_out(
    store: TrialStore, base: dict[str, Tensor], damage: str
) -> None:
    whole = evidence.gather(store)
    spoil(store.folder.trial(2).outcomes, damage, base)
    gathered = evidence.gather(store)
    assert gathered.damaged == [2]
    assert gathered.improvements == {number: whole.improvements[number] for number in (1, 3)}
    assert gathered.selection == {}  # trial 2 is the winner
    assert gathered.regimes[0].rates == (1e-8, 1e-6)


@pytest.mark.parametrize("damage", ["missing", "garbage", "cut", "other scale"])
def test_nothing_is_known_without_the_outcomes_of_the_untouched_encoder(
    store: TrialStore, base: dict[str, Tensor], damage: str
) -> None:
    path = store.folder.trial(0).outcomes
    spoil(path, damage, base)
    with pytest.raises(errors.SweepError, match="is missing or damaged") as raised:
        evidence.gather(store)
    assert str(path) in str(raised.value)
    assert "Run the sweep again" in str(raised.value)


def spoil(path: Path, damage: str, base: dict[str, Tensor]) -> None:
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"not outcomes")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        outcomes.save(path, Outcomes({0.5: base}, LANGUAGES))


def test_without_a_measured_trial_there_is_no_evidence_and_no_need_of_any(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path / "sweep", pilot())
    assert evidence.gather(store) == Evidence({}, {}, {}, [], [])
    store.put(TrialRecord(1, {"learning_rate": 1e-8}, "out_of_memory"))
    store.put(TrialRecord(2, {"learning_rate": 1e-8}, "running", points=measured(1.0, 1.0)))
    assert evidence.gather(store) == Evidence({}, {}, {}, [], [])


def test_compared_sets_keep_the_order_of_the_sweep() -> None:
    known = {"improvement/xnli": 1.0, "improvement/xnli/de": 1.0, "improvement/a.b": 2.0, "ndcg_at_10/beir": 0.5}
    assert evidence.compared_sets(["a.b", "beir", "xnli"], known) == ["a.b", "xnli"]
