"""What must not happen when a file is only read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)
