"""Command-line flags for settings, generated from their table.

``@settings_flags("address", ...)`` gives a command those flags, and ``--store``, ``--config``, ``--log-format`` and
``--log-level``, which every command has; a command with a parameter ``session`` gets that instead. It must not know any
command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, get_type_hints

import typer

from imagecache.cli.session import Environment, Session
from imagecache.settings.flags import as_text
from imagecache.settings.table import CONFIG_FILE, SETTINGS

COMMON = ("store", "log_format", "log_level")
Command = Callable[..., None]


def settings_flags(
    *names: str, renamed: Mapping[str, str] | None = None, service: bool = False
) -> Callable[[Command], Command]:
    """Add the flags of these settings.

    Args:
        names: settings beyond those that every command has.
        renamed: other flags, for this command only, by name of the setting.
        service: the command runs until SIGTERM.
    """
    settings = (*names, *COMMON)

    def decorate(command: Command) -> Command:
        # typer reads a signature, so the wrapper gets one that is put together here
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "session"
        ]

        def wrapper(ctx: typer.Context, **values: object) -> None:
            # texts, and not typer's types: load() checks a flag with the same rules as the environment and the file
            flags = {name: _text(values.pop(name)) for name in settings}
            config_file = _text(values.pop("config"))
            environment = ctx.find_object(Environment) or Environment()
            session = Session.open(environment, flags, config_file, service=service)
            command(**values, **({"session": session} if "session" in hints else {}))

        added = [_parameter(name, _flag(name, (renamed or {}).get(name))) for name in settings]
        added.append(_parameter("config", _config()))
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        parameters = [context, *own, *added]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapper.__name__ = command.__name__
        wrapper.__doc__ = command.__doc__
        return wrapper

    return decorate


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _parameter(name: str, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(name: str, renamed: str | None) -> object:
    setting = SETTINGS[name]
    return Annotated[
        str | None,
        typer.Option(
            renamed or setting.flag,
            metavar=_metavar(setting.unit),
            help=f"{setting.help} [{setting.env}]",
            show_default=as_text(setting.default) or False,
        ),
    ]


def _metavar(unit: str) -> str:
    """Choices unchanged, anything else as one word in capitals."""
    return unit.replace(" ", "") if "|" in unit else unit.split(",", maxsplit=1)[0].replace(" ", "-").upper()


def _config() -> object:
    return Annotated[
        str | None,
        typer.Option(
            "--config", metavar="FILE", help="Configuration file. [IMAGECACHE_CONFIG]", show_default=str(CONFIG_FILE)
        ),
    ]
