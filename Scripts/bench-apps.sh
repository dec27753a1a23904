# Sourced by bench.sh: whole programs with all, half and a quarter of their working set local, in the rack and under swap.

# The programs: name, working set (MiB) and command; {} stands for the scratch directory. The working set is the peak resident
# set of the native run, measured first, but where a file is mapped, whose pages count as the program's.
app_names=(wordcount kmeans pca matrix histogram sort numpy dict)
declare -A app_command=(
  [wordcount]='{}/wordcount {}/words'
  [kmeans]='{}/kmeans 256'
  [pca]='{}/pca 256'
  [matrix]='{}/matrix 48'
  [histogram]='{}/histogram {}/words'
  [sort]='sort -S 1G -o {}/sorted/out {}/lines'
  [numpy]='/usr/bin/python3 {}/product.py 3600'
  [dict]='/usr/bin/python3 {}/dict.py 2000000'
)

prepare_apps() {
  # NumPy multiplies with whatever BLAS there is; the reference one takes seventeen times as long.
  install_packages python3-numpy libopenblas0-pthread time redis-server gawk
  local name
  for name in wordcount kmeans pca matrix histogram redisload; do compile "$name"; done
  cp "$root"/Benchmarks/{dict,product}.py "$scratch"
  "$scratch/wordcount" --make 300 >"$scratch/words"
  mkdir -m 777 "$scratch/sorted"
  awk 'BEGIN {srand(1); for (i = 0; i < 2000000; i++) printf "%08x%08x%08x line %d with some more words to carry around and to copy when it is moved\n", rand() * 2^32, rand() * 2^32, rand() * 2^32, i}' |
    head -c 209715200 >"$scratch/lines"
}

# run_app NAME RUNNER...: sets `seconds` (wall time of the program, or "killed") and `sum`.
run_app() {
  local name=$1 status=0 started ended
  shift
  rm -f "$scratch/sorted/out"
  started=$(date +%s%N)
  # shellcheck disable=SC2086 # the command is several words
  LC_ALL=C "$@" ${app_command[$name]//'{}'/$scratch} >"$scratch/out" 2>"$scratch/errors" || status=$?
  ended=$(date +%s%N)
  sum=$(awk '{print $NF}' "$scratch/out")
  seconds=$(awk '{print $2}' "$scratch/out")
  if [[ $name == sort ]]; then
    seconds=$(awk -v n=$((ended - started)) 'BEGIN {printf "%.3f", n / 1e9}')
    # What a program in the rack writes is in the rack's tree.
    local where=(env)
    [[ $* == *"$legoctl run"* ]] && where=("$legoctl" run --user root --)
    sum=$("${where[@]}" md5sum "$scratch/sorted/out" 2>/dev/null | cut -c1-16) || true
  fi
  case $status in
  0) ;;
  124) seconds='timeout' ;;
  *) seconds='killed' ;;
  esac
}

# Processor time of the processor daemon so far, in seconds.
monitor_seconds() {
  awk -v hz="$(getconf CLK_TCK)" '{print ($14 + $15) / hz}' "/proc/$(pgrep -o -f "^[^ ]*/lego-processor .*$scratch/")/stat"
}

# record APP LOCAL SYSTEM: one measured run.
record() { printf '%s,%s,%s,%s,%s,%s\n' "$1" "$2" "$3" "$seconds" "$4" "$sum" >>"$scratch/apps"; }

# serve_redis RUNNER...: starts a server under the runner, loads it, and sets `rate` and `p99` ("killed" where it did not last).
serve_redis() {
  local port=47631 attempt server line
  rate=killed p99=killed
  "$@" redis-server --port $port --save '' --appendonly no --dir "$scratch" >"$scratch/redis" 2>&1 &
  server=$!
  for attempt in {1..200}; do
    redis-cli -p $port ping 2>/dev/null | grep -q PONG && break
    kill -0 $server 2>/dev/null || return 0
    sleep 0.05
  done
  if line=$(timeout 600 "$scratch/redisload" $port 200000 200000 20 2>>"$scratch/errors"); then
    rate=$(awk '{print $2}' <<<"$line") p99=$(awk '{print $8}' <<<"$line")
  fi
  redis-cli -p $port shutdown nosave >/dev/null 2>&1 || kill $server 2>/dev/null || true
  wait $server || true
}

