"""What of an error may leave a node: never its data."""

from __future__ import annotations

import logging

from fedunlearn.errors import FedunlearnError, OwnCodeError
from fedunlearn.risk.causes import owned

log = logging.getLogger(__name__)


def safe_message(error: Exception) -> str:
    """Return what of an error may leave a node: our own messages whole, of others the type only.

    The text of what the Task's own code raised stays here, in the log.
    """
    raised = error.__cause__ if isinstance(error, OwnCodeError) else error
    if raised is not None and not isinstance(raised, FedunlearnError):
        log.error("the task's own code raised", exc_info=raised)
    if isinstance(error, FedunlearnError):
        return str(error)
    return f"{owned(error)}; see the node's log"
