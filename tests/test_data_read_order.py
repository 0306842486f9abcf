"""The place in a stream does not depend on how many worker processes read it."""

from contextlib import ExitStack

import grain

from stts_jax.data.pipeline import _accept_flags
from stts_jax.data.read_order import AnyWorkersIterDataset


class Numbers:
    """A source of numbers, which worker processes can be sent."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return index


def numbers(stack, workers, places=AnyWorkersIterDataset):
    """An iterator over numbers that so many processes read."""
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    stream = grain.MapDataset.source(Numbers()).to_iter_dataset(options)
    if workers:
        _accept_flags()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(places(stream, workers))
    stack.callback(iterator.close)
    return iterator


def test_any_number_of_workers_goes_on_where_another_stood():
    with ExitStack() as stack:
        alone, three = numbers(stack, 0), numbers(stack, 3)
        assert [next(alone) for _ in range(7)] == [next(three) for _ in range(7)] == [*range(7)]
        state = alone.get_state()
        assert three.get_state() == state
        next(alone), next(three)
        for stream in (alone, three):
            stream.set_state(state)
            assert [next(stream) for _ in range(7)] == [*range(7, 14)]


def test_the_place_of_an_older_checkpoint_names_each_worker_and_is_understood():
    with ExitStack() as stack:
        before = numbers(stack, 2, places=lambda stream, _: stream)
        assert [next(before) for _ in range(5)] == list(range(5))
        older = before.get_state()
        assert "next_index" not in older
        for workers in (0, 2):
            after = numbers(stack, workers)
            after.set_state(older)
            assert [next(after) for _ in range(3)] == [5, 6, 7]
