"""The laws of examples, and of a data function that returns them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedunlearn.node.checks import read_examples, require_same_reads
from fedunlearn.risk.examples import Examples, as_examples
from fedunlearn.risk.randomness import same_values
from fedunlearn.risk.task import Task


class ExamplesConformance:
    """The laws of ``Examples``: a place identifies the same record, however it is read.

    Example::

        class TestRows(ExamplesConformance):
            def examples(self):
                return TensorExamples(torch.randn(9, 4), torch.arange(9) % 3)
    """

    def examples(self) -> Examples | tuple[Tensor, Tensor]:
        """Return some examples, at least three, and the same at every call.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError("examples() of an ExamplesConformance returns the examples")

    def test_reads_are_the_same(self) -> None:
        """Reading twice, in one object or two, gives the same examples."""
        first, second = self._made(), self._made()
        places = torch.arange(len(first))
        assert len(first) == len(second), f"{len(first)} examples, then {len(second)}"
        batch = first.batch(places)
        assert same_values(batch, first.batch(places)), "a second read gives another batch"
        assert same_values(batch, second.batch(places)), "a second object gives another batch"
        assert list(first.record_bytes()) == list(second.record_bytes()), "records differ"

    def test_batches_follow_their_places(self) -> None:
        """Rows follow the order of places, and a place that occurs twice gives a row twice."""
        made = self._made()
        places = self._some(len(made))
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(1))
        targets = made.batch(places)[1]
        shuffled = made.batch(places[order])[1]
        if isinstance(targets, Tensor) and isinstance(shuffled, Tensor):
            assert len(targets) == len(places), f"{len(places)} places, {len(targets)} targets"
            assert same_values(targets[order], shuffled), "rows do not follow the places"
        assert same_values(
            made.batch(places[order]), made.at(places[order]).batch(self._all(order))
        )

    def test_some_of_the_examples_are_examples(self) -> None:
        """``at`` selects the same rows, labels and records, also when it is applied repeatedly."""
        made = self._made()
        places = self._some(len(made))
        some = made.at(places)
        assert len(some) == len(places), f"at() of {len(places)} places has {len(some)}"
        assert same_values(some.batch(self._all(places)), made.batch(places)), "other rows"
        records = list(made.record_bytes())
        assert list(some.record_bytes()) == [records[int(place)] for place in places]
        inner = torch.tensor([1, 0])
        assert same_values(some.at(inner).batch(self._all(inner)), made.batch(places[inner]))
        assert some.form() == made.form(), "the form of some examples is another"
        if made.labels is not None:
            assert some.labels is not None, "some of the examples have no labels"
            assert torch.equal(some.labels, made.labels[places]), "other labels"

    def test_labels_are_one_whole_number_an_example(self) -> None:
        """Labels are one whole number per example, or there are none."""
        made = self._made()
        if made.labels is None:
            return
        assert made.labels.shape == (len(made),), f"labels have shape {tuple(made.labels.shape)}"
        assert not made.labels.is_floating_point(), "labels are not whole numbers"

    def test_chunks_cut_the_examples(self) -> None:
        """Each example is in exactly one chunk, and no chunk is larger than requested."""
        made = self._made()
        for size in (1, 2, len(made), len(made) + 5):
            chunks = made.chunks(size)
            assert all(0 < len(chunk) <= size for chunk in chunks), f"a chunk of more than {size}"
            assert sorted(torch.cat(chunks).tolist()) == list(range(len(made))), (
                f"chunks of {size} leave examples out, or have some twice"
            )

    def test_every_example_has_a_record(self) -> None:
        """Every example has bytes, to which a node commits."""
        made = self._made()
        records = list(made.record_bytes())
        assert len(records) == len(made), f"{len(made)} examples, {len(records)} records"
        assert all(isinstance(record, bytes) and record for record in records)

    def test_what_is_held_or_longest_is_of_the_examples(self) -> None:
        """``held`` gives the same examples, ``longest`` gives places of them; all are finite."""
        made = self._made()
        everything = torch.arange(len(made))
        assert same_values(made.held().batch(everything), made.batch(everything))
        longest = made.longest(2)
        assert len(longest) == 2 and bool(torch.isin(longest, everything).all())
        made.require_finite()
        hash(made.form())

    def _made(self) -> Examples:
        made = as_examples(self.examples())
        assert len(made) >= 3, f"{len(made)} examples are too few for the laws; give at least 3"
        return made

    @staticmethod
    def _some(count: int) -> Tensor:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        return order[: max(2, count // 2)]

    @staticmethod
    def _all(places: Tensor) -> Tensor:
        return torch.arange(len(places))


class DataConformance(ExamplesConformance):
    """The laws of a task's ``data``, on the examples of one node.

    Example::

        class TestMyTask(DataConformance):
            node = 1

            def task(self):
                return MyTask()

    Attributes:
        node: Number of the node whose data are tested.
    """

    node: int = 0

    def task(self) -> Task:
        """Return the task.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError("task() of a DataConformance returns the task")

    def examples(self) -> Examples:
        """Return the node's examples, as the node reads them."""
        return read_examples(self.task(), self.node)

    def test_data_draw_nothing_at_random(self) -> None:
        """The data are the same under other seeds of the global generators."""
        task = self.task()
        require_same_reads(task, self.node, read_examples(task, self.node))
