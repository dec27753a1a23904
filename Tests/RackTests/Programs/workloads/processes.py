# multiprocessing: pools, queues, locks on shared memory, every start method.
import hashlib
import multiprocessing as mp
import random
import sys
from concurrent.futures import ProcessPoolExecutor

scale = int(sys.argv[1])


def work(seed):
    source = random.Random(seed)
    numbers = [source.random() for _ in range(100000)]
    numbers.sort()
    return hashlib.md5(repr(numbers[::1000]).encode()).hexdigest()


def produce(queue, count):
    for i in range(count):
        queue.put((i, "x" * 1000))
    queue.put(None)


def increment(array, by):
    for i in range(len(array)):
        with array.get_lock():
            array[i] += by


def all_of(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    big = [i * 3 for i in range(1000000)]
    with mp.Pool(4) as pool:
        print(pool.map(work, range(4 * scale)))
    queue = mp.Queue()
    producers = [mp.Process(target=produce, args=(queue, 300 * scale)) for _ in range(3)]
    for process in producers:
        process.start()
    ended = total = 0
    while ended < 3:
        item = queue.get()
        if item is None:
            ended += 1
        else:
            total += item[0] + len(item[1])
    for process in producers:
        process.join()
    print(total, sum(big))
    array = mp.Array("i", 300)
    print(all_of([mp.Process(target=increment, args=(array, by)) for by in range(4)]), sum(array))
    print(all_of([mp.Process(target=sys.exit, args=(code,)) for code in (0, 3)]))
    for method in ("spawn", "forkserver"):
        with mp.get_context(method).Pool(2) as pool:
            print(pool.map(abs, range(-5, 5)))
    with ProcessPoolExecutor(3) as executor:
        print(list(executor.map(pow, range(10), range(10))))
