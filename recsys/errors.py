"""The errors a user can meet, each of which says what is wrong, where, and what to do about it."""


class RecsysError(Exception):
    """Base of every error that this engine raises on purpose; its text is meant to be shown to a user."""


class ConfigError(RecsysError):
    """A configuration file or value cannot be used."""


class DataError(RecsysError):
    """Input data has faults that cannot be tolerated; `faults` holds them all when a reader found them."""

    def __init__(self, message: str, faults: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class UnknownIdError(RecsysError):
    """An id is not in the map, and the caller said that this is an error."""


class LeakageError(RecsysError):
    """Rows that should lie in the future reached something that is fitted on the past."""


class BundleError(RecsysError):
    """A bundle is incomplete, changed since it was written, or mixes parts that do not belong together."""


class RegistryError(RecsysError):
    """A model, version or alias is not in the registry, or the registry cannot be reached."""


class RegistryUnavailableError(RegistryError):
    """The registry did not answer, or not as one; what it holds is not known."""


class EncoderError(RecsysError):
    """A text encoder cannot be found, loaded or trained, or fails on a text."""


class RequestError(RecsysError):
    """A recommendation request cannot be answered as asked; `field` names the part of the request."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class CatalogueFullError(RecsysError):
    """There is no free row for an item that comes while the models serve."""
