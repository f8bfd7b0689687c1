"""The laws of a data set that scenarios can name."""

from __future__ import annotations

import torch

from fedunlearn.data.scenario_data import ScenarioData, read
from fedunlearn.data.sources import load_split
from fedunlearn.scenario.data import DataSettings


class DatasetConformance:
    """The laws of a data set that is registered in the entry points ``fedunlearn.datasets``.

    Example::

        class TestFlowers(DatasetConformance):
            def settings(self):
                return DataSettings(name="flowers")
    """

    def settings(self) -> DataSettings:
        """Return the settings of a scenario that names the data set.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError("settings() of a DatasetConformance returns a DataSettings")

    def test_it_is_read_and_has_the_form_of_a_data_set(self) -> None:
        """The data set is registered, and reading it raises nothing."""
        assert isinstance(read(self.settings()), ScenarioData)

    def test_reads_are_the_same(self) -> None:
        """Reading twice with the same settings gives the same examples, under any random state."""
        first = read(self.settings())
        torch.manual_seed(1234)
        second = read(self.settings())
        for name in ("train", "test"):
            for one, other in zip(getattr(first, name), getattr(second, name), strict=True):
                assert torch.equal(one, other), f"{name}: a second read gives other examples"

    def test_inputs_are_finite_and_of_a_type_that_models_take(self) -> None:
        """Inputs are float32 without NaN and infinity, or int64 where they are token ids."""
        inputs, _ = read(self.settings()).train
        assert inputs.dtype in (torch.float32, torch.int64), f"inputs are {inputs.dtype}"
        assert bool(torch.isfinite(inputs).all()), "inputs hold NaN or infinity"

    def test_every_training_example_is_on_one_node(self) -> None:
        """The examples can be assigned to nodes, each to exactly one."""
        settings = self.settings()
        split = load_split(settings)
        places = torch.cat([torch.from_numpy(own) for own in split.nodes])
        assert sorted(places.tolist()) == list(range(len(split.targets)))
        assert len(split.node_names) == len(split.nodes)
        assert len(split.labels) >= split.classes
