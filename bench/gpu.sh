#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with an NVIDIA GPU: the tests that otherwise run emulated, compute-sanitizer, then the benchmark beside
# PyTorch's SDPA where it is installed, and a short run of the tuner. Downloads nothing; ends within so many seconds
# (default 590): what there is no time for, or is not built, is noted as such. 0 if every step that ran ended well.
#   bench/gpu.sh [OUT.json [SECONDS]]
# Programs come from bench/gpu_build.sh, here or on another machine: with build-gpu/built_elsewhere nothing is built. Those
# named _native are compiled for the card itself, the other tests as the emulator takes them.
set -uo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../build-gpu/gpu.json}") limit=${2:-590}
cd "$(dirname "$0")/.." || exit 1
build=build-gpu start=$SECONDS
command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU || { echo 'nvidia-smi shows no GPU here' >&2; exit 1; }
command -v python3 >/dev/null || { echo 'python3 not found' >&2; exit 1; }
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader | head -1; }
card=$(query name) driver=$(query driver_version)
echo "== $card, driver $driver"
rm -rf $build/logs/run
mkdir -p $build/logs/run && : >$build/steps && : >$build/lines.json || exit 1

note() { echo "{\"step\": \"$1\", \"status\": $2, \"seconds\": $3}" >>$build/steps; }
# step NAME UNTIL COMMAND...: runs it, at most until so many percent of the time, and notes how it ended.
step() {
  local name=$1 left=$(($2 * limit / 100 - SECONDS + start)) begin=$SECONDS status log
  shift 2
  log="$build/logs/run/${name// /_}.txt"
  if ((left < 3)); then echo "== $name: no time left" && note "$name" '"no time left"' 0 && return 1; fi
  timeout --kill-after=5 "$left" "$@" >"$log" 2>&1
  status=$?
  if ((status == 0)); then echo "== $name, $((SECONDS - begin)) s: $(tail -1 "$log")"; else
    echo "== $name FAILED: status $status$( ((status == 124 || status == 137)) && echo ', out of time')$( ((status == 127)) && echo ', it or a library not found'), $log: $(tail -12 "$log")"
  fi
  note "$name" "$status" $((SECONDS - begin))
  return $status
}

[ -e $build/built_elsewhere ] || step build 50 bench/gpu_build.sh
tests=$(cd $build/bin && ls | grep -v -e "^gpu_attention$" -e "^tune_")
export RINGATTN_TEST_TIMEOUT=0
# cuBLAS and NCCL may be there as a part of Python's packages only.
packages=$(python3 -c 'import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib")))')
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$packages
for t in $(bench/gpu_build.sh --list); do
  [ -x $build/bin/"$t" ] || { echo "== $t: not built" && note "$t" '"not built"' 0; }
done
for t in $tests; do
  arguments=()
  [[ $t == primitives* ]] && arguments=(--compare tests/cuda/primitives_h100.txt)
  step "$t" 45 $build/bin/"$t" "${arguments[@]}" &
done
wait
# What a golden file is made of.
for t in primitives_native primitives; do
  [ -x $build/bin/$t ] && $build/bin/$t 2>/dev/null >$build/primitives.txt && break
done
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    for t in forward_Bf16 backward_Bf16; do
      step "$tool $t" 58 compute-sanitizer --tool $tool --error-exitcode 9 $build/bin/$t inputs &
    done
  done
  wait
else
  echo 'compute-sanitizer not found: skipped' && note compute-sanitizer '"not found"' 0
fi

step benchmark 75 $build/bin/gpu_attention
if python3 -c 'import torch' 2>/dev/null; then
  step 'torch sdpa' 90 python3 bench/gpu_sdpa.py
else
  echo 'PyTorch not found: no figures of its SDPA' && note 'torch sdpa' '"not found"' 0
fi
for t in $build/bin/tune_*; do [ -x "$t" ] && step "${t##*/}" 100 "$t" --seq 8192 --repetitions 3 --json $build/tune.jsonl --out $build/"${t##*/}".hpp; done
for log in benchmark torch_sdpa; do
  [ -f $build/logs/run/$log.txt ] && grep '^{' $build/logs/run/$log.txt >>$build/lines.json
done

mkdir -p "$(dirname "$out")"
python3 - "$out" "$card" "$driver" $((SECONDS - start)) $build <<'PYTHON'
import json, pathlib, sys
out, card, driver, seconds, build = sys.argv[1:]
lines = []
for line in pathlib.Path(build, "lines.json").read_text().splitlines():
    try:
        lines.append(json.loads(line))
    except ValueError:
        print("not a line of JSON:", line)  # cut off
steps = [json.loads(s) for s in pathlib.Path(build, "steps").read_text().splitlines()]
pathlib.Path(out).write_text(json.dumps({"card": card, "driver": driver, "seconds": int(seconds), "steps": steps, "measured": lines}, indent=1))
bad = [s["step"] for s in steps if s["status"] not in (0, "not found", "not built")]
missing = [s["step"] for s in steps if s["status"] == "not built"]
print(f"{out}: {len(lines)} figures, {len(bad)} steps that did not end well{': ' if bad else ''}{', '.join(bad)}; "
      f"{len(missing)} not built{': ' if missing else ''}{', '.join(missing)}; {seconds} s")
sys.exit(bool(bad))
PYTHON
