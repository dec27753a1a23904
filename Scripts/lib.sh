# Shared by the scripts beside it: installation, build, and the clean-up of what they start. Sourced, not run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
configuration=release
binaries=$root/.build/$configuration

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

require_root() {
  [[ $(id -u) == 0 ]] || fail "needs root, for namespaces, userfaultfd and FUSE: run 'sudo $0'"
}

# Installs those of the named Debian packages that are missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || fail "missing packages: ${missing[*]}; install them with this system's package manager"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; } ||
    fail "cannot install ${missing[*]}"
}

# What the build and the daemons need.
install_build_packages() {
  install_packages gcc libc6-dev pkg-config libibverbs-dev librdmacm-dev libnuma-dev libfuse3-dev fuse3 libsqlite3-dev
  command -v swift >/dev/null || fail "no 'swift' in PATH: install the Swift 6.3 toolchain from https://swift.org/install"
}

# Builds all products; with the argument "tests" also the tests. Testing is enabled in both, so that one build serves both.
build() {
  say "building ($configuration)"
  local options=(--package-path "$root" -c "$configuration" -Xswiftc -enable-testing)
  [[ ${1:-} == tests ]] && options+=(--build-tests)
  swift build "${options[@]}" 2>&1 | { grep -vE "^\[[0-9]+/[0-9]+\] |unhandled; explicitly declare" || true; } ||
    fail "the build failed"
}

# The median of the numbers given.
median() { printf '%s\n' "$@" | sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# ratio A B: A / B with two decimals.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", a / b}'; }
