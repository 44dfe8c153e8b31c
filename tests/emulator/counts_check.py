# SPDX-License-Identifier: Apache-2.0
"""Compares what the emulator counts for the launches of counts.cu with what they cost by hand."""
import json
import os
import subprocess
import sys
import tempfile

# Cycles of shared memory, those without conflicts, bytes of global memory; matrices: 20 stores of a tile before.
EXPECTED = [(1, 1, 0), (2, 1, 0), (32, 1, 0), (5, 1, 0), (2, 2, 0), (4, 2, 0), (0, 0, 128), (0, 0, 1024),
            (20 + 4, 20 + 4, 128), (20 + 16, 20 + 4, 128)]

with tempfile.TemporaryDirectory() as folder:
    file = os.path.join(folder, "counts.json")
    subprocess.run(sys.argv[1:], env=dict(os.environ, RINGATTN_EMULATOR_COUNTS=file), check=True)
    with open(file) as lines:
        counted = [(n["shared_cycles"], n["shared_least"], n["global_bytes"]) for n in map(json.loads, lines)]
if counted != EXPECTED:
    sys.exit(f"counted  {counted}\nexpected {EXPECTED}")
