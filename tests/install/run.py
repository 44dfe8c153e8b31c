#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same program built in the four ways ringattn can be used: -I, pkg-config, CMake's find_package, Meson subproject."""
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
source = here.parent.parent
cxx = shlex.split(os.environ.get("CXX", "c++"))
strict = ["-O1", "-Wall", "-Wextra", "-Werror"]


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(str(c) for c in command)} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def works(program):
    said = run(program, timeout=60)
    if "ringattn works" not in said:
        raise RuntimeError(f"{program} said: {said}")


def bare(work, prefix):
    run(*cxx, "-std=c++20", *strict, "-I", source / "include", here / "consumer.cpp", "-o", work / "bare", "-pthread")
    works(work / "bare")


def pkg_config(work, prefix):
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "share/pkgconfig"))
    flags = shlex.split(run("pkg-config", "--cflags", "--libs", "ringattn", env=env))
    if f"-I{prefix}/include" not in flags:
        raise RuntimeError(f"pkg-config gives {flags}")
    run(*cxx, "-std=c++20", *strict, here / "consumer.cpp", "-o", work / "pkg", *flags)
    works(work / "pkg")


def cmake(work, prefix):
    moved = work / "moved"  # the package must not know where it was installed
    shutil.copytree(prefix, moved)
    run("cmake", "-S", here / "cmake", "-B", work / "cmake", f"-DCMAKE_PREFIX_PATH={moved}", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", work / "cmake")
    works(work / "cmake/consumer")


def subproject(work, prefix):
    project = work / "meson"
    shutil.copytree(here / "meson", project)
    shutil.copy(here / "consumer.cpp", project)
    (project / "subprojects").mkdir()
    (project / "subprojects/ringattn").symlink_to(source)
    run("meson", "setup", project / "build", project)
    run("ninja", "-C", project / "build")
    works(project / "build/consumer")


def main():
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        prefix = work / "prefix"
        off = [f"-D{part}=false" for part in ("tests", "examples", "bench")]
        run("meson", "setup", work / "build", source, f"--prefix={prefix}", *off)
        run("meson", "install", "-C", work / "build")
        for way, tool in [(bare, cxx[0]), (pkg_config, "pkg-config"), (cmake, "cmake"), (subproject, "meson")]:
            result = "passed"
            if not shutil.which(tool):
                result, why = "skipped", f"{tool} is not installed"
            else:
                try:
                    way(work, prefix)
                    why = ""
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    result, why = "failed", str(error)
            counts[result] += 1
            print(f"{way.__name__}: {result} {why}", flush=True)
    print("ringattn-tests: " + json.dumps(counts))
    return counts["failed"] > 0


sys.exit(main())
