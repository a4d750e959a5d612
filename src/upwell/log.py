"""The server's log: one line an event on standard error, whatever text it carries."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from upwell.printable import printable

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import Processor, WrappedLogger

_TRACE = "exception"  # what structlog calls a traceback that it has formatted


def set_up_log(log_format: str) -> None:
    """Log for people (``console``) or programs (``json``); other libraries' records too.

    Paths, names and error messages can hold text of strangers. Its unsafe characters are escaped
    here, in the last step before the line is made, so no caller has to remember it.
    """
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = [
        structlog.processors.format_exc_info,
        _harmless,
        _renderer(log_format),
    ]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[*shared, *ending],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)


def _renderer(log_format: str) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _harmless(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _trace(value) if key == _TRACE else _escaped(value)
    return event


def _escaped(value: Any) -> Any:
    """A value whose text is escaped; what is neither text, figure nor a group of those becomes
    text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {printable(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_escaped(each) for each in value]
    return printable(value)


def _trace(value: Any) -> str:
    """A traceback keeps its lines, indented: none of them can pass for an event."""
    return printable(value, keep="\n").replace("\n", "\n    ")
