"""Fills a dictionary with strings, looks half of them up in another order, and prints its seconds and a checksum.

    python3 dict.py ENTRIES
"""
import sys
import time

entries = int(sys.argv[1])
start = time.monotonic()
table = {}
for number in range(entries):
    table["key %d" % (number * 7919 % entries)] = number
total = 0
for number in range(entries // 2):
    total += table["key %d" % (number * 104729 % entries)]
print("dict %.3f s sum %016x" % (time.monotonic() - start, total * len(table)))
