"""What counts as a fault: an error that is not in the library's words, a wrong answer, bad input that passes."""

import dis
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

import torch

import dampode
from dampode.integrators import IntegrationError

__all__ = ["Call", "Fault", "Verdict", "judged"]

PACKAGE = Path(dampode.__file__).parent
RAISE = dis.opmap["RAISE_VARARGS"]
WORDED = (ValueError, TypeError, OSError, ImportError)


class Fault(Exception):  # noqa: N818
    """An answer that must not be given. Its first argument is the kind of the fault, its second the details."""


class Slow(BaseException):
    """A call took too long. No library code catches it, because it is no Exception."""


class Verdict(NamedTuple):
    """The outcome of a call."""

    outcome: str
    """"answered", "refused" in the library's words, "failed" by a status, "slow" or "fault"."""
    group: str = ""
    """The cause, the same for all calls with the same fault."""
    detail: str = ""
    """The numbers or the message."""


@dataclass(frozen=True)
class Call:
    """One random call.

    Args:
        words: the call, for a reader.
        run: makes the call and checks its answer. It returns the outcome, and raises a `Fault` for a wrong answer.
        own_error: the error that the user's own function raises without the library, or None. It may pass through.
    """

    words: str
    run: Callable[[], str]
    own_error: Callable[[], Exception | None]


def judged(call: Call, limit: float) -> Verdict:
    """The verdict on a call that may take ``limit`` seconds of processor time."""
    try:
        with _modes_kept(), _time_limit(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Verdict(call.run())
    except Slow:
        return Verdict("slow")
    except Fault as fault:
        return Verdict("fault", *fault.args)
    except Exception as error:  # every error is judged
        if _is_worded(error) or type(call.own_error()) is type(error):
            return Verdict("refused", detail=f"{type(error).__name__}: {error}")
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return Verdict("fault", f"unworded {_without_numbers(message)[:90]} [{_library_frame(error)}]", message)


def _is_worded(error: Exception) -> bool:
    """Whether the library raised this error by a ``raise`` of its own.

    Errors of C functions end in the frame of their caller, so the instruction decides and not the frame alone. An
    OSError of the system that names its file says enough.
    """
    if isinstance(error, IntegrationError):
        return True
    if isinstance(error, OSError) and error.filename is not None:
        return True
    last = _last(error)
    code = last.tb_frame.f_code
    raised = code.co_code[last.tb_lasti] == RAISE and Path(code.co_filename).is_relative_to(PACKAGE)
    return raised and isinstance(error, WORDED)


def _last(error: Exception) -> TracebackType:
    """The innermost entry of the traceback."""
    entry = error.__traceback__
    assert entry is not None
    while entry.tb_next is not None:
        entry = entry.tb_next
    return entry


def _library_frame(error: Exception) -> str:
    """The innermost function of the library in the traceback."""
    name, entry = "outside", error.__traceback__
    while entry is not None:
        path = Path(entry.tb_frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            name = f"{path.relative_to(PACKAGE)}:{entry.tb_frame.f_code.co_name}"
        entry = entry.tb_next
    return name


def _without_numbers(message: str) -> str:
    return re.sub(r"-?\d[\d.e+-]*", "#", message)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `Slow` in a block that takes more processor time. The random state is restored.

    Python swallows an error that is raised in the callback of a weak reference. The block is then stopped a little
    later.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_cleaning_up(frame):
            signal.setitimer(signal.ITIMER_PROF, 0.01)  # a little later
        else:
            raise Slow

    def swallowed(error: "sys.UnraisableHookArgs") -> None:
        if error.exc_type is Slow:
            signal.setitimer(signal.ITIMER_PROF, 0.01)
        else:
            report(error)

    before, report = signal.signal(signal.SIGPROF, stop), sys.unraisablehook
    sys.unraisablehook = swallowed
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with torch.random.fork_rng([]):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        sys.unraisablehook = report


def _is_cleaning_up(frame: FrameType | None) -> bool:
    """Whether an error raised now would cut short the clean-up of a context or an object."""
    while frame is not None:
        if frame.f_code.co_name in ("__enter__", "__exit__", "__del__", "remove"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def _modes_kept() -> Iterator[None]:
    """Restore torch's modes after a block.

    A call that is stopped may leave a context open. All later work of the process would then run without gradients, or
    under autocast.
    """
    gradients, dtype, nesting = torch.is_grad_enabled(), torch.get_default_dtype(), _autocast_nesting()
    autocast, lower = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_autocast_dtype("cpu", lower)
        while _autocast_nesting() > nesting:
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()


def _autocast_nesting() -> int:
    """How many autocast contexts are open."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
