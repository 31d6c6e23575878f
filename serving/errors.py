"""What can go wrong while serving, beyond the errors of the core; none of it knows HTTP."""

from recsys.errors import RecsysError, RequestError


class NotReadyError(RecsysError):
    """No model is loaded yet; the text says why and what to do."""


class StoreError(RecsysError):
    """The event store cannot be opened, read or written; nothing of the call was stored."""


class UnknownItemError(RequestError):
    """The item that a request is about is not in the catalogue of the model."""


class EventConflictError(RequestError):
    """An event id is already taken by an event with different content; nothing of the batch was stored."""


class OverloadedError(RecsysError):
    """More work waits than one process takes on; the same request may succeed a little later."""


class ClientGoneError(RecsysError):
    """The caller closed the connection before its request was begun; nobody reads the answer."""
