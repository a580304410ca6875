"""A Chromium that is installed here."""

from __future__ import annotations

import shutil


def executable() -> str | None:
    """Its path, or `None` where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
