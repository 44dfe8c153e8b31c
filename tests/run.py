#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds and tests in stages and adds up their counts. Started by tests/run.sh, which installs what is missing."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

source = pathlib.Path(__file__).resolve().parent.parent
os.chdir(source)
main_build = source / "build"
reports = main_build / "report"
kinds = ("passed", "failed", "skipped")
stages = []


def shell(*command, **more):
    """Runs a command in view of the user; its exit status."""
    command = [str(c) for c in command]
    print("+ " + " ".join(command), flush=True)
    return subprocess.run(command, **more).returncode


def stage(name, work, *arguments, **options):
    """Runs `work`, which returns a dict with counts (and what else should be reported)."""
    print(f"\n== {name}", flush=True)
    start = time.monotonic()
    try:
        result = work(*arguments, **options)
    except Exception as error:  # a stage that breaks is a failure, not the end of the run
        print(f"{name}: {error!r}", flush=True)
        result = {"failed": 1}
    result = {"stage": name, **{k: 0 for k in kinds}, **result, "seconds": round(time.monotonic() - start, 1)}
    stages.append(result)
    print(f"== {name}: {counts_of(result)} in {result['seconds']:.0f} s", flush=True)


def counts_of(result):
    return ", ".join(f"{result[k]} {k}" for k in kinds)


def check(ok):
    return {"passed": int(bool(ok)), "failed": int(not ok)}


# ---------------------------------------------------------------- fragments that tests write into RINGATTN_REPORT_DIR


def merge(into, value):
    """Numbers add up, lists are joined, objects are merged; of anything else the first stays."""
    for key, new in value.items():
        old = into.get(key)
        if old is None or key == "seed":
            into[key] = new
        elif isinstance(old, dict) and isinstance(new, dict):
            merge(old, new)
        elif isinstance(old, bool):
            into[key] = old and new
        elif isinstance(old, (int, float)) and isinstance(new, (int, float)):
            into[key] = old + new
        elif isinstance(old, list) and isinstance(new, list):
            into[key] = old + new


def fragments(folder):
    merged = {}
    for file in sorted(folder.glob("*.json")):
        value = json.loads(file.read_text())
        merge(merged, value if isinstance(value, dict) else {file.stem: value})
    return merged


# ---------------------------------------------------------------- a build and its tests


