# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet, each with the exit code that scripts rely on.

    PackagerError
     ├ UsageError         2  the call or the recipe is wrong
     │  └ LockError       2  the lock does not match this recipe, source or host
     ├ SourceError        3  a source, registry or network did not deliver
     ├ StepError          4  fetch, export, compile or measure failed
     │  ├ MissingToolError   a package or program of an extra is not installed
     │  ├ TooNewError        a graph needs operators that a promised runtime lacks
     │  └ StorageError       the disk is full or may not be written
     ├ IntegrityError     5  bytes, names or signatures are not what was promised
     │  ├ TooLargeError      a record, or the number of records, exceeds a limit
     │  ├ MalformedError     a record does not have its one allowed form
     │  ├ WrongContentError  a file or blob is not the promised one, is missing, or should not exist
     │  ├ BadSignatureError  a signature, timestamp or log entry does not match the signed bytes
     │  └ WrongSubjectError  a trusted statement is about another bundle
     └ NegativeAnswerError 1  a check ran, and its result is no
        ├ TrustFileError     the trust file is not signed by its root keys
        ├ UnsignedError      there is no signature
        ├ UntrustedSignerError no signer is trusted here
        ├ UnfitCertificateError a trusted authority's certificate, but expired, not yet valid or for another purpose
        ├ UntrustedTimeError no trusted authority states the time of signing
        ├ MissingStatementError a required statement is missing, or not by an allowed signer
        ├ RevokedError       the key, identity, certificate, bundle or version was revoked
        ├ RolledBackError    a newer version was accepted before, or is required
        ├ OutdatedError      the trust file, or what was signed, is too old
        └ ForbiddenFormatError a file has a format that bundles may not contain

A check without a result, because nothing was measured, ends with 6: never with 0, and not with the 1 of a no. A policy
that fails is data (`types.Verdict`), not an exception; `NegativeAnswerError` exists for verbs whose result is yes or
no, so that every verb ends in one way. Messages have one form: a single sentence, subjects in backticks, `expected X,
got Y`, no final full stop; the remedy is `hint`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from packager import DISTRIBUTION, escape

if TYPE_CHECKING:
    from packager.edits import Change


UNKNOWN = 6  # the exit code of a check without a result


def exit_code_of(outcome: Literal["ok", "no", "unknown"]) -> int:
    """Return the exit code of a result."""
    return {"ok": 0, "no": NegativeAnswerError.code, "unknown": UNKNOWN}[outcome]


class PackagerError(Exception):
    """The base of all errors that a user can meet; any other exception is a bug."""

    code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None, edits: Iterable[Change] = ()) -> None:
        self.message = escape.line(message)  # which may quote names of strangers
        super().__init__(self.message)
        self.hint = hint
        self.edits = tuple(edits)  # the hint as data, where it is about the recipe


class NegativeAnswerError(PackagerError):
    """A check ran to its end and said no: policy, parity, verification, compatibility."""

    code = 1


class UsageError(PackagerError):
    """The call or the recipe is wrong; nothing was started."""

    code = 2


class LockError(UsageError):
    """The lock does not match the recipe, the source or the tools of this host."""


class SourceError(PackagerError):
    """A source, registry or network could not be reached or does not have what was requested."""

    code = 3


class ContainerImageError(SourceError):
    """An address is that of a container image, where a bundle is expected."""


class StepError(PackagerError):
    """A step of the build failed; `log` is the tail of what its process wrote."""

    code = 4

    def __init__(
        self, message: str, *, hint: str | None = None, log: str = "", died: bool = False, edits: Iterable[Change] = ()
    ) -> None:
        super().__init__(message, hint=hint, edits=edits)
        self.log = log
        self.died = died  # without a result: its log is the only explanation


class MissingToolError(StepError):
    """An optional tool is needed and not installed; the hint is the command that installs it."""

    def __init__(self, tool: str, extra: str) -> None:
        super().__init__(f"`{tool}` is needed here and is not installed", hint=install(extra))


class TooNewError(StepError):
    """A graph uses an operator that the promised runtimes do not have; `opset` is the first that has it."""

    def __init__(self, operator: str, opset: int, wanted: int) -> None:
        super().__init__(
            f"`{operator}` (opset {opset}) has no form at opset {wanted}, which the promised runtimes read",
            hint="raise the oldest version under `runs-on`, or export the source with a lower opset",
        )
        self.operator, self.opset, self.wanted = operator, opset, wanted


class StorageError(StepError):
    """A file could not be written: full disk, missing permission, read-only medium."""


class IntegrityError(PackagerError):
    """Content is not what its digest, name or signature promises. Never retried, never a warning."""

    code = 5

    def __init__(self, message: str, *, subject: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.subject = subject


class TooLargeError(IntegrityError):
    """A record, or the number of records, exceeds its limit; it was not read to its end."""


class MalformedError(IntegrityError):
    """A record does not have its one allowed form."""


class WrongContentError(IntegrityError):
    """A file or blob does not match its digest, size, mode or kind, is missing, or belongs to nothing."""


class BadSignatureError(IntegrityError):
    """A signature, timestamp or log entry is not of the bytes it is attached to."""


class WrongSubjectError(IntegrityError):
    """A statement is validly signed, but about another bundle, or about other or similar files."""


class TrustFileError(NegativeAnswerError):
    """The trust file, or the step to it from the one before, is not signed by enough root keys."""


class UnsignedError(NegativeAnswerError):
    """The bundle has no signed statement."""


class UntrustedSignerError(NegativeAnswerError):
    """The bundle is signed, but none of its signers is trusted here."""


class UnfitCertificateError(NegativeAnswerError):
    """The certificate was not valid at the time of signing, or is not for signing."""


class UntrustedTimeError(NegativeAnswerError):
    """No trusted authority states the time of a signature that needs one."""


class MissingStatementError(NegativeAnswerError):
    """A required statement is missing, or not by an allowed signer."""


class RevokedError(NegativeAnswerError):
    """The trust file revokes the key, identity, certificate, bundle or version."""


class RolledBackError(NegativeAnswerError):
    """The version or trust file is older than the newest accepted before, or than the oldest allowed."""


class OutdatedError(NegativeAnswerError):
    """Valid once, and too old now: a channel that stopped, or was stopped, looks like this."""


class ForbiddenFormatError(NegativeAnswerError):
    """A file of the bundle has a format that may contain programs, or an unknown one."""


def install(extra: str) -> str:
    """Return the command that adds an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the close match, and what is known."""
    choices = sorted(known)
    close = close_match(name, choices)
    listing = ", ".join(f"`{choice}`" for choice in choices)
    return f"did you mean `{close}`? known: {listing}" if close else f"known: {listing}"


def close_match(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is close to a misspelt one, or None."""
    import difflib  # a quarter of what an error costs at start-up, and most runs have none

    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)
