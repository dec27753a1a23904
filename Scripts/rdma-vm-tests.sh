#!/usr/bin/env bash
# For the inside of rdma-vm.sh: everything that is tested over real verbs, with the release build of the tests.
#
#   Scripts/rdma-vm.sh Scripts/rdma-vm-tests.sh
source "$(dirname "$0")/lib.sh"
export SWIFT_BACKTRACE=enable=no
tests=("$binaries"/*.xctest)
[[ -x ${tests[0]} ]] || fail "there are no tests in $binaries: build them with 'Scripts/test.sh'"

# run PATTERN [SKIPPED]: the tests whose names match.
run() {
  "${tests[0]}" --testing-library swift-testing --no-parallel --filter "$1" ${2:+--skip "$2"} 2>&1 |
    { grep -vE '◇|↳.*(Testing Library|Target Platform)' || true; }
}

bash "$root/Scripts/rdma-vm-rack.sh"
say "the devices' conformance checks"
run '^FabricTests\.' 'AdapterEventTests|AdapterRemovalTests'
say "LITE's programs"
run '^LiteClientTests\.' 'aThousand|everyFunctionFromC|daemonsServeAProgram|aStoppedNode|whatIsUnderWay|whoEndsBefore'
# In processes of their own: one removes an adapter, which is put back, and one takes an adapter's port down, after which
# Soft-RoCE connects no more.
run 'AdapterRemovalTests'
adapter=${LEGO_TEST_VERBS_REMOVE##* }
deadline=$((SECONDS + 60))
while rdma link show | grep -q "$adapter/"; do
  ((SECONDS < deadline)) || fail "the adapter $adapter is still there a minute after its last user"
  sleep 1
done
$LEGO_TEST_VERBS_ADD || fail "the adapter $adapter cannot be added again"
run 'ConformanceTests.ordering'
run 'AdapterEventTests'
