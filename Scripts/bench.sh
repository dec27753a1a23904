#!/usr/bin/env bash
# Measures the rack against native Linux and against Linux swap, all in one run on this machine, and prints ratios.
#
#   sudo Scripts/bench.sh memory     arrays of 512 MiB with 25 % of it local: native, swap on zram, a bare pager in
#                                  C (Benchmarks/pager.h), the rack
#   sudo Scripts/bench.sh apps       whole programs with all, half and a quarter of their working set local: native, swap on
#                                  zram, the rack; writes docs/bench/apps.csv
#   sudo Scripts/bench.sh start      starts of programs: one, many of a shell, a compiler, make
#   sudo Scripts/bench.sh trap       a trapped mmap, an untrapped system call
#   sudo Scripts/bench.sh idle       processor time of idle daemons
#   sudo Scripts/bench.sh fabric     Lite against the bare device, the bare device against memcpy, TCP, libfabric and UCX,
#                                  and link models against what they say, between two processes of this host; writes
#                                  docs/bench/fabric.csv and fabric.svg
#   sudo Scripts/bench.sh storage    the storage component's mounted tree against the native one
#   sudo Scripts/bench.sh all        all of them
#
# Environment: ROUNDS (default 3; medians are printed), MEBIBYTES (default 512), APPS (names, default all of them).
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/bench-apps.sh"
rounds=${ROUNDS:-3} mebibytes=${MEBIBYTES:-512}
what=${1:-all}
case $what in
memory | apps | start | trap | idle | fabric | storage | all) ;;
*) fail "'$what' is not a benchmark; there are: memory, apps, start, trap, idle, fabric, storage, all" ;;
esac

require_root
install_build_packages
install_packages util-linux kmod
[[ ${LEGO_SKIP_BUILD:-} ]] || build
legoctl=$binaries/legoctl

scratch=$(mktemp -d /var/tmp/lego-bench.XXXXXX)
chmod 755 "$scratch"
group=/sys/fs/cgroup/memory/lego-bench
rack_is_up='' swap_is_on=''

stop_rack() {
  if [[ $rack_is_up ]]; then "$legoctl" rack down --state "$scratch/state" >/dev/null || true; fi
  rack_is_up=''
}

