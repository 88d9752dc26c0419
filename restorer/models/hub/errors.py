"""What the Hub's client raises (`huggingface_hub.errors`, and what it lets through), as one line and a hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from restorer.errors import ModelError

__all__ = ["Unreachable", "clean", "explained"]


class Unreachable(ModelError):
    """The Hub does not answer, or must not be asked. What the cache holds may still serve."""


def clean(text: object, limit: int = 120) -> str:
    """A string from outside, safe to print: nothing that steers a terminal or turns the text around."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


@contextmanager
def explained(subject: str, elsewhere: str = "") -> Iterator[None]:
    """Turn whatever the client raises into a ModelError.

    Args:
        subject: the model that is asked for.
        elsewhere: the hint for where there is no network.

    Raises:
        Unreachable: no network, the Hub is down, or offline by choice.
        ModelError: anything else.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # httpx.HTTPError or httpx2.HTTPError, whichever the client was built on: a connection that fails.
    transport: type[Exception] = next(kind for kind in HfHubHTTPError.__bases__ if kind is not OSError)
    try:
        yield
    except ModelError:
        raise
    except HFValidationError as error:
        raise ModelError(
            f"{subject} is no repository of the Hub", "the form is ORGANIZATION/NAME[@REV][:FILE]"
        ) from error
    except (transport, OSError) as error:
        raise _of(error, subject, elsewhere) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"{subject}: the Hub's answer makes no sense ({type(error).__name__})"
        raise ModelError(text, "is HF_ENDPOINT, or a proxy, in the way?") from error


def _of(error: BaseException, subject: str, elsewhere: str) -> ModelError:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            hint = "accept its terms on its page at the Hub, then log in: hf auth login, or set HF_TOKEN"
            return ModelError(f"{subject}: its owner asks for terms to be accepted", hint)
        case errors.DisabledRepoError():
            return ModelError(f"{subject}: the Hub has disabled this repository", "its page at the Hub may say why")
        case errors.RepositoryNotFoundError():
            hint = "check the name; if it is private, log in: hf auth login, or set HF_TOKEN"
            return ModelError(f"{subject}: there is no such repository on the Hub, or it is private", hint)
        case errors.RevisionNotFoundError():
            return ModelError(f"{subject}: the repository has no such revision", "REV is a branch, a tag or a commit")
        case errors.OfflineModeIsEnabled():
            return Unreachable(f"{subject} is not in the cache, and HF_HUB_OFFLINE is set", elsewhere)
        case errors.LocalEntryNotFoundError():
            if isinstance(error.__cause__, Exception):
                return _of(error.__cause__, subject, elsewhere)
            return Unreachable(f"{subject} is not in the cache", elsewhere)
        case errors.EntryNotFoundError():
            return ModelError(f"{subject}: a file is gone from the repository", "it holds no model of a known layout")
        case errors.FileMetadataError():
            hint = "is HF_ENDPOINT, a proxy or a log-in page of the network in the way?"
            return Unreachable(f"{subject}: what answers is no Hub", hint)
        case errors.HfHubHTTPError():
            return _of_status(error.response.status_code, subject, elsewhere)
        case OSError() if not isinstance(error, ConnectionError):
            return ModelError(f"{subject} could not be stored: {clean(error)}", "nothing half done was kept; try again")
        case _:
            return Unreachable(f"{subject}: the Hub cannot be reached ({type(error).__name__})", elsewhere)


def _of_status(status: int, subject: str, elsewhere: str) -> ModelError:
    if status == 429:
        hint = "wait some minutes; with a token (hf auth login) the limit is higher"
        return Unreachable(f"{subject}: the Hub has had too many requests from here", hint)
    if status == 401:
        hint = "check the name, and renew the token: hf auth login, or HF_TOKEN"
        return ModelError(f"{subject}: the Hub does not let it be seen with this token, or without one", hint)
    if status == 403:
        return ModelError(f"{subject}: the Hub forbids it", "does the token have the right to read this repository?")
    if status >= 500:
        return Unreachable(f"{subject}: the Hub answers with error {status}", f"try again later; or {elsewhere}")
    return ModelError(f"{subject}: the Hub answers with error {status}", "check the name and HF_ENDPOINT")
