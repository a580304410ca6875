"""Every error a user can cause: one tree, each message with the way out."""


class AdiabaticRayError(Exception):
    """The base of all errors raised for the user to read; the command line prints the message, not the stack."""


def summary(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")


class ConfigError(AdiabaticRayError):
    """A sweep file that cannot be used: an unknown key, a wrong type, an impossible value."""


class DataError(AdiabaticRayError):
    """A data set that cannot be read or lacks what it must have."""


class ModelError(AdiabaticRayError):
    """A model folder or hub id that cannot be loaded as a sentence encoder."""


class MaskError(AdiabaticRayError):
    """A freezing mask that is malformed, matches nothing, or freezes everything."""


class ResourceError(AdiabaticRayError):
    """A request for resources that the cluster cannot meet."""


class SweepError(AdiabaticRayError):
    """A sweep that cannot be started, resumed or finished."""


class StorageError(AdiabaticRayError):
    """A storage that stayed away for longer than is waited for; nothing that was stored is lost."""
