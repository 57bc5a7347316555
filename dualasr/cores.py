"""One share of the work for each core.

Small matrices divide badly among the threads of one operation: here a step of a pack took 0.96 s on one core and 0.86 s
on two. So on a CPU each core takes whole clips instead, and its operations run on that core alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def core_pool() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A pool of as many threads as torch may use, one core each, and their number; torch's own count is put back."""
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool, count
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)
