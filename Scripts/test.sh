#!/usr/bin/env bash
# Installs what is missing, builds everything with warnings as errors, and runs all tests.
#
#   sudo Scripts/test.sh                     what continuous integration runs
#   sudo Scripts/test.sh --all               the rack tests at full size too (some ten minutes more), and
#                                            Scripts/conformance.sh (some two hours more)
#   sudo Scripts/test.sh --filter PATTERN    only the tests whose names match
#   sudo Scripts/test.sh --sanitize          the layers below the services under ThreadSanitizer, built in .build-tsan
#
# The closing line counts passed, failed and skipped tests; the exit status is 0 only when none failed and some ran.
source "$(dirname "$0")/lib.sh"
filter=()
sanitize=''
while (($#)); do
  case $1 in
  --all) export LEGO_TEST_ALL=1 ;;
  --filter)
    [[ ${2:-} ]] || fail "--filter needs a pattern"
    filter=(--filter "$2")
    shift
    ;;
  --sanitize) sanitize=1 ;;
  *) fail "'$1' is not an option; there are: --all, --filter PATTERN, --sanitize" ;;
  esac
  shift
done

require_root
install_build_packages
# What the tests run inside racks and compare with native runs.
install_packages python3 perl gcc libc6-dev redis-tools busybox-static procps util-linux iproute2 e2fsprogs mount \
  make sqlite3 git gdb strace less vim-tiny
if [[ ${LEGO_TEST_ALL:-} ]]; then
  install_packages postgresql default-jdk-headless nodejs golang-go rustc ffmpeg python3-numpy python3-scipy python3-sklearn \
    python3-venv
  # Some 5 GB; Programs/workloads/tensors.sh looks for it there.
  pytorch=/var/cache/lego-test/pytorch
  if ! "$pytorch/bin/python3" -c 'import torch' 2>/dev/null; then
    say "PyTorch from PyPI"
    /usr/bin/python3 -m venv "$pytorch" && "$pytorch/bin/pip" install -q torch numpy || fail "PyTorch cannot be installed"
  fi
fi

say "style"
swift format lint --strict --recursive "$root/Sources" "$root/Tests" "$root/Package.swift" || fail "'swift format' finds fault"

options=(--package-path "$root")
if [[ $sanitize ]]; then
  export LEGO_TEST_TARGETS="WireTests FabricTests LiteTests LiteClientTests MemoryTests"
  options+=(--scratch-path "$root/.build-tsan" -c debug --sanitize thread)
  say "building (debug, ThreadSanitizer): $LEGO_TEST_TARGETS"
  swift build "${options[@]}" --product legoPackageTests 2>&1 | { grep -vE "^\[[0-9]+/[0-9]+\] " || true; } || fail "the build failed"
  clang -O1 -shared -fPIC -o "$root/.build-tsan/tsan-mutex.so" "$root/Scripts/tsan-mutex.c" -ldl || fail "clang failed"
  # A race is printed when it is found, and fails the test process at its end.
  export TSAN_OPTIONS="exitcode=66 suppressions=$root/Scripts/tsan-suppressions.txt"
else
  options+=(-c "$configuration" -Xswiftc -enable-testing)
  build tests
fi
export LEGO_PRODUCTS=$binaries
# A run takes some ten minutes.
seconds=2400
[[ ${LEGO_TEST_ALL:-} || $sanitize ]] && seconds=7200
log=$(mktemp)
trap 'rm -f "$log" "$log.skipped"' EXIT
say "testing"
status=0
within "$seconds" env LD_PRELOAD=${sanitize:+$root/.build-tsan/tsan-mutex.so} \
  swift test "${options[@]}" --skip-build --disable-xctest --no-parallel "${filter[@]}" 2>&1 |
  tee "$log" | { grep --line-buffered -vE '^◇ (Test|Suite|Passing)|^✔ (Test|Passing) ' || true; } || status=$?
count() { grep -E "$1" "$log" | grep -cvE '^. Test run with ' || true; }
passed=$(count '^✔ Test .* passed after ') failed=$(count '^✘ Test .* failed after ')
# A function that is only ever run by another test, as a process of its own, is no test here.
grep -E '^➜ Test .* skipped' "$log" | grep -v 'runs as a child' >"$log.skipped" || true
skipped=$(wc -l <"$log.skipped")
cat "$log.skipped"
((status == 0 && passed > 0)) || ((failed > 0)) || failed=1

# The same devices and a whole rack over real RDMA verbs: one step of the count. Everything before it has passed, so
# that what fails here is the verbs' fault.
if ((failed == 0)) && [[ ${#filter[@]} == 0 && ! $sanitize ]]; then
  say "real RDMA verbs, on an emulated machine"
  status=0
  LEGO_VM_SECONDS=1200 "$root/Scripts/rdma-vm.sh" "$root/Scripts/rdma-vm-tests.sh" 2>&1 | tee "$log" |
    { grep --line-buffered -vE '^.{0,9}✔' || true; } || status=$?
  case $status in
  0) passed=$((passed + 1)) ;;
  77) skipped=$((skipped + 1)) ;;
  *) failed=$((failed + 1)) ;;
  esac
fi
# Public system-call suites, natively and in a rack: one step of the count.
if ((failed == 0)) && [[ ${LEGO_TEST_ALL:-} && ${#filter[@]} == 0 && ! $sanitize ]]; then
  say "conformance"
  if LEGO_SKIP_BUILD=1 "$root/Scripts/conformance.sh"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
