"""What the commands `xecg` and `benchecg` do alike: every exception is one line and an exit code, whatever becomes of the output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from xecg.cli._common import printable
from xecg.errors import XECGError

__all__ = ["Group"]


class Group(click.Group):
    """A group whose `--debug`, as a parameter or as `xecg.debug` in the context's meta, shows the traceback of an error.

    interrupted: what is said after Ctrl-C.
    """

    interrupted = "interrupted"

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """Parsing writes too: --help and --version."""
        with self._in_one_line(None):
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with self._in_one_line(ctx):
            result = super().invoke(ctx)
            if sys.stdout is not None:  # where the command was started without
                sys.stdout.flush()
            return result

    @contextmanager
    def _in_one_line(self, ctx: click.Context | None) -> Iterator[None]:
        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            _drop_output()  # the reader went away (`| head -1`): nobody is left to tell
            raise click.exceptions.Exit(0) from None
        except KeyboardInterrupt:
            click.echo(self.interrupted, err=True)
            _drop_output()
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            if ctx is not None and (ctx.meta.get("xecg.debug") or ctx.params.get("debug")):
                raise
            if isinstance(error, XECGError):
                text = f"error: {error}"
            elif isinstance(error, OSError):
                from xecg.io.outputs import explain

                text = f"error: {explain(error)}; rerun with --debug to see where"
            else:
                text = f"internal error: {type(error).__name__}: {error}; rerun with --debug"
            click.echo(printable(text), err=True)
            _drop_output()
            raise click.exceptions.Exit(1) from None


def _drop_output() -> None:
    """Where standard output can take no more, what waits goes nowhere, so that the flush at exit does not fail in its own words."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
