node --max-old-space-size=256 "$SOURCES/workers.js"
