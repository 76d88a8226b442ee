"""What a hub's answers mean: asked again it may help, or it is the user's to mend."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leap.backoff import retry_after
from leap.errors import LeapError, UsageError
from leap.hub.file_listing import Repository
from leap.redaction import hide

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_LONGEST = 10**9  # seconds: more are no number to wait for
_PASSING = (408, 425, 429)  # statuses beside 5xx that another try may not meet


class RetryableError(Exception):
    """No answer this time. `asked`: seconds that the hub wants to be left alone; `limited`: too many requests.

    `notify`: the user should know, however short the wait.
    """

    def __init__(self, text: str, asked: float = 0.0, limited: bool = False, notify: bool = False) -> None:
        super().__init__(text)
        self.asked, self.limited, self.notify = asked, limited, notify


def transport_errors() -> tuple[Any, ...]:
    """What the HTTP library raises, which differs between releases of huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__bases__[0], OSError)


@contextmanager
def understood(endpoint: str, repository: Repository) -> Iterator[None]:
    """What goes wrong within is raised as RetryableError, or as a LeapError that says what to do."""
    from huggingface_hub import errors

    name = f"{repository.kind} {repository.name}"
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{repository.name!r} is no repository's name: OWNER/NAME is needed") from error
    except errors.GatedRepoError as error:
        raise LeapError(
            f"{name} is open only to those who accept its terms: do so at {repository.page}, "
            "then log in (hf auth login, or HF_TOKEN) and start again"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise LeapError(f"{name} has no revision {repository.revision!r}; see {repository.page}/tree/main") from error
    except errors.EntryNotFoundError as error:
        raise LeapError(f"{name}: a listed file is gone from {endpoint}; start again") from error
    except errors.RepositoryNotFoundError as error:
        raise LeapError(
            f"{endpoint} has no {name}, or it is private: check the name, or log in (hf auth login, or HF_TOKEN)"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(error, endpoint, name) from error
    except transport_errors() as error:
        raise RetryableError(f"no answer, or half of one, from {endpoint} ({in_a_line(error)})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise LeapError(f"{endpoint} does not answer as a hub does ({in_a_line(error)}); check HF_ENDPOINT") from error


def _refusal(error: "HfHubHTTPError", endpoint: str, name: str) -> Exception:
    status, headers = error.response.status_code, error.response.headers
    said = f"{endpoint} answered {status} for {name} ({in_a_line(error.server_message or error)})"
    if status in _PASSING or status >= 500:
        asked = max(_window(headers) if status == 429 else 0.0, retry_after(headers))
        return RetryableError(said, asked, limited=status == 429)
    if status in (401, 403):
        return LeapError(f"{said}: the token is wrong, or may not read it; hf auth login, or set HF_TOKEN")
    return LeapError(said)


def _window(headers: Mapping[str, str]) -> float:
    """Seconds until the hub counts requests anew, where none is left until then."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    return float(min(limit.reset_in_seconds, _LONGEST)) if limit and limit.remaining == 0 else 0.0


def in_a_line(error: object) -> str:
    """An error's text in one short line, without secrets: a hub may quote what it was sent."""
    return " ".join(hide(str(error)).split())[:200] or type(error).__name__