clean_up() {
  stop_rack
  if [[ $swap_is_on ]]; then
    swapoff /dev/zram0 && echo 1 >/sys/block/zram0/reset
    rmdir "$group" || true
  fi
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# compile NAME [PROGRAM OPTION...]
compile() { gcc -O2 -o "$scratch/${2:-$1}" "${@:3}" "$root/Benchmarks/$1.c" -lm -lpthread; }

# start_rack [SIZE]: a new rack, with memory components of that size.
start_rack() {
  stop_rack
  "$legoctl" rack up --state "$scratch/state" --memories 2 --memory-size "${1:-2GiB}" >"$scratch/up" || fail "no rack: $(cat "$scratch/up")"
  rack_is_up=1
  # Whoever else starts a rack meanwhile.
  LEGO_RACK=$(awk '/^the rack is up at/ {print $NF}' "$scratch/up")
  export LEGO_RACK
}

start_swap() {
  [[ $swap_is_on ]] && return
  grep -q /dev/zram0 /proc/swaps && fail "/dev/zram0 is in use as swap already"
  modprobe zram 2>/dev/null || true
  [[ -e /sys/block/zram0 ]] || fail "no /dev/zram0: the comparison with swap needs the zram module"
  [[ -d /sys/fs/cgroup/memory ]] || fail "no memory controller of cgroup version 1 at /sys/fs/cgroup/memory"
  echo 1 >/sys/block/zram0/reset
  echo $((mebibytes * 3))M >/sys/block/zram0/disksize
  mkswap /dev/zram0 >/dev/null
  swapon -p 100 /dev/zram0
  swap_is_on=1
  mkdir -p "$group"
}

# under_limit MEBIBYTES COMMAND...: in a memory cgroup of that size, the rest on swap.
under_limit() {
  echo -1 >"$group/memory.limit_in_bytes"
  echo 0 >"$group/memory.force_empty" 2>/dev/null || true
  echo $(($1 << 20)) >"$group/memory.limit_in_bytes"
  shift
  (echo $BASHPID >"$group/cgroup.procs" && exec "$@")
}

in_rack() { "$legoctl" run --excache "$local_mebibytes"MiB --user root -- "$@"; }

bench_memory() {
  compile array
  compile array pager -DPAGER
  local local_mebibytes=$((mebibytes / 4)) pattern i line
  say "array of $mebibytes MiB, $local_mebibytes MiB local (25 %), $rounds rounds, medians; pollers sleep when idle"
  start_swap
  start_rack
  printf '%-17s %10s %10s %10s %10s %12s %10s %10s  %s\n' \
    pattern 'native ns' 'zram ns' 'pager ns' 'rack ns' rack/native rack/zram rack/pager result
  # Pattern and threads; the bare pager serves one thread only.
  for pattern in sequential-read sequential-write uniform-read uniform-write zipf-read zipf-write 'uniform-write 2' 'uniform-write 4'; do
    local native=() zram=() pager=() rack=() sums=() threads=${pattern#* }
    [[ $threads == "$pattern" ]] && threads=''
    local words=("${pattern% *}" "$mebibytes" $threads)
    for ((i = 0; i < rounds; i++)); do
      line=$("$scratch/array" "${words[@]}") && native+=("$(awk '{print $2}' <<<"$line")") && sums+=("${line##* }")
      line=$(under_limit "$local_mebibytes" "$scratch/array" "${words[@]}") && zram+=("$(awk '{print $2}' <<<"$line")") && sums+=("${line##* }")
      if [[ ! $threads ]]; then
        line=$("$scratch/pager" "${words[@]}") && pager+=("$(awk '{print $2}' <<<"$line")") && sums+=("${line##* }")
      fi
      line=$(in_rack "$scratch/array" "${words[@]}") && rack+=("$(awk '{print $2}' <<<"$line")") && sums+=("${line##* }")
    done
    local n z p=- r to_pager=-
    n=$(median "${native[@]}") z=$(median "${zram[@]}") r=$(median "${rack[@]}")
    ((${#pager[@]})) && p=$(median "${pager[@]}") && to_pager=$(ratio "$r" "$p")
    printf '%-17s %10s %10s %10s %10s %12s %10s %10s  %s\n' "${words[0]}${threads:+ x$threads}" "$n" "$z" "$p" "$r" \
      "$(ratio "$r" "$n")" "$(ratio "$r" "$z")" "$to_pager" \
      "$([[ $(printf '%s\n' "${sums[@]}" | sort -u | wc -l) == 1 ]] && echo equal || echo DIFFERS)"
  done
}

bench_trap() {
  compile trap
  local local_mebibytes=64 i native=() rack=() field name
  [[ $rack_is_up ]] || start_rack
  say "system calls, microseconds, medians of $rounds runs of 2001"
  for ((i = 0; i < rounds; i++)); do
    native+=("$("$scratch/trap")") && rack+=("$(in_rack "$scratch/trap")")
  done
  field=2
  for name in mmap munmap getppid; do
    local n r
    n=$(median $(printf '%s\n' "${native[@]}" | awk -v f=$field '{print $f}'))
    r=$(median $(printf '%s\n' "${rack[@]}" | awk -v f=$field '{print $f}'))
    printf '%-10s native %8s  rack %8s  added %8s\n' $name "$n" "$r" "$(awk -v a="$r" -v b="$n" 'BEGIN {printf "%.3f", a - b}')"
    field=$((field + 2))
  done
}

bench_idle() {
  [[ $rack_is_up ]] || start_rack
  say "processor time of the idle daemons over 10 s, in per cent of one core"
  local pid ticks
  declare -A before
  for pid in $(pgrep -f "^[^ ]*/lego-(manager|memory|storage|processor) .*"); do
    before[$pid]=$(awk '{print $14 + $15}' "/proc/$pid/stat")
  done
  sleep 10
  for pid in "${!before[@]}"; do
    ticks=$(awk '{print $14 + $15}' "/proc/$pid/stat")
    printf '%-16s %5s %%\n' "$(cat "/proc/$pid/comm")" "$(awk -v t=$((ticks - before[$pid])) -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.1f", t / hz * 10}')"
  done
}

# From lines "NAME<tab>VALUE" of several runs, the median of each name's values, in the order of the first run.
medians() {
  awk -F '\t' '!($1 in count) {order[++names] = $1} {value[$1, ++count[$1]] = $2}
    END {
      for (i = 1; i <= names; i++) {
        name = order[i]; n = count[name]
        for (a = 2; a <= n; a++)
          for (b = a; b > 1 && value[name, b] + 0 < value[name, b - 1] + 0; b--) {
            t = value[name, b]; value[name, b] = value[name, b - 1]; value[name, b - 1] = t
          }
        printf "%s\t%s\n", name, value[name, int((n + 1) / 2)]
      }
    }'
}

bench_fabric() {
  local i
  say "Lite against the bare device, two processes of this host; medians of $rounds runs, in us; both poll unless it says otherwise"
  for ((i = 0; i < rounds; i++)); do
    timeout 300 "$binaries/lego-bench-fabric" >"$scratch/fabric" || fail "lego-bench-fabric failed: $(cat "$scratch/fabric")"
    sed -nE 's/^(.*): median ([0-9.]+) us.*/\1\t\2/p' "$scratch/fabric" >>"$scratch/fabric-all"
  done
  printf '%-46s %10s %10s %12s\n' operation 'Lite' 'bare' 'Lite/bare'
  medians <"$scratch/fabric-all" | awk -F '\t' '
    $1 ~ /, bare device$/ {sub(/, bare device$/, "", $1); bare[$1] = $2; next}
    {sub(/, Lite$/, "", $1)
      if ($1 in bare) printf "%-46s %10s %10s %12.2f\n", $1, $2, bare[$1], $2 / bare[$1]
      else printf "%-46s %10s\n", $1, $2}'
}

# as_server COMMAND...: starts the other end of a comparison, and answers when it listens on $port.
as_server() {
  local attempt
  timeout 60 "$@" >"$scratch/server" 2>&1 &
  server=$!
  for attempt in {1..100}; do
    ss -Hltn "sport = :$port" | grep -q . && return 0
    kill -0 "$server" 2>/dev/null || return 1
    sleep 0.05
  done
  return 1
}

end_server() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
}

# figure SYSTEM PATH OPERATION BYTES VALUE UNIT: one measured value; nothing where the system gave none.
figure() { [[ $5 =~ ^[0-9.]+$ ]] && printf '%s,%s,%s,%s,%s,%s\n' "$@" >>"$scratch/figures" || true; }

# libfabric PATH PROVIDER ENDPOINT BYTES: half a round trip of messages.
libfabric() {
  local port=47592 server value=''
  if as_server fi_pingpong -p "$2" -e "$3" -I 2000 -S "$4"; then
    value=$(timeout 60 fi_pingpong -p "$2" -e "$3" -I 2000 -S "$4" 127.0.0.1 2>/dev/null | awk 'NR > 1 && $2 == "2k" {print $7}') || true
  fi
  end_server
  figure libfabric "$1" message "$4" "$value" us
}

# ucx PATH TRANSPORTS TEST BYTES OPERATION: a test of ucx_perftest, by polling.
ucx() {
  local port=13399 server line='' rounds=20000
  [[ $1 == tcp || $4 -gt 4096 ]] && rounds=4000
  if as_server env UCX_TLS="$2" ucx_perftest -p $port; then
    # A latency has one operation under way; a rate, as many as the test's default.
    local options=(-n $rounds -w $((rounds / 10)) -O 1)
    [[ $3 == tag_bw ]] && options=(-n $((rounds * 5)) -w $rounds)
    line=$(UCX_TLS=$2 timeout 60 ucx_perftest 127.0.0.1 -p $port -t "$3" -s "$4" "${options[@]}" -f -v 2>/dev/null | tail -1) || true
  fi
  end_server
  case $3 in
  tag_lat) figure UCX "$1" "$5" "$4" "$(cut -d, -f2 <<<"$line")" us ;;
  ucp_get) figure UCX "$1" "$5" "$4" "$(cut -d, -f4 <<<"$line")" us ;;
  tag_bw) figure UCX "$1" "$5" "$4" "$(cut -d, -f8 <<<"$line" | awk '/^[0-9.]+$/ {printf "%.4f", $1 / 1e6}')" M/s ;;
  esac
}

