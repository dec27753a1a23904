# initdb, a server, pgbench with four clients, queries whose result does not depend on their order.
set -e
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
export PGDATA=$PWD/data LC_ALL=C TZ=UTC
"$bin/initdb" -A trust -U somebody >/dev/null
"$bin/pg_ctl" -w -t 120 -o "-k $PWD -c listen_addresses='' -c shared_buffers=16MB" -l log start >/dev/null
database="-h $PWD -U somebody postgres"
"$bin/pgbench" -i -s 2 -q $database >/dev/null 2>&1
"$bin/pgbench" -c 4 -j 2 -t 150 $database 2>&1 | grep -E 'actually processed|failed'
"$bin/psql" -At $database \
  -c 'select count(*), sum(hashtext(aid::text)) from pgbench_accounts' \
  -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)' \
  -c 'select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)' \
  -c 'vacuum full pgbench_accounts' -c 'create index on pgbench_accounts(bid)' \
  -c 'select bid, count(*), max(aid) from pgbench_accounts group by 1 order by 1'
# Killed as by a loss of power: the log is replayed.
kill -QUIT "$(head -1 data/postmaster.pid)"
while [ -e data/postmaster.pid ] && kill -0 "$(head -1 data/postmaster.pid)" 2>/dev/null; do sleep 0.05; done
"$bin/pg_ctl" -w -t 120 -o "-k $PWD -c listen_addresses=''" -l log start >/dev/null
"$bin/psql" -At $database -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)'
"$bin/pg_ctl" -w stop -m fast >/dev/null
"$bin/pg_controldata" | grep 'cluster state'
