# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run.sh and examples/run.sh: installs the Debian packages that are missing, and NVIDIA's disassembler.

say() { printf '== %s\n' "$*"; }

# need_packages NAME...: as root installs what dpkg does not know; otherwise says what to install and ends.
need_packages() {
  local missing=() name
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: taking for granted that these, or what they stand for, are installed: $*"
    return 0
  fi
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then
    say "missing packages, and only root can install them. Run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  say "installing ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get install -y -q --no-install-recommends "${missing[@]}" || {
    apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"
  }; } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    say "apt-get could not install ${missing[*]}" >&2
    exit 1
  fi
  rm -f "$log"
}

# need_nvdisasm: where there is an nvcc, but no nvdisasm beside it or in PATH, takes it from PyPI into build/tools, where
# tests/cuda/budgets.py looks for it. Without it a test is skipped, so that this may fail.
need_nvdisasm() {
  local nvcc folder log
  for folder in "${CUDA_PATH:+$CUDA_PATH/bin}" "${CUDA_HOME:+$CUDA_HOME/bin}" /usr/local/cuda/bin; do
    [ -z "${nvcc:-}" ] && [ -n "$folder" ] && [ -x "$folder/nvcc" ] && nvcc=$folder/nvcc
  done
  nvcc=$(command -v nvcc || echo "${nvcc:-}")
  [ -n "$nvcc" ] && [ -z "${NVDISASM:-}" ] || return 0
  [ -x "$(dirname "$(readlink -f "$nvcc")")/nvdisasm" ] || command -v nvdisasm >/dev/null && return 0
  compgen -G 'build/tools/nvidia/cu*/bin/nvdisasm' >/dev/null && return 0
  python3 -m pip --version >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ] || need_packages python3-pip
  say 'nvdisasm from PyPI into build/tools'
  log=$(mktemp)
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --disable-pip-version-check --timeout 15 --retries 1 --no-deps \
    --target build/tools 'nvidia-cuda-nvdisasm==13.2.51' >"$log" 2>&1 </dev/null || {
    tail -3 "$log" >&2
    say 'nvdisasm could not be had: instructions of CUDA kernels are not compared' >&2
  }
  rm -f "$log"
}

basic_packages=(g++ meson ninja-build pkg-config python3 libopenblas-dev libopenmpi-dev openmpi-bin)
test_packages=(doctest-dev cmake)
full_packages=(clang libclang-rt-14-dev clang-format doxygen)

export DEBIAN_FRONTEND=noninteractive