# From the figures of all rounds, one line each with median, least and most.
summarize() {
  awk -F , '
    {key = $1 "," $2 "," $3 "," $4; if (!(key in count)) {order[++keys] = key; unit[key] = $6}; value[key, ++count[key]] = $5}
    END {
      print "system,path,operation,bytes,median,least,most,unit,rounds"
      for (k = 1; k <= keys; k++) {
        key = order[k]; n = count[key]
        for (a = 2; a <= n; a++)
          for (b = a; b > 1 && value[key, b] + 0 < value[key, b - 1] + 0; b--) {
            t = value[key, b]; value[key, b] = value[key, b - 1]; value[key, b - 1] = t
          }
        printf "%s,%s,%s,%s,%s,%d\n", key, value[key, int((n + 1) / 2)], value[key, 1], value[key, n], unit[key], n
      }
    }'
}

bench_devices() {
  local i bytes row
  install_packages libfabric-bin ucx-utils iproute2
  compile tcpping
  say "the bare device against memcpy, bare TCP, libfabric $(dpkg-query -W -f='${Version}' libfabric-bin) and UCX $(dpkg-query -W -f='${Version}' ucx-utils); medians of $rounds rounds (least to most)"
  : >"$scratch/figures"
  for ((i = 0; i < rounds; i++)); do
    timeout 300 "$binaries/lego-bench-fabric" device >"$scratch/device" || fail "lego-bench-fabric device failed: $(cat "$scratch/device")"
    sed 's/^/lego,/' "$scratch/device" >>"$scratch/figures"
    while read -r bytes row; do figure C tcp read "$bytes" "$row" us; done < <(timeout 60 "$scratch/tcpping" 8 64 4096 65536 1048576)
    for bytes in 8 64 4096 65536; do
      libfabric tcp tcp msg $bytes
      libfabric shared-memory shm rdm $bytes
      for row in 'tcp tcp,self' 'shared-memory posix,cma,self'; do
        ucx $row tag_lat $bytes message
        ucx $row ucp_get $bytes 'read of one place'
        ucx $row tag_bw $bytes 'message rate'
      done
    done
  done
  mkdir -p "$root/docs/bench"
  summarize <"$scratch/figures" >"$root/docs/bench/fabric.csv"
  awk -f "$root/Benchmarks/plot.awk" "$root/docs/bench/fabric.csv" >"$root/docs/bench/fabric.svg"
  compare <"$root/docs/bench/fabric.csv"
}

