set -e
rustc -O -o threads "$SOURCES/threads.rs"
./threads 2>/dev/null
