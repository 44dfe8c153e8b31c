# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run.sh and examples/run.sh: installs the Debian packages that are missing.

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

basic_packages=(g++ meson ninja-build pkg-config python3 libopenblas-dev libopenmpi-dev openmpi-bin)
test_packages=(doctest-dev cmake)
full_packages=(clang libclang-rt-14-dev clang-format doxygen)

export DEBIAN_FRONTEND=noninteractive
