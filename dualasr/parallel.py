"""One share of the work for each core.

Small matrices divide badly among the threads of one operation: here a step of a pack took 0.96 s on
one core and 0.86 s on two. So on a CPU each core takes whole clips instead, and its operations run
on that core alone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def worker_pool() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A pool of as many threads as torch may use, and their number. Operations take one core each,
    the caller's too.

    At the end torch's number of threads is what it was.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)


def one_ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable) -> Iterator[tuple]:
    """Each item with `function` of it, in order, while the pool is at work on the next item's."""
    under_way: deque = deque()
    for item in items:
        under_way.append((item, pool.submit(function, item)))
        if len(under_way) == 2:
            ready, future = under_way.popleft()
            yield ready, future.result()
    for ready, future in under_way:
        yield ready, future.result()
