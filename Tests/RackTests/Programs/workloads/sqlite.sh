# Four writers and a reader of one database in WAL mode.
set -e
sqlite3 a.db 'pragma journal_mode=wal; create table t(k integer primary key, w int, v text); create index i on t(v);'
writer() {
  for round in $(seq 1 "$2"); do
    sqlite3 -cmd '.timeout 60000' a.db "insert into t(w, v)
      with recursive c(x) as (select 1 union all select x + 1 from c where x < 300)
      select $1, hex(x * 7919 % 10007) || '$round' from c;"
  done
}
for number in 1 2 3 4; do writer "$number" "$1" & done
for round in 1 2 3; do sqlite3 -cmd '.timeout 60000' a.db 'select count(*) >= 0 from t'; done
wait
sqlite3 a.db 'pragma cache_size=-65536; pragma wal_checkpoint(truncate); select w, count(*), sum(length(v)) from t group by w;
  pragma integrity_check;
  create table u as with recursive c(x) as (select 1 union all select x + 1 from c where x < 8) select v || w || x as y from t, c;
  select count(distinct y), sum(length(y)) from u; vacuum; pragma integrity_check;'