def introspect(build, what):
    done = subprocess.run(["meson", "introspect", what, str(build)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def build_and_test(folder, wanted, options=(), env=(), patience=1, everything=False):
    """Configures (once), builds what the wanted tests need (or everything) and runs them."""
    build = source / folder
    env = {**os.environ, **dict(env)}
    if not (build / "build.ninja").is_file() and shell("meson", "setup", build, *options, env=env):
        return {"failed": 1}
    shell("ninja", "-C", build, "build.ninja", env=env, stdout=subprocess.DEVNULL)  # configures anew if needed
    built = introspect(build, "--targets")
    executables = {f for t in built if t["type"] == "executable" for f in t["filename"]}
    tests = [t for t in introspect(build, "--tests") if wanted({s.split(":")[-1] for s in t["suite"]})]
    # The program itself has an absolute path, one that is started by mpirun or a shell a path from the build folder.
    needs = {t["name"]: [str(build / c) for c in t["cmd"] if str(build / c) in executables] for t in tests}
    paths = {p for paths in needs.values() for p in paths}
    if everything:  # not ninja's `all`, which has the programs of all tests and benchmarks
        paths |= {f for t in built if t["build_by_default"] for f in t["filename"]
                  if pathlib.Path(f).relative_to(build).parts[0] != "bench"}
    broken = shell("ninja", "-C", build, "-k", "0", *sorted(os.path.relpath(p, build) for p in paths), env=env)

    ready = [t for t in tests if all(pathlib.Path(p).exists() for p in needs[t["name"]])]
    counts = {k: 0 for k in kinds}
    counts["failed"] = len(tests) - len(ready)
    if broken and not counts["failed"]:
        counts["failed"] = 1  # something that is not a test does not build, or a test is out of date
    for test in tests:
        if test not in ready:
            print(f"{test['name']}: not built", flush=True)

    fragment_folder = reports / folder
    shutil.rmtree(fragment_folder, ignore_errors=True)
    fragment_folder.mkdir(parents=True)
    env["RINGATTN_REPORT_DIR"] = str(fragment_folder)
    # Tests with the usual limit are ended by their own watchdog, which names the test case, before Meson ends them.
    env.setdefault("RINGATTN_TEST_TIMEOUT", str(235 * patience))
    quiet = no_randomization() if "tsan" in folder else []
    if ready:
        shell(*quiet, "meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", "--num-processes",
              min(len(os.sched_getaffinity(0)), 8), "--timeout-multiplier", patience, *[t["name"] for t in ready], env=env)

    slowest, durations, seen = {"seconds": 0}, {}, 0
    for line in (build / "meson-logs/testlog.json").read_text().splitlines() if ready else []:
        test = json.loads(line)
        seen += 1
        name = test["name"].split(" / ")[-1]
        durations[name] = round(test["duration"], 2)
        found = re.findall(r"^ringattn-tests: (\{.*\})$", test.get("stdout") or "", re.M)
        mine = json.loads(found[-1]) if found else {}
        if not found:
            mine["passed" if test["result"] == "OK" else "skipped" if test["result"] == "SKIP" else "failed"] = 1
        elif test["result"] != "OK" and not mine["failed"]:
            mine["failed"] = 1
        for kind in kinds:
            counts[kind] += mine.get(kind, 0)
        if mine.get("seconds", 0) > slowest["seconds"]:
            slowest = {"seconds": mine["seconds"], "test": name, "case": mine["slowest"]}
    counts["failed"] += len(ready) - seen
    return {**counts, "tests": durations, "slowest": slowest, "fragments": fragments(fragment_folder)}


def no_randomization():
    """The thread sanitizer of gcc 12 cannot live with the address layout of some kernels."""
    command = ["setarch", os.uname().machine, "-R"]
    works = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


def everyday(suites):
    return "everyday" in suites


def everyday_units(suites):
    return {"everyday", "unit"} <= suites


def everyday_threads(suites):
    return {"everyday", "threads"} <= suites


# ---------------------------------------------------------------- the stages of --full


def need(tool):
    if shutil.which(tool):
        return True
    print(f"{tool} not found: skipped", flush=True)
    return False


def clang():
    if not need("clang++"):
        return {"skipped": 1}
    # The sanitizers' stage compiles the broad tests with clang++ and -O1, too.
    return build_and_test("build-clang", lambda s: everyday(s) and not s & {"meta", "cuda", "broad"}, ["-Dbench=false", "-Dexamples=false"],
                          {"CXX": "clang++", "CC": "clang"}, patience=2)


def sanitized(folder, which, wanted, options=(), arguments="", compiler=None):
    lean = ["-Dexamples=false", "-Dbench=false", "-Dmpi=disabled", "-Doptimization=1"]
    env = {"UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1 second_deadlock_stack=1",
           "ASAN_OPTIONS": "detect_stack_use_after_return=1"}
    if compiler and shutil.which(compiler):
        env["CXX"] = compiler
    flags = [*lean, f"-Db_sanitize={which}", f"-Dcpp_args=-g1{arguments}", *options]
    return build_and_test(folder, wanted, flags, env, patience=5)


def benchmarks():
    """Only whether they compile: making their kernels fast takes minutes."""
    def compiles(entry):
        command = shlex.split(entry["command"])
        command[command.index("-o") + 1] = os.devnull
        return shell(*command, "-O0", cwd=entry["directory"]) == 0
    entries = [e for e in json.loads((main_build / "compile_commands.json").read_text())
               if e["file"].startswith("../bench/") and not pathlib.Path(e["file"]).name.startswith("tune")]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return check(entries and all(pool.map(compiles, entries)))


def mutations():
    out = reports / "mutations.json"
    reports.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    status = shell(sys.executable, "tests/mutations/run.py", "--build-dir", main_build, "--json", out)
    return {**check(status == 0), "mutations": json.loads(out.read_text()) if out.is_file() else {}}


def formatting():
    if not need("clang-format"):
        return {"skipped": 1}
    files = [p for top in ("include", "tests", "examples", "bench") for p in (source / top).rglob("*")
             if p.suffix in (".hpp", ".cpp", ".cuh", ".cu")]
    return check(subprocess.run(["clang-format", "--dry-run", "-Werror", *map(str, sorted(files))]).returncode == 0)


def documentation():
    if not need("doxygen"):
        return {"skipped": 1}
    text = (source / "docs/Doxyfile").read_text() + f"\nOUTPUT_DIRECTORY = {main_build}/docs\n"
    (main_build / "docs").mkdir(parents=True, exist_ok=True)
    return check(subprocess.run(["doxygen", "-"], input=text, text=True, stdout=subprocess.DEVNULL).returncode == 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="everything that fits into 45 minutes on two cores")
    parser.add_argument("--extended", action="store_true", help="and the rest: all CUDA lists and planted bugs, emulated; hours")
    parser.add_argument("--report", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.full |= arguments.extended
    start = time.monotonic()

    wanted = (lambda s: True) if arguments.extended else (lambda s: "extended" not in s) if arguments.full else everyday
    stage("build and tests", build_and_test, "build", wanted, everything=arguments.full)
    if arguments.full:
        stage("benchmarks", benchmarks)
        stage("formatting", formatting)
        stage("documentation", documentation)
        stage("clang", clang)
        # clang++ compiles with these in 60 % of g++'s time, and checks more. A null pointer that is followed is the address
        # sanitizer's to find, and so is what a pointer that wraps leads to; checks of each before (and of sizes known when
        # compiling) are more than a third of the time.
        stage("address and undefined behaviour sanitizers", sanitized, "build-asan", "address,undefined", everyday_units,
              arguments=" -fno-sanitize-recover=all -fno-sanitize=null,vptr,object-size,pointer-overflow", compiler="clang++")
        stage("thread sanitizer", sanitized, "build-tsan", "thread", everyday_threads, ["-Dblas=disabled"])
        stage("mutations", mutations)

    total = {k: sum(s[k] for s in stages) for k in kinds}
    seconds = round(time.monotonic() - start, 1)
    print("\n== all stages")
    for s in stages:
        print(f"{s['stage']:45} {counts_of(s):40} {s['seconds']:7.0f} s")
    slowest = max((s.get("slowest", {"seconds": 0}) for s in stages), key=lambda x: x["seconds"])
    if arguments.report:
        first = stages[0].get("fragments", {})
        planted = next((s["mutations"] for s in stages if "mutations" in s), {})
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(json.dumps(
            {**total, "seconds": seconds, "slowest": slowest, **first, "mutations": planted, "stages": stages}, indent=1))
        print(f"report: {arguments.report}")
    print(f"slowest test case: {slowest.get('case', '-')} ({slowest['seconds']:.1f} s)")
    print(counts_of(total), flush=True)
    return total["failed"] > 0


sys.exit(main())