# The device beside each other system at the same operation and size. A ratio above 1: the device is ahead.
compare() {
  awk -F , '
    NR == 1 {next}
    {value[$1, $2, $3, $4] = $5; span[$1, $2, $3, $4] = $6 "-" $7}
    $1 == "lego" && $2 != "memcpy" {rows[++n] = $2 "," $3 "," $4 "," $8}
    function cell(who, path, op, bytes, mine, unit,   v) {
      if (!((who, path, op, bytes) in value)) return "-"
      v = value[who, path, op, bytes]
      return sprintf("%s (%.2f)", v, unit == "us" ? v / mine : mine / v)
    }
    END {
      printf "%-14s %-17s %8s %5s %10s %-18s %16s %16s %16s\n", "path", "operation", "bytes", "unit", "device", "", "memcpy or TCP", "libfabric", "UCX"
      for (i = 1; i <= n; i++) {
        split(rows[i], r, ",")
        mine = value["lego", r[1], r[2], r[3]]
        base = r[1] == "tcp" ? cell("C", "tcp", "read", r[3], mine, r[4]) : cell("lego", "memcpy", "copy", r[3], mine, r[4])
        if (r[2] != "read" && r[2] != "write") base = "-"
        printf "%-14s %-17s %8s %5s %10s %-18s %16s %16s %16s\n", r[1], r[2], r[3], r[4], mine, "(" span["lego", r[1], r[2], r[3]] ")", base, cell("libfabric", r[1], r[2], r[3], mine, r[4]), cell("UCX", r[1], r[2], r[3], mine, r[4])
      }
      copy = value["lego", "memcpy", "copy", 4096]
      printf "READ of 4 KiB on one host: %s us; 1.3 memcpy + 0.3 us: %.2f us\n", value["lego", "shared-memory", "read", 4096], 1.3 * copy + 0.3
      printf "READ of 4 KiB over TCP / bare TCP: %.2f\n", value["lego", "tcp", "read", 4096] / value["C", "tcp", "read", 4096]
    }'
}

bench_models() {
  say "link models: READs of 64 B, and of 1 MiB with eight under way, against what each model says"
  timeout 60 "$binaries/lego-bench-fabric" models || fail "lego-bench-fabric models failed"
}

bench_storage() {
  local i
  say "the mounted tree against the native one, on $(findmnt -n -o FSTYPE -T "$scratch"); medians of $rounds runs; ratio above 1: the mounted tree is slower"
  mkdir "$scratch/tree"
  for ((i = 0; i < rounds; i++)); do
    timeout 300 "$binaries/lego-bench-storage" "$scratch/tree" >"$scratch/storage" || fail "lego-bench-storage failed: $(cat "$scratch/storage")"
    # Columns of fixed width: name, native with its unit, mounted, ratio.
    awk 'NR > 1 {name = substr($0, 1, 34); sub(/ +$/, "", name)
      native = substr($0, 35, 12); mounted = substr($0, 47, 12)
      unit = native ~ /MB/ ? "MB/s" : "us"
      printf "%s, %s|native\t%s\n%s, %s|mounted\t%s\n", name, unit, native + 0, name, unit, mounted + 0}' \
      "$scratch/storage" >>"$scratch/storage-all"
  done
  printf '%-46s %10s %10s %12s\n' work 'native' 'mounted' 'ratio'
  medians <"$scratch/storage-all" | awk -F '[|\t]' '
    $2 == "native" {native = $3; next}
    {printf "%-46s %10s %10s %12.2f\n", $1, native, $3, $1 ~ /MB\/s$/ ? native / $3 : $3 / native}'
}

[[ $what == memory || $what == all ]] && bench_memory
[[ $what == apps || $what == all ]] && bench_apps
[[ $what == start ]] && bench_start
[[ $what == trap || $what == all ]] && bench_trap
[[ $what == idle || $what == all ]] && bench_idle
[[ $what == fabric || $what == all ]] && bench_fabric && bench_devices && bench_models
[[ $what == storage || $what == all ]] && bench_storage
exit 0
