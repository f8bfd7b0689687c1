"""The exceptions of fedunlearn.

Misuse and violated conditions raise an exception; a solver that does not converge returns a status.

    FedunlearnError
    ├── InputError                  an input of the user cannot be used (exit status 2)
    │   ├── NotRecordedError        a method needs a recording that training did not make
    │   ├── RecordingError          a recording's files are missing, changed or not a recording
    │   ├── JobError                a job's folder belongs to another job, or cannot be read
    │   ├── ScenarioError           a key, value or file of a scenario cannot be used
    │   ├── ForgetSetError          the forget set is empty, or nothing would stay
    │   │   └── UnknownNameError    the data have no node or class of that name, or several
    │   ├── NodeLeftError           a node that has left would have to take part
    │   ├── TaskError               a Task's model, data or loss cannot be used
    │   │   ├── EmptyNodeError      a node has no examples
    │   │   ├── NotDeterministicError   dropout, BatchNorm: no objective, hence no curvature
    │   │   ├── NotDifferentiableError  a derivative does not exist in torch, or is wrong
    │   │   ├── ModelDiffersError   nodes compute on different networks
    │   │   └── NoCurvatureError    the loss has no GGN
    │   ├── StoreError              a request store is missing, of another version, or busy
    │   ├── KeyFileError            a key is missing, damaged or of a kind that is not used
    │   └── RequestError            a deletion request cannot be accepted as it is
    │       ├── UnknownDeletionError    there is no such request
    │       ├── RequestReusedError  another request has this id already
    │       └── TransitionError     the request's state does not allow the change
    ├── VerificationError           a signature, proof, receipt, log or model file does not verify
    ├── LeaseLostError              another worker has taken over the job
    ├── ServiceError                the deletion service refused a call, or cannot be reached
    ├── NonFiniteError              there is NaN or infinity where finite numbers are needed
    ├── OwnCodeError                code of the Task raised an exception of unknown cause
    └── FederationError             a round could not be completed by its pinned cohort
        ├── MissingAnswerError      a node did not answer before the deadline
        ├── NodeFailedError         a node answered with an error
        ├── NodeLostError           a node's session ended before the job did
        ├── BadAnswerError          an answer has another job, round, model, basis, shape or count
        ├── UnreachableError        a node could not connect to the server's endpoint in time
        └── StoppedError            the run was asked to stop

A message states what is wrong, where, and what would be right, on one line. It contains nothing of
a node's data.
"""

from __future__ import annotations

from collections.abc import Iterable


class FedunlearnError(Exception):
    """Base of all exceptions that fedunlearn raises on purpose."""


class InputError(FedunlearnError):
    """An input of the user cannot be used."""


class ScenarioError(InputError):
    """A key, value or file of a scenario cannot be used."""


class ForgetSetError(InputError):
    """The forget set is empty, or nothing would stay."""


class UnknownNameError(ForgetSetError):
    """The data have no node or class of that name, or several to which it could refer."""


class NotRecordedError(InputError):
    """A method needs a recording that was not made when training ended."""


class RecordingError(InputError):
    """A recording's files are missing, changed, of another version, or in another format."""


class JobError(InputError):
    """The folder of a job's finished rounds belongs to another job, or cannot be read."""


class NodeLeftError(InputError):
    """A node that has left the federation would have to take part."""


class TaskError(InputError):
    """A Task's model, data or loss cannot be used."""


class EmptyNodeError(TaskError):
    """A node holds no examples."""


class NotDeterministicError(TaskError):
    """Gradients at the same weights and data differ, so that curvature is undefined."""


class NotDifferentiableError(TaskError):
    """A derivative that is needed does not exist, or is not what torch computes."""


class ModelDiffersError(TaskError):
    """Nodes compute on different networks: another layer, frozen weight or buffer."""


class NoCurvatureError(TaskError):
    """The requested curvature does not exist for this loss."""


class StoreError(InputError):
    """A request store cannot be opened, has another version, or is busy for too long."""


class KeyFileError(InputError):
    """A key cannot be read, or is of a kind that is not used."""


class RequestError(InputError):
    """A deletion request cannot be accepted as it is."""


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
        reason: The reason in ErrorInfo; empty where the service gave none.
    """

    def __init__(self, message: str, *, code: str, reason: str = "") -> None:
        """Take the message, the status code and the reason of the service's answer."""
        super().__init__(message)
        self.code = code
        self.reason = reason


class NonFiniteError(FedunlearnError):
    """NaN or infinity where finite numbers are needed."""


class OwnCodeError(FedunlearnError):
    """Code of the Task raised an exception of unknown cause.

    The message contains its type and its place in the code; its text stays in the node's log.
    """


class FederationError(FedunlearnError):
    """A round could not be completed by the cohort to which it is pinned.

    Attributes:
        nodes: Numbers of the nodes that caused the error, as far as they are known.
    """

    def __init__(self, message: str, *, nodes: Iterable[int] = ()) -> None:
        """Take the message and the nodes that caused the error."""
        super().__init__(message)
        self.nodes = tuple(nodes)


class MissingAnswerError(FederationError):
    """A node of the cohort did not answer before the deadline."""


class NodeFailedError(FederationError):
    """A node of the cohort answered with an error."""


class NodeLostError(FederationError):
    """A node's session ended before the job did, because the node or the network failed."""


class UnreachableError(FederationError):
    """A node could not connect to the server's endpoint in time."""


class BadAnswerError(FederationError):
    """An answer does not belong to its question, or has the wrong form."""


class StoppedError(FederationError):
    """The run was asked to stop before it was complete."""
