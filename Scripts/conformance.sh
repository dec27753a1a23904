#!/usr/bin/env bash
# Runs public system-call suites natively and in a rack, as the same user under the same conditions, and compares the verdict of
# every case: the kernel's own selftests, stress-ng with verification, and CPython's tests.
#
#   sudo Scripts/conformance.sh                          all of them, on both trees (some two hours)
#   sudo Scripts/conformance.sh --tree storage|tmpfs     the storage component's tree, or the sandbox's tmpfs
#   sudo Scripts/conformance.sh --suite selftests|stress-ng|cpython
#   sudo Scripts/conformance.sh --only PATTERN           programs whose SUITE/NAME matches, for instance 'selftests/mm/'
#   sudo Scripts/conformance.sh --jobs N                 programs at a time; one more than there are processors if left out
#
# Prints what differs, a table, and the share of cases with the native verdict; cases and outputs are kept. The exit status is
# 0 when that share is at least 99 %. A case whose native verdict changes from run to run is named and not counted.
#
# Environment: LEGO_CONFORMANCE_DIR (default /var/tmp/lego-conformance; suites are built there once), LEGO_SKIP_BUILD, and
# LEGO_PRODUCTS, a directory with the executables of another build.
source "$(dirname "$0")/lib.sh"
case ${1:-} in
'' | --tree | --suite | --only | --jobs) ;;
*) fail "'$1' is not an option; there are: --tree storage|tmpfs, --suite NAME, --only PATTERN, --jobs N" ;;
esac
require_root
install_build_packages
install_packages python3 util-linux stress-ng python3.11 libpython3.11-testsuite linux-source-6.12 xz-utils make libcap-dev \
  libcap-ng-dev liburing-dev libnuma-dev
[[ ${LEGO_SKIP_BUILD:-} ]] || build
binaries=${LEGO_PRODUCTS:-$binaries}
directory=${LEGO_CONFORMANCE_DIR:-/var/tmp/lego-conformance}
mkdir -p "$directory/suites"
chmod 755 "$directory" "$directory/suites"

# The selftests of one directory. Some need what this machine has not; what is not built is no case.
build_selftests() {
  make -k -s -C "$1" OUTPUT="$PWD/$1" KHDR_INCLUDES="-isystem $linux/usr/include" CC=gcc all >>"$directory/build.log" 2>&1 || true
}

linux=$directory/suites/linux
if [[ ! -e $linux/.built ]]; then
  say "building the kernel's selftests"
  rm -rf "$linux"
  mkdir -p "$linux"
  tar xf /usr/src/linux-source-6.12.tar.xz -C "$linux" --strip-components=1 --wildcards '*/tools/*' '*/include/*' '*/scripts/*' \
    '*/arch/x86/*' '*/usr/*' '*/Makefile' '*/mm/gup_test.h' '*/lib/test_hmm_uapi.h'
  make -s -C "$linux" headers >"$directory/build.log" 2>&1 || fail "cannot make the kernel's headers: see $directory/build.log"
  cd "$linux/tools/testing/selftests"
  while read -r suite; do build_selftests "$suite"; done < <(python3 "$root/Scripts/conformance/cases.py")
  cd "$root"
  touch "$linux/.built"
fi

work=$(mktemp -d "$directory/run.XXXXXX")
chmod 755 "$work"
state=$work/rack
clean_up() { "$binaries/legoctl" rack down --state "$state" >/dev/null 2>&1 || true; }
trap clean_up EXIT
trap 'exit 130' INT TERM
"$binaries/legoctl" rack up --state "$state" --memories 2 --memory-size 2GiB --excache 1GiB >/dev/null
LEGO_RACK=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$state/rack.json")
export LEGO_RACK
say "running the cases"
python3 "$root/Scripts/conformance/run.py" --work "$work" --suites "$directory/suites" --legoctl "$binaries/legoctl" "$@"
