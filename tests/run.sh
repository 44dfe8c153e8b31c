#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds and runs the tests; ends with one line: N passed, N failed, N skipped.
#   tests/run.sh [--full | --extended] [--report FILE.json] [--no-install]
# --full adds both compilers, sanitizers, mutations, installs, CUDA's host pass, formatting and the documentation;
# --extended, which takes hours, also the long CUDA lists and the CUDA kernels of every precision on their own.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."
. tests/setup.sh

full=false install=true arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --full | --extended) full=true; arguments+=("$1") ;;
    --report)
      [ $# -gt 1 ] || { echo '--report needs a file' >&2; exit 2; }
      [[ $2 == /* ]] && arguments+=("$1" "$2") || arguments+=("$1" "$from/$2")
      shift
      ;;
    --no-install) install=false ;;
    -h | --help) sed -n '3,6p' "$0"; exit 0 ;;
    *) echo "unknown argument: $1" >&2; sed -n '3,6p' "$0" >&2; exit 2 ;;
  esac
  shift
done

if $install; then
  need_packages "${basic_packages[@]}" "${test_packages[@]}"
  if $full; then
    need_packages "${full_packages[@]}"
    need_nvdisasm
  fi
fi
exec python3 tests/run.py "${arguments[@]}"
