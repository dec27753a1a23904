"""Multiplies two square NumPy matrices of doubles, and prints its seconds and a checksum.

    python3 product.py SIDE
"""
import sys
import time

import numpy

side = int(sys.argv[1])
numbers = numpy.random.default_rng(1)
left = numbers.integers(0, 100, (side, side)).astype(float)
right = numbers.integers(0, 100, (side, side)).astype(float)
start = time.monotonic()
result = left @ right
total = int(result.sum())  # whole numbers below 2^53: exact in whatever order they are added
print("numpy %.3f s sum %016x" % (time.monotonic() - start, total))
