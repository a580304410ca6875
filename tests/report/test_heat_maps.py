"""Heat maps against counts in loops and scipy's binomial test."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from adiabatic_ray.data.sets import Languages
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.report import figures, heat_maps

LANGUAGES = ["de", "en", "fr"]
CELLS = list(itertools.product(range(2), range(3), range(3)))  # comparison, query language, text language
PERFECT = (1, 2, 2)  # the cell in which the untouched encoder has no discordant triplet


@pytest.fixture
def outcomes() -> tuple[Tensor, Tensor]:
    """Outcomes `[200, 2, 3, 3]` of an untouched and a tuned encoder: better in each cell but one, to a varying degree.

    In the cell `PERFECT` only the tuned encoder has discordant triplets.
    """
    random = torch.Generator().manual_seed(3)
    base = torch.rand((200, 2, 3, 3), generator=random) < 0.3
    tuned = base & (torch.rand(base.shape, generator=random) < torch.linspace(0.7, 1, 9).reshape(3, 3))
    base[:, *PERFECT], tuned[:, *PERFECT] = False, True
    return base, tuned


def of(base: Tensor, tuned: Tensor) -> dict[str, Evidence]:
    return {"xnli": Evidence(base, tuned, LANGUAGES)}


def panels(figure: Figure) -> list[Axes]:
    return figure.axes[:2]


def colours(axes: Axes) -> npt.NDArray[np.float64]:
    """The values that an image shows, by query and text language."""
    return np.asarray(axes.images[0].get_array(), dtype=float)


def crosses(axes: Axes) -> list[tuple[int, int]]:
    """Where the crosses stand, as (query language, text language)."""
    return [(int(y), int(x)) for drawn in axes.collections for x, y in np.asarray(drawn.get_offsets())]


def test_crosses_stand_where_the_exact_test_fails(outcomes: tuple[Tensor, Tensor]) -> None:
    base, tuned = outcomes
    failing = []
    for c, x, y in CELLS:
        pairs = list(zip(base[:, c, x, y].tolist(), tuned[:, c, x, y].tolist(), strict=True))
        broken, fixed = pairs.count((False, True)), pairs.count((True, False))
        if broken + fixed == 0 or stats.binomtest(broken, broken + fixed).pvalue >= 0.05:
            failing.append((c, x, y))
    assert 0 < len(failing) < len(CELLS)
    figure = heat_maps.improvement(of(base, tuned), "title")
    assert [(c, *cell) for c, axes in enumerate(panels(figure)) for cell in crosses(axes)] == failing
    assert "not significant" in figure.subfigs[0].legends[0].get_texts()[0].get_text()


def test_an_encoder_that_changed_nothing_is_crossed_out_everywhere(outcomes: tuple[Tensor, Tensor]) -> None:
    base, _ = outcomes
    figure = heat_maps.improvement(of(base, base), "title")
    assert [(c, *cell) for c, axes in enumerate(panels(figure)) for cell in crosses(axes)] == CELLS
    assert all((colours(axes) == 0).all() for axes in panels(figure))


def test_no_cross_where_every_change_is_significant() -> None:
    base = torch.ones((50, 2, 3, 3), dtype=torch.bool)
    figure = heat_maps.improvement(of(base, ~base), "title")
    assert [crosses(axes) for axes in panels(figure)] == [[], []]
    assert all((colours(axes) == 100).all() for axes in panels(figure))


def test_improvement_of_each_cell(outcomes: tuple[Tensor, Tensor]) -> None:
    base, tuned = outcomes
    shown = [colours(axes) for axes in panels(heat_maps.improvement(of(base, tuned), "title"))]
    for c, x, y in CELLS:
        if (c, x, y) != PERFECT:
            before, after = sum(base[:, c, x, y].tolist()), sum(tuned[:, c, x, y].tolist())
            assert shown[c][x, y] == pytest.approx(100 * (before - after) / before)


def test_an_infinite_degradation_has_the_colour_at_the_end_of_the_scale(outcomes: tuple[Tensor, Tensor]) -> None:
    figure = heat_maps.improvement(of(*outcomes), "title")
    scales = {axes.images[0].get_clim() for axes in panels(figure)}
    ((low, high),) = scales  # both comparisons have the same one
    shown = np.stack([colours(axes) for axes in panels(figure)])
    assert low == -high
    assert high == np.abs(np.delete(shown.flatten(), CELLS.index(PERFECT))).max()
    assert shown[PERFECT] == low


def test_pairs_of_other_guards_are_drawn_below(outcomes: tuple[Tensor, Tensor]) -> None:
    """One panel, with a cell for each pair that the set has, and the test of its metric."""
    random = np.random.default_rng(0)
    spoken, written = Languages.of(["de", "tr"] * 60), Languages.of((["en"] * 2 + ["fr"] * 2) * 20 + ["tr"] * 40)
    before = torch.from_numpy(random.random(120))
    after = before + torch.from_numpy(random.normal(0.05, 0.2, 120))
    ranked = Evidence(before, after, [], spoken, written)
    figure = heat_maps.improvement({**of(*outcomes), "mrr_at_10/q": ranked}, "title")
    assert len(figure.subfigs) == 2
    axes = figure.subfigs[1].axes[0]
    assert axes.get_title() == "mrr_at_10/q"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["de", "tr"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["en", "fr", "tr"]
    assert spoken is not None
    assert written is not None
    failing = []
    for (x, query), (y, text) in itertools.product(enumerate(["de", "tr"]), enumerate(["en", "fr", "tr"])):
        own = [i for i in range(120) if (spoken.each()[i], written.each()[i]) == (query, text)]
        change = (after - before)[own].numpy()
        assert colours(axes)[x, y] == pytest.approx(100 * change.sum() / float(before[own].sum()))
        test = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=9_999, rng=random)
        failing += [(x, y)] if test.pvalue >= 0.05 else []
    assert 0 < len(failing) < 6
    assert crosses(axes) == failing
    (legend,) = figure.subfigs[1].legends
    assert "randomization" in legend.get_texts()[0].get_text()


def test_a_pair_that_a_set_lacks_is_left_out() -> None:
    spoken, written = Languages.of(["de", "tr", "tr"]), Languages.of(["en", "en", "tr"])
    values = torch.tensor([True, True, False])
    figure = heat_maps.improvement({"q": Evidence(values, values, [], spoken, written)}, "title")
    axes = figure.subfigs[0].axes[0]
    assert np.isnan(colours(axes)).tolist() == [[False, True], [False, False]]
    assert crosses(axes) == [(0, 0), (1, 0), (1, 1)]


def test_several_encoders_share_a_scale_of_pnd(outcomes: tuple[Tensor, Tensor]) -> None:
    for encoder in outcomes:
        for c, axes in enumerate(panels(heat_maps.pnd(encoder, LANGUAGES, "title", largest=60.0))):
            for x, y in itertools.product(range(3), range(3)):
                assert colours(axes)[x, y] == pytest.approx(100 * sum(encoder[:, c, x, y].tolist()) / 200)
            assert axes.images[0].get_clim() == (0, 60)


@pytest.mark.parametrize("kind", ["improvement", "pnd"])
def test_labels_and_files(outcomes: tuple[Tensor, Tensor], kind: str, tmp_path: Path) -> None:
    title = "costs $5 and $6"
    if kind == "improvement":
        figure = heat_maps.improvement(of(*outcomes), title)
    else:
        figure = heat_maps.pnd(outcomes[0], LANGUAGES, title, largest=60.0)
    left, right = panels(figure)
    assert [text.get_text() for text in left.get_yticklabels()] == LANGUAGES
    assert ("query" in left.get_ylabel(), "texts" in left.get_xlabel()) == (True, True)
    for axes, comparison in ((left, "neutral"), (right, "contradiction")):
        assert [text.get_text() for text in axes.get_xticklabels()] == LANGUAGES
        assert axes.get_title().endswith(comparison)
    assert all(path.stat().st_size > 10_000 for path in figures.save(figure, tmp_path, "maps"))
    assert title in (tmp_path / "maps.svg").read_text()
