"""Conformance suites for extensions: methods, data sets, data and transports of other packages.

A suite is a class that pytest collects once it is subclassed in a test module. The subclass
inherits its laws. The suites use plain assertions and do not need pytest itself.

Example::

    from fedunlearn.testing import MethodConformance

    class TestMine(MethodConformance):
        def method(self):
            return Mine(rounds=3)
"""

from fedunlearn.testing.data import DataConformance, ExamplesConformance
from fedunlearn.testing.datasets import DatasetConformance
from fedunlearn.testing.federations import Points, in_process
from fedunlearn.testing.methods import MethodConformance
from fedunlearn.testing.transports import TransportConformance

__all__ = [
    "DataConformance",
    "DatasetConformance",
    "ExamplesConformance",
    "MethodConformance",
    "Points",
    "TransportConformance",
    "in_process",
]