# A server of some 280 MB, half GET, half SET of 1 KiB by Zipf's law: requests a second and the 99th percentile of their latency.
bench_redis() {
  local i share limit rate p99 system
  say "redis, 200 000 keys of 1 KiB, 20 connections; medians of $rounds rounds"
  : >"$scratch/redis-runs"
  for ((i = 0; i < rounds; i++)); do
    serve_redis env && printf '100,native,%s,%s\n' "$rate" "$p99" >>"$scratch/redis-runs"
    for share in 100 50 25; do
      limit=$((280 * share / 100 + (share == 100 ? 16 : 0)))
      serve_redis "$legoctl" run --excache "${limit}MiB" --user root -- && printf '%s,rack,%s,%s\n' $share "$rate" "$p99" >>"$scratch/redis-runs"
      [[ $share == 100 ]] && continue
      serve_redis under_limit "$limit" && printf '%s,zram,%s,%s\n' $share "$rate" "$p99" >>"$scratch/redis-runs"
    done
  done
  printf '%6s %8s %14s %10s\n' local system 'requests/s' 'p99 us'
  echo 'local_percent,system,requests_per_second,p99_us,rounds' >"$root/docs/bench/redis.csv"
  for system in 100,native 100,rack 50,zram 50,rack 25,zram 25,rack; do
    mapfile -t rates < <(grep "^$system," "$scratch/redis-runs" | cut -d, -f3)
    mapfile -t tails < <(grep "^$system," "$scratch/redis-runs" | cut -d, -f4)
    rate=$(median "${rates[@]}") p99=$(median "${tails[@]}")
    echo "$system,$rate,$p99,$rounds" >>"$root/docs/bench/redis.csv"
    printf '%5s%% %8s %14s %10s\n' "${system%,*}" "${system#*,}" "$rate" "$p99"
  done
}

# microseconds COMMAND...: what it takes.
microseconds() {
  local started
  started=$(date +%s%N)
  "$@" >/dev/null || fail "'$*' failed"
  echo $((($(date +%s%N) - started) / 1000))
}

# start_row NAME RUNS COMMAND...: natively and in the rack, by turns.
start_row() {
  local name=$1 runs=$2 i native=() rack=() n r
  shift 2
  for ((i = 0; i < runs; i++)); do
    native+=("$(microseconds "$@")")
    rack+=("$(microseconds "$legoctl" run --user root -- "$@")")
  done
  n=$(median "${native[@]}") r=$(median "${rack[@]}")
  awk -v name="$name" -v n="$n" -v r="$r" -v runs="$runs" \
    'BEGIN {printf "%-24s %5d %9.1f %9.1f %9.1f %10.2f\n", name, runs, n / 1e3, r / 1e3, (r - n) / 1e3, r / n}'
}

# What starts of programs add: one, many of a shell, a compiler's, a build's.
bench_start() {
  [[ $rack_is_up ]] || start_rack
  local name
  {
    echo 'all: kmeans.o pca.o matrix.o histogram.o'
    for name in kmeans pca matrix histogram; do
      printf '%s.o: %s\n\tgcc -O1 -c -o %s $<\n' "$name" "$root/Benchmarks/$name.c" "$scratch/$name.o"
    done
  } >"$scratch/Makefile"
  say "starts of programs, milliseconds, medians; native and rack by turns"
  printf '%-24s %5s %9s %9s %9s %10s\n' command runs native rack added rack/native
  start_row /bin/true 21 /bin/true
  start_row "100 times in a shell" 5 sh -c 'for i in $(seq 100); do /bin/true; done'
  start_row "gcc -O1 -c" 7 gcc -O1 -c -o "$scratch/kmeans.o" "$root/Benchmarks/kmeans.c"
  start_row "make -j2 of four files" 5 make -s -B -j2 -f "$scratch/Makefile"
  start_row "python3 -c 'import json'" 7 /usr/bin/python3 -c 'import json'
}

