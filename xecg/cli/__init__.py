"""The `xecg` command: commands are loaded when they are asked for, one file each, no logic of their own.

Exit codes: 0 done · 1 failed · 2 usage · 3 done, some inputs refused · 130 interrupted (what was done is kept).
"""

from __future__ import annotations

from importlib import import_module

import click

from xecg.cli.group import Group

__all__ = ["main"]

_COMMANDS = (
    "convert", "distill", "doctor", "embed", "finetune", "inspect", "plot", "predict", "preprocess", "pretrain", "similar",
    "store", "stream",
)  # fmt: skip


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.meta["xecg.debug"] = True


_DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        import xecg

        click.echo(f"xecg {xecg.__version__}")
        context.exit()


_VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)


class _Group(Group):
    """Loads `xecg.cli.NAME` on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"xecg.cli.{cmd_name}").command
        if _DEBUG not in command.params:  # so that --debug works after the command's name too
            command.params.append(_DEBUG)
        return command


main = _Group(
    name="xecg",
    params=[_VERSION, _DEBUG],
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Embeddings, tokens and events from raw ECGs. Research use only, not a medical device.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 done but some inputs were refused, 130 interrupted.",
)
