"""A click group that imports each command when it is called, and turns errors into messages and exit codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from tokfilter.errors import MissingDependencyError, TokfilterError

__all__ = ["LazyCommand", "LazyGroup", "needs"]

_NEEDED: Final = f"{__name__}.needed"
_TRACEBACK: Final = f"{__name__}.traceback"


@dataclass(frozen=True)
class LazyCommand:
    """A click command that is not imported yet.

    target: "module:attribute"
    help: one line
    checkout: whether its module is in the source checkout only, not in the wheel
    extra: the extra, or several with commas, that it needs whatever its arguments are; see ``needs`` for the others
    """

    target: str
    help: str
    checkout: bool = False
    extra: str | None = None


def needs(extra: str) -> None:
    """State the extra that the running command needs with its arguments: what it says where a package is missing.

    Without this the smallest extra of that one package is named, and the next package may need another.
    """
    context = click.get_current_context(silent=True)
    if context is not None:
        context.find_root().meta[_NEEDED] = extra


class _Failure(click.ClickException):
    """An error that the user can fix: a message and an exit code, no traceback."""

    def __init__(self, message: str, exit_code: int) -> None:
        from tokfilter.artifacts.text import printable  # an error may quote a file

        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class LazyGroup(click.Group):
    """Imports a command's module when it is called; --help imports none.

    TokfilterError becomes its message and exit code, a missing package the extra that has it (exit code 4), any other
    exception one sentence (exit code 1). ``--traceback``, before the verb, also prints where it was raised.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy
        self.params.append(
            click.Option(
                ["--traceback"],
                is_flag=True,
                expose_value=False,
                envvar="TOKFILTER_TRACEBACK",
                help="Print where an error was raised, before its message.",
                callback=lambda ctx, _, value: ctx.meta.update({_TRACEBACK: value}),
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises MissingDependencyError for one of the checkout in an installed package."""
        if cmd_name not in self.lazy:
            return None
        entry = self.lazy[cmd_name]
        module, _, attribute = entry.target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if entry.checkout and module.startswith(error.name or "-"):
                raise MissingDependencyError(
                    f"{cmd_name} is in the source checkout, not in the installed package: "
                    "clone the repository, run `make install` and start it there."
                ) from error
            raise
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a name; an unknown one is refused with the list of names."""
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. Commands: {', '.join(self.lazy)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become messages and exit codes."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own; it handles a closed standard output
        except Exception as error:
            if ctx.meta.get(_TRACEBACK):
                _print_traceback()
            if isinstance(error, ModuleNotFoundError):
                entry = self.lazy.get(ctx.invoked_subcommand or "")
                _missing_package(error, ctx.meta.get(_NEEDED, entry.extra if entry else None))
            raise _failure(error, ctx) from error


def _failure(error: Exception, ctx: click.Context) -> _Failure:
    if isinstance(error, TokfilterError):
        return _Failure(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _Failure("not enough memory: choose smaller batches, a smaller model, or another machine.", 1)
    if isinstance(error, OSError):
        return _Failure(f"Operating-system error: {error}", 1)
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}{': ' if lines else ''}{lines[0][:300] if lines else ''}"
    return _Failure(
        f"unexpected {what}. This is a defect if your input is sound; "
        f"`{ctx.command_path} --traceback {ctx.invoked_subcommand or 'VERB'} ...` shows where.",
        1,
    )


def _print_traceback() -> None:
    import traceback

    from tokfilter.artifacts.text import printable

    click.echo(printable(traceback.format_exc()), err=True)


def _missing_package(error: ModuleNotFoundError, needed: str | None) -> NoReturn:
    from tokfilter.artifacts.extras import extra_of_module, install_hint  # its imports would slow every start

    name = (error.name or "").split(".")[0]
    if name in ("", "tokfilter"):
        raise _failure(error, click.get_current_context()) from error
    extra = extra_of_module(name, needed)
    remedy = install_hint(extra) if extra else "it comes with none of tokfilter's extras, install it with pip."
    raise _Failure(f"This command needs the package {name}, which is not installed: {remedy}", 4) from error