bench_apps() {
  local name i share working_set limit cpu seconds sum
  say "programs with 100, 50 and 25 % of their working set local; medians of $rounds rounds; monitors sleep when idle"
  prepare_apps
  start_swap
  start_rack 4GiB
  : >"$scratch/apps"
  for name in ${APPS:-${app_names[*]}}; do
    run_app "$name" /usr/bin/time -o "$scratch/rss" -f %M
    working_set=$(($(tail -1 "$scratch/rss") / 1024))
    for ((i = 0; i < rounds; i++)); do
      run_app "$name" env
      record "$name" 100 native 0
      for share in 100 50 25; do
        limit=$((working_set * share / 100 + (share == 100 ? 16 : 0)))
        cpu=$(monitor_seconds)
        run_app "$name" timeout 900 "$legoctl" run --excache "${limit}MiB" --user root --env LC_ALL=C --
        record "$name" $share rack "$(awk -v a="$cpu" -v b="$(monitor_seconds)" 'BEGIN {printf "%.2f", b - a}')"
        [[ $share == 100 ]] && continue
        run_app "$name" under_limit "$limit" timeout 900
        record "$name" $share zram 0
      done
    done
    apps_table "$name" "$working_set"
  done
  mkdir -p "$root/docs/bench"
  if [[ ! ${APPS:-} ]]; then
    apps_medians <"$scratch/apps" >"$root/docs/bench/apps.csv"
    gawk -f "$root/Benchmarks/bars.awk" "$root/docs/bench/apps.csv" >"$root/docs/bench/apps.svg"
    bench_redis
    bench_start
  fi
}

# From single runs, a line each of program, share, system: median seconds (or "killed"), processor time of the monitor, checksum state.
apps_medians() {
  gawk -F , '
    {
      key = $1 "," $2 "," $3
      if (!(key in count)) order[++keys] = key
      n = ++count[key]; value[key, n] = $4 ~ /^[0-9.]+$/ ? $4 + 0 : 1e9; word[key] = $4; cpu[key] += $5
      if ($4 ~ /^[0-9.]+$/) { if (!($1 in sums)) sums[$1] = $6; else if (sums[$1] != $6) differs[key] = 1 }
    }
    END {
      print "program,local_percent,system,seconds,monitor_seconds,result,rounds"
      for (k = 1; k <= keys; k++) {
        key = order[k]; n = count[key]
        for (a = 2; a <= n; a++)
          for (b = a; b > 1 && value[key, b] < value[key, b - 1]; b--) { t = value[key, b]; value[key, b] = value[key, b - 1]; value[key, b - 1] = t }
        median = value[key, int((n + 1) / 2)]
        printf "%s,%s,%.2f,%s,%d\n", key, median == 1e9 ? "killed" : sprintf("%.3f", median), cpu[key] / n, differs[key] ? "DIFFERS" : "equal", n
      }
    }'
}

apps_table() {
  [[ ${heading_is_printed:-} ]] || printf '%-10s %6s %6s %10s %10s %10s %12s %10s %12s  %s\n' program 'ws MiB' 'local' 'native s' 'zram s' 'rack s' rack/native rack/zram 'monitor s' result
  heading_is_printed=1
  grep "^$1," "$scratch/apps" | apps_medians | gawk -F , -v ws="$2" '
    NR > 1 {s[$3, $2] = $4; cpu[$3, $2] = $5; if ($6 != "equal") bad = 1; name = $1}
    function part(a, b) { return a + 0 > 0 && b + 0 > 0 ? sprintf("%.2f", a / b) : "-" }
    END {
      split("100 50 25", shares, " ")
      for (i = 1; i <= 3; i++) {
        l = shares[i]
        printf "%-10s %6d %5d%% %10s %10s %10s %12s %10s %12s  %s\n", name, ws, l, s["native", 100], l == 100 ? "-" : s["zram", l], s["rack", l], part(s["rack", l], s["native", 100]), l == 100 ? "-" : part(s["rack", l], s["zram", l]), cpu["rack", l], bad ? "DIFFERS" : "equal"
      }
    }'
}
