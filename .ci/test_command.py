"""Print the README's test command: the one line of the code block under the mark."""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- test command -->"
EXPECTED = f"README.md must have `{MARK}` once, and under it a bash block of one line that runs pytest"

text = README.read_text(encoding="utf-8")
blocks = re.findall(rf"^{re.escape(MARK)}\n+```bash\n([^\n]*\bpytest\b[^\n]*)\n```$", text, re.MULTILINE)
if text.count(MARK) != 1 or len(blocks) != 1:
    sys.exit(f"error: {EXPECTED}.")
print(blocks[0])
