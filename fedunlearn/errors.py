"""The exceptions of fedunlearn.

Misuse and broken promises raise; a solver that does not get where it wanted returns a status.

    FedunlearnError
    ├── InputError                  what the user gave cannot be used (exit status 2)
    │   ├── NotRecordedError        a method needs what training did not record
    │   ├── RecordingError          a recording's files are missing, changed or no recording
    │   ├── JobError                a job's folder holds another job, or what cannot be read
    │   ├── ScenarioError           a key, value or file of a scenario
    │   ├── ForgetSetError          nothing, nobody or everybody would be forgotten
    │   │   └── UnknownNameError    the data have no node or class of that name, or several
    │   ├── NodeLeftError           a node that has left is asked to take part
    │   ├── TaskError               a Task's model, data or loss
    │   │   ├── EmptyNodeError      a node without examples
    │   │   ├── NotDeterministicError   dropout, BatchNorm: no objective, hence no curvature
    │   │   ├── NotDifferentiableError  a derivative that torch does not have, or has wrong
    │   │   ├── ModelDiffersError   nodes compute on different networks
    │   │   └── NoCurvatureError    a loss for which GGN does not exist
    │   ├── StoreError              a request store that is missing, of another version, or busy
    │   ├── KeyFileError            a key that is missing, damaged or of a kind that is not used
    │   └── RequestError            a deletion request that cannot be taken as it stands
    │       ├── UnknownDeletionError    there is no such request
    │       ├── RequestReusedError  another request has this id already
    │       └── TransitionError     the request's state does not allow it
    ├── VerificationError           a signature, proof, receipt, log or model file does not verify
    ├── LeaseLostError              another worker has taken the job over
    ├── ServiceError                the deletion service refused a call, or cannot be reached
    ├── NonFiniteError              NaN or infinity where numbers are needed
    ├── OwnCodeError                code of the Task raised an exception whose cause is not known
    └── FederationError             a round could not be completed as pinned
        ├── MissingAnswerError      a node did not answer before the deadline
        ├── NodeFailedError         a node answered with an error
        ├── NodeLostError           a node's session ended before the job did
        ├── BadAnswerError          an answer of another job, round, model, basis, shape or count
        ├── UnreachableError        a node could not connect to the server's endpoint in time
        └── StoppedError            the run was asked to stop

Messages say what, where and what would be right, on one line, and hold nothing of a node's data.
"""

from __future__ import annotations

from collections.abc import Iterable


class FedunlearnError(Exception):
    """Base of all exceptions that fedunlearn raises on purpose."""


class InputError(FedunlearnError):
    """What the user gave cannot be used."""


class ScenarioError(InputError):
    """A key, value or file of a scenario cannot be used."""


class ForgetSetError(InputError):
    """The forget set names nothing, nobody, or everybody."""


class UnknownNameError(ForgetSetError):
    """The data have no node or class of that name, or several that it could stand for."""


class NotRecordedError(InputError):
    """A method needs what was not recorded when training ended."""


class RecordingError(InputError):
    """A recording's files are missing, not in the format, of another version, or were changed."""


class JobError(InputError):
    """The folder of a job's finished rounds holds those of another, or what cannot be read."""


class NodeLeftError(InputError):
    """A node that has left the federation is asked to take part in something."""


class TaskError(InputError):
    """A Task's model, data or loss cannot be used."""


class EmptyNodeError(TaskError):
    """A node holds no examples."""


class NotDeterministicError(TaskError):
    """The same weights and data give different gradients, so curvature is undefined."""


class NotDifferentiableError(TaskError):
    """A derivative that is needed does not exist, or is not what torch computes."""


class ModelDiffersError(TaskError):
    """Nodes compute on different networks: another layer, frozen weight or buffer."""


class NoCurvatureError(TaskError):
    """The curvature that was asked for does not exist for this loss."""


class StoreError(InputError):
    """A request store cannot be opened, has another version, or is busy for too long."""


class KeyFileError(InputError):
    """A key cannot be read, or is of a kind that is not used."""


class RequestError(InputError):
    """A deletion request cannot be taken as it stands."""


class UnknownDeletionError(RequestError):
    """There is no such request."""


class RequestReusedError(RequestError):
    """The owner has used this request id for another request."""


class TransitionError(RequestError):
    """The state of a request, or of the current model, does not allow a change."""


class VerificationError(FedunlearnError):
    """A signature, proof, receipt, log or model file does not verify."""


class LeaseLostError(FedunlearnError):
    """A job's lease ended and another worker may have taken it over."""


class ServiceError(FedunlearnError):
    """The deletion service refused a call, or cannot be reached.

    Attributes:
        code: Name of the gRPC status code.
        reason: Of ErrorInfo; empty where the service gave none.
    """

    def __init__(self, message: str, *, code: str, reason: str = "") -> None:
        """Say what the service answered."""
        super().__init__(message)
        self.code = code
        self.reason = reason


class NonFiniteError(FedunlearnError):
    """NaN or infinity where finite numbers are needed."""


class OwnCodeError(FedunlearnError):
    """Code of the Task raised an exception whose cause is not known.

    The message holds its type and where it was raised; its text stays in the node's log.
    """


class FederationError(FedunlearnError):
    """A round could not be completed with the cohort it was pinned to.

    Attributes:
        nodes: Who is to blame, as far as is known.
    """

    def __init__(self, message: str, *, nodes: Iterable[int] = ()) -> None:
        """Say what happened, and because of whom."""
        super().__init__(message)
        self.nodes = tuple(nodes)


class MissingAnswerError(FederationError):
    """A node of the cohort did not answer before the deadline."""


class NodeFailedError(FederationError):
    """A node of the cohort answered with an error."""


class NodeLostError(FederationError):
    """A node's session ended before the job did: it died, or the network between."""


class UnreachableError(FederationError):
    """A node could not connect to the server's endpoint in time."""


class BadAnswerError(FederationError):
    """An answer belongs elsewhere or has the wrong form."""


class StoppedError(FederationError):
    """The run was asked to stop before it was done."""
