"""The fenced blocks of README and docs, and the commands in them."""

import re

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The lines of a console block that a user types, without prompt and comment."""
    return [line.removeprefix("$ ").partition("   #")[0] for line in block.splitlines() if line.startswith("$ ")]
