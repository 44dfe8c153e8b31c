#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each source here must fail to compile, and its first error must be the sentence in its `// expect:` line."""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

here = pathlib.Path(__file__).parent
include = here.parent.parent / "include"
compiler = sys.argv[1:]


def verdict(source):
    """None, or what is wrong."""
    expected = re.search(r"^// expect: (.+)$", source.read_text(), re.M)[1]
    env = dict(os.environ, LC_ALL="C")
    done = subprocess.run(compiler + ["-std=c++20", "-Wall", "-Wextra", "-fsyntax-only", "-I", include, source],
                          capture_output=True, text=True, env=env)
    if expected == "nothing":
        return f"does not compile:\n{done.stderr[:4000]}" if done.returncode or done.stderr else None
    if done.returncode == 0:
        return f"compiles, but should say: {expected}"
    first = next((line for line in done.stderr.splitlines() if "error:" in line), "")
    return None if expected in first else f"expected: {expected}\n  first error: {first}"


sources = sorted(here.glob("*.cpp"))
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    verdicts = list(pool.map(verdict, sources))
for source, wrong in zip(sources, verdicts):
    print(("FAIL " + source.name + ": " + wrong) if wrong else "ok   " + source.name)

# Every sentence that policy.hpp can say has its source.
sentences = re.findall(r'"(ringattn: Policy::\w+ [^"]{8,30})', (include / "ringattn/policy.hpp").read_text())
expectations = "\n".join(source.read_text() for source in sources)
unsaid = [s for s in sentences if s not in expectations]
for sentence in unsaid:
    print(f"FAIL no source here expects: {sentence}...")

failed = sum(v is not None for v in verdicts) + bool(unsaid)
print("ringattn-tests: " + json.dumps({"passed": len(sources) + 1 - failed, "failed": failed, "skipped": 0}))
sys.exit(bool(failed))
