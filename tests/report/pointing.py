"""Pointing at trials in the charts of a report, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


def place_of(tab: Page, figure: str, trial: int) -> tuple[float, float]:
    """Where a trial's mark is drawn in the first chart of a figure, in pixels of the window."""
    tab.locator(f"#figure-{figure} canvas").first.scroll_into_view_if_needed()
    place = tab.evaluate(
        """([figure, trial]) => {
            const [element, view] = [...views].find(([one]) => one.closest(`#figure-${figure}`));
            const box = element.querySelector("canvas").getBoundingClientRect();
            const [x, y] = view.origin().map((one, i) => one + view.padding()[["left", "top"][i]]);
            let mark;
            const look = one => {
                if (one.datum?.trial === trial && "x" in one && !one.items) mark = one;
                (one.items || []).forEach(look);
            };
            look(view.scenegraph().root);
            return [box.x + x + mark.x, box.y + y + mark.y];
        }""",
        [figure, trial],
    )
    return place[0], place[1]


def point_at(tab: Page, figure: str, trial: int) -> None:
    """Move the pointer there, and wait for what is said."""
    tab.mouse.move(1, 1)
    tab.mouse.move(*place_of(tab, figure, trial))
    tab.wait_for_function("trial => focus === trial", arg=trial)
    tab.wait_for_selector("#vg-tooltip-element.visible")
