"""A share of the work for each core."""

import threading

import pytest
import torch

from dualasr.parallel import one_ahead, worker_pool


def test_operations_take_one_core_and_the_count_comes_back():
    before = torch.get_num_threads()
    with worker_pool() as (pool, count):
        assert count == before
        assert torch.get_num_threads() == 1
        assert set(pool.map(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), worker_pool() as (pool, _):
        list(pool.map(lambda x: 1 // x, [1, 0]))
    assert torch.get_num_threads() == before


def test_the_next_item_is_under_way_while_one_is_worked_on():
    begun = [threading.Event() for _ in range(4)]

    def square(i: int) -> int:
        begun[i].set()
        return i * i

    seen = []
    with worker_pool() as (pool, _):
        for i, result in one_ahead(pool, square, range(4)):
            assert i == 3 or begun[i + 1].wait(10)
            assert not any(event.is_set() for event in begun[i + 2 :])
            seen.append((i, result))
    assert seen == [(i, i * i) for i in range(4)]
