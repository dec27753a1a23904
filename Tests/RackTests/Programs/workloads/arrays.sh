python3 "$SOURCES/arrays.py"
