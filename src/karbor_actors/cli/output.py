"""Where a command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import base64
import errno
import json
import logging
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from karbor_actors.cli.text import iso_time, sentence, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_GAP = "  "
_ESCAPES = "backslashreplace"


class PrintError(OSError):
    """What a command has to say could not be printed; *made* is what it did all the same."""

    made = ""

    def __str__(self) -> str:
        text = f"could not print: {self.strerror}"
        return f"{text}; it is done: {self.made}" if self.made else text


@contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader went away: nobody is there to be told
    except OSError as error:
        raise PrintError(error.errno, error.strerror or str(error)) from error


class Output:
    """Prints for one command: tables and lines, or one JSON document.

    Every text that comes from outside is escaped here or by the caller, and none is read as
    rich's markup.

    Args:
        is_json: Whether stdout gets one JSON document and nothing else.
        is_debug: Whether tracebacks and debug messages are wanted.
    """

    def __init__(self, *, is_json: bool = False, is_debug: bool = False) -> None:
        self.is_json, self.is_debug = is_json, is_debug
        for stream in (sys.stdout, sys.stderr):
            # A terminal that is not UTF-8 gets escapes. Setting it again would write what waits.
            if getattr(stream, "errors", "") != _ESCAPES and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=_ESCAPES)
        self.out, self.err = _console(sys.stdout), _console(sys.stderr)

    def document(self, data: Any) -> None:
        """Print *data* as the JSON document, if one is wanted."""
        if self.is_json:
            with _printing():
                sys.stdout.write(json_text(data, indent=2) + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line of the result, unless JSON is wanted."""
        if not self.is_json:
            with _printing():
                self.out.print(Text(text, style), soft_wrap=True)

    def flush(self) -> None:
        """Print what is still on its way.

        Raises:
            PrintError: It could not be; or what was printed before.
        """
        with _printing():
            sys.stdout.flush()

    def note(self, text: str, style: str = "") -> None:
        """Print one line about what goes on; a terminal wraps it between words."""
        self.err.print(Text(sentence(text), style), soft_wrap=not self.err.is_terminal)

    def error(self, text: str) -> None:
        """Print one line that says what went wrong."""
        line = Text("error: ", "bold red")
        line.append(sentence(text), "not bold default")
        self.err.print(line, soft_wrap=not self.err.is_terminal)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, indent: str = ""
    ) -> None:
        """Print *rows* under *columns*, unless JSON is wanted.

        A terminal's lines wrap within their cells; elsewhere each row is one line.
        """
        if not self.is_json:
            with _printing():
                self._table(columns, rows, indent)

    def _table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], indent: str) -> None:
        cells = [[shown("" if cell is None else cell) for cell in row] for row in rows]
        if self.out.is_terminal:
            self.out.print(_rich_table(columns, cells, indent))
            return
        for line in _aligned([[column.upper() for column in columns], *cells]):
            sys.stdout.write(indent + line + "\n")

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print names and values, one pair a line, without those that have no value."""
        kept = [(name, value) for name, value in pairs if value not in (None, "", [])]
        width = max((len(name) for name, _ in kept), default=0)
        for name, value in kept:
            self.line(f"{name + ':':<{width + 1}} {shown(value)}")


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Return *data* as JSON in ASCII; bytes become base64, times ISO 8601."""
    return json.dumps(data, indent=indent, default=_as_json)


def _as_json(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    return str(value)


class _Console(Console):
    """A console that leaves a reader's going away to whoever called it."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "the reader of the output went away")


def _console(file: TextIO) -> Console:
    return _Console(file=file, markup=False, emoji=False, highlight=False)


def _rich_table(columns: Sequence[str], cells: list[list[str]], indent: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(Text((indent if not number else "") + column), overflow="fold")
    for row in cells:
        texts = [Text(cell) for cell in row]
        if indent and texts:
            texts[0].pad_left(len(indent))
        table.add_row(*texts)
    return table


def _aligned(rows: list[list[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield _GAP.join(cells).rstrip()


class LogLines(logging.Handler):
    """Prints what the engine and plugins log, one line each."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.DEBUG if output.is_debug else logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record*."""
        try:
            self._output.note(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # a log line that cannot be formatted or printed: logging's own way
            self.handleError(record)
