/var/cache/lego-test/pytorch/bin/python3 "$SOURCES/tensors.py"
