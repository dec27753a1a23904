set -e
cp "$SOURCES/Collector.java" .
javac Collector.java
for collector in Serial Parallel G1; do java -Xmx160m -XX:+Use${collector}GC Collector; done
