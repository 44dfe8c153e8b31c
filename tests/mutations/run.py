#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants each bug of mutants.py in a copy of the headers and builds check.cpp with it: every one must turn it red.

    run.py --build-dir DIR [--json FILE] [--jobs N] [--compiler CXX] [NAME ...]

Exit status 0 only if the unmutated program is green, every mutant still applies, and every mutant is caught.
"""
import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

from mutants import MUTANTS

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / 'include'


def apply(folder, changes):
    """Changes files under `folder`; returns why not, or None. White space in the old text matches any white space."""
    for name, old, new in changes:
        path = folder / 'ringattn' / name
        text = path.read_text()
        pattern = re.compile(r'\s*'.join(re.escape(token) for token in re.findall(r'\w+|[^\w\s]', old)))
        found = pattern.findall(text)
        if len(found) != 1:
            return f'{name}: {len(found)} places match: {old}'
        path.write_text(pattern.sub(lambda _: new, text))
    return None


def outcome(compiler, build, name, changes):
    """'green', 'red: ...', 'does not apply: ...' or 'does not compile: ...'; and seconds."""
    start = time.monotonic()
    folder = build / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(INCLUDE, folder / 'include')
    if problem := apply(folder / 'include', changes):
        return f'does not apply: {problem}', 0
    program = folder / 'check'
    compiled = subprocess.run([compiler, '-std=c++20', '-O1', '-pthread', f'-I{folder / "include"}', HERE / 'check.cpp',
                               '-o', program], capture_output=True, text=True)
    if compiled.returncode:
        errors = [line for line in compiled.stderr.splitlines() if 'error' in line]
        return f'does not compile: {errors[0] if errors else compiled.stderr[-300:]}', 0
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=60)
        lines = [line for line in done.stdout.splitlines() if line.startswith('red')]
        result = 'green' if done.returncode == 0 else lines[-1] if lines else f'red: exit status {done.returncode}'
    except subprocess.TimeoutExpired:
        result = 'red: no end within 60 s'
    shutil.rmtree(folder)
    return result, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='only these mutants')
    parser.add_argument('--build-dir', required=True, type=pathlib.Path)
    parser.add_argument('--json', type=pathlib.Path)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--compiler', default='c++')
    args = parser.parse_args()
    build = args.build_dir.resolve() / 'mutations'
    build.mkdir(parents=True, exist_ok=True)
    wanted = [m for m in MUTANTS if not args.names or m[0] in args.names]

    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(outcome, args.compiler, build, name, changes): name
                for name, changes in [('unmutated', [])] + [(m[0], m[2]) for m in wanted]}
        for job in concurrent.futures.as_completed(jobs):
            name = jobs[job]
            results[name], seconds = job.result()
            print(f'{name}: {results[name]} ({seconds:.0f} s)', flush=True)

    caught = [m[0] for m in wanted if results[m[0]].startswith('red')]
    missed = [m[0] for m in wanted if m[0] not in caught]
    green = results['unmutated'] == 'green'
    print(f'{len(wanted)} planted, {len(caught)} caught; unmutated: {results["unmutated"]}')
    for name in missed:
        print(f'not caught: {name}: {results[name]}')
    if args.json:
        args.json.write_text(json.dumps({'planted': len(wanted), 'caught': len(caught), 'unmutated': results['unmutated'],
                                         'missed': missed, 'results': results}, indent=1))
    return 0 if green and not missed else 1


if __name__ == '__main__':
    sys.exit(main())
