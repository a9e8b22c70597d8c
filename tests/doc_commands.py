"""The commands that a Markdown page shows, to be run by a test as a reader would run them."""

import re
import shlex
import sys
from pathlib import Path

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_in(page: Path) -> list[list[str]]:
    """Return the commands in the ```bash blocks of a page as lists of words; ``python`` is this interpreter.

    A backslash at the end of a line continues the command; what follows a # is left out.
    """
    lines = "".join(BLOCK.findall(page.read_text())).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [[sys.executable if word == "python" else word for word in words] for words in commands if words]
