"""The exceptions for the user of this package. Each message says what is wrong and what to do about it."""


class AdiabaticRayError(Exception):
    """The base of all errors that are meant for the user. The command line prints the message without a stack trace."""


def summary(error: BaseException) -> str:
    """Describe an exception in one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")


class ConfigError(AdiabaticRayError):
    """A sweep file cannot be used: it has an unknown key, a wrong type or an impossible value."""


class DataError(AdiabaticRayError):
    """A data set cannot be read, or lacks something that it must have."""


class ModelError(AdiabaticRayError):
    """A model folder or hub id cannot be loaded as a sentence encoder."""


class MaskError(AdiabaticRayError):
    """A freezing mask is malformed, matches no parameter, or freezes every parameter."""


class ResourceError(AdiabaticRayError):
    """A cluster cannot be reached, or does not have the resources that were requested."""


class SweepError(AdiabaticRayError):
    """A sweep cannot be started, resumed or finished."""


class StorageError(AdiabaticRayError):
    """The storage did not answer within the time limit. Everything that was stored before is kept."""
