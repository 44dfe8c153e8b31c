#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every C++ block in README.md and docs/ must stand word for word in a program under examples/, which is compiled and run."""
import pathlib
import re
import sys
import textwrap

root = pathlib.Path(__file__).resolve().parent.parent


def flat(text):
    """Lines without indentation and trailing space; empty lines do not count."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def contains(lines, part):
    return any(lines[i:i + len(part)] == part for i in range(len(lines) - len(part) + 1))


sources = {p: flat(p.read_text()) for p in sorted([*(root / "examples").rglob("*.[ch]pp"), *(root / "examples").rglob("*.cu")])}
documents = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
blocks = wrong = 0
for document in documents:
    for match in re.finditer(r"^```(?:cpp|c\+\+)\n(.*?)^```", document.read_text(), re.M | re.S):
        blocks += 1
        if not any(contains(lines, flat(match.group(1))) for lines in sources.values()):
            wrong += 1
            print(f"{document.relative_to(root)}: this block is in no program under examples/:")
            print(textwrap.indent(match.group(1), "    "))

# The check must be able to fail.
assert not any(contains(lines, ["this line is in no example"]) for lines in sources.values())
assert blocks > 0, "no C++ block found in the documents"
print(f"{blocks} blocks of C++ in {len(documents)} documents, {wrong} not compiled")
sys.exit(wrong > 0)
