"""The exceptions of the Hub's client, turned into one line and a hint.

They are those of `huggingface_hub.errors`, and those of other libraries that the client lets through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from restorer.errors import ModelError

__all__ = ["Unreachable", "clean", "translated_errors"]


class Unreachable(ModelError):
    """The Hub does not answer, or must not be asked. A model in the cache may still be used."""


def clean(text: object, limit: int = 120) -> str:
    """Return an untrusted string in a form that is safe to print.

    Characters that control a terminal or the direction of the text become question marks.

    Args:
        text: The string, or an object to convert to one.
        limit: The largest number of characters; a longer string ends in an ellipsis.
    """
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


@contextmanager
def translated_errors(subject: str, offline_hint: str = "") -> Iterator[None]:
    """Turn every exception of the client into a ModelError.

    Args:
        subject: The model that is requested, for the message.
        offline_hint: The hint for a machine without a network.

    Raises:
        Unreachable: There is no network, the Hub is down, or HF_HUB_OFFLINE is set.
        ModelError: Anything else went wrong.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base class of failed connections: httpx.HTTPError or httpx2.HTTPError, whichever the client was built on.
    transport: type[Exception] = next(kind for kind in HfHubHTTPError.__bases__ if kind is not OSError)
    try:
        yield
    except ModelError:
        raise
    except HFValidationError as error:
        raise ModelError(
            f"{subject} is not a repository of the Hub", "the form is ORGANIZATION/NAME[@REV][:FILE]"
        ) from error
    except (transport, OSError) as error:
        raise _translate(error, subject, offline_hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"{subject}: the Hub's answer is invalid ({type(error).__name__})"
        raise ModelError(text, "check whether HF_ENDPOINT or a proxy gets in the way") from error


def _translate(error: BaseException, subject: str, offline_hint: str) -> ModelError:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            hint = "accept the terms on the model's page at the Hub, then log in: hf auth login, or set HF_TOKEN"
            return ModelError(f"{subject}: its owner requires the terms to be accepted", hint)
        case errors.DisabledRepoError():
            return ModelError(f"{subject}: the Hub has disabled this repository", "its page at the Hub may say why")
        case errors.RepositoryNotFoundError():
            hint = "check the name; if the repository is private, log in: hf auth login, or set HF_TOKEN"
            return ModelError(f"{subject}: there is no such repository on the Hub, or it is private", hint)
        case errors.RevisionNotFoundError():
            return ModelError(f"{subject}: the repository has no such revision", "REV is a branch, a tag or a commit")
        case errors.OfflineModeIsEnabled():
            return Unreachable(f"{subject} is not in the cache, and HF_HUB_OFFLINE is set", offline_hint)
        case errors.LocalEntryNotFoundError():
            if isinstance(error.__cause__, Exception):
                return _translate(error.__cause__, subject, offline_hint)
            return Unreachable(f"{subject} is not in the cache", offline_hint)
        case errors.EntryNotFoundError():
            hint = "the repository holds no model of a known layout"
            return ModelError(f"{subject}: a file is gone from the repository", hint)
        case errors.FileMetadataError():
            hint = "check whether HF_ENDPOINT, a proxy or a log-in page of the network gets in the way"
            return Unreachable(f"{subject}: the server that answers is not a Hub", hint)
        case errors.HfHubHTTPError():
            return _translate_status(error.response.status_code, subject, offline_hint)
        case OSError() if not isinstance(error, ConnectionError):
            hint = "no partial file was kept; try again"
            return ModelError(f"{subject} could not be stored: {clean(error)}", hint)
        case _:
            return Unreachable(f"{subject}: the Hub cannot be reached ({type(error).__name__})", offline_hint)


def _translate_status(status: int, subject: str, offline_hint: str) -> ModelError:
    if status == 429:
        hint = "wait a few minutes; the limit is higher with a token (hf auth login)"
        return Unreachable(f"{subject}: the Hub has received too many requests from this address", hint)
    if status == 401:
        hint = "check the name, and renew the token: hf auth login, or HF_TOKEN"
        return ModelError(f"{subject}: the Hub denies access with this token, or without one", hint)
    if status == 403:
        return ModelError(f"{subject}: the Hub forbids access", "check that the token may read this repository")
    if status >= 500:
        return Unreachable(f"{subject}: the Hub answers with error {status}", f"try again later; or {offline_hint}")
    return ModelError(f"{subject}: the Hub answers with error {status}", "check the name and HF_ENDPOINT")
