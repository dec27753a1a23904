python3 "$SOURCES/processes.py" "$1"
