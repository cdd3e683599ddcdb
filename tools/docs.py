"""Write docs/cli.md, docs/settings.md and docs/reference.md from the code; ``--check`` only compares them.

The commands come from typer, the settings from ``settings.table``, the reference from ``tools.reference``. Nothing in
the three files is written by hand.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imagecache.cli.commands import app
from imagecache.cli.doctor import EXIT_CODES
from imagecache.errors import NextStep
from imagecache.settings.flags import as_text
from imagecache.settings.table import CONFIG_ENVIRONMENT, CONFIG_FILE, DEBUG_ENVIRONMENT, SETTINGS, Setting
from tools.reference import NEXT, reference, table

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATED = "<!-- made by tools/docs.py from the code; do not edit -->\n"

INTRODUCTION = f"""\
`imagecache COMMAND --help` shows the same. Results are on stdout, notes and errors on stderr. Colours appear on a
terminal only, and never with `NO_COLOR`. `{DEBUG_ENVIRONMENT}=1` adds a traceback to errors.
`imagecache --install-completion` installs completion for the current shell.

Every command takes `--store`, `--config`, `--log-format` and `--log-level`; these and the flags named under "settings"
are explained in [settings.md](settings.md)."""
_PRECEDENCE = f"""\
A flag wins over the environment, that over the configuration file, that over the default. The file is `{CONFIG_FILE}`
or what `--config` or `{CONFIG_ENVIRONMENT}` names; it is TOML with one `name = value` a line. A key that is not in the
table is an error. A flag exists on the commands that use the setting; `daemonset` has none: the chart sets it in the
environment of its pods.

Registries are reached through the HTTP proxies that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name, by the rules that
containerd has for them; this machine itself is always reached directly."""
PRECEDENCE = "\n\n".join(textwrap.fill(each, 120, break_on_hyphens=False) for each in _PRECEDENCE.split("\n\n"))
"""Filled again: the names in it are longer than their places in the text above."""
EXIT_CODES_TEXT = """\
Every error has a code of its own: see [reference.md](reference.md#errors-and-exit-codes)."""
LAYER_BUILD = """\
One JSON object: `diffID`; `digest` and `size` of the layer image; `tarSize`, bytes of the layer's tar; `entries`;
`threads`, the cores that have inflated it; `contextDependent`, whether the layer has implied directories, so that the
layer image is right only above the layers that `--lower` named."""
JSON_EVENTS = (
    ("accepted", "`name`, `cacheId`, `resumed`, `notes`", "the object exists, its build begins"),
    (
        "resolved",
        "`image`, `digest`, `layers`, `size`",
        "an image is known; `size` is of all its layers, compressed",
    ),
    ("planned", "`layers` (`digest`, `size`, `cached`, `images`), `done`, `total`", "what is to be done"),
    ("progress", "`layer`, `downloaded`, `converted`, `done`, `total`", "at most five a second, and the last one"),
    ("imageReady", "`image`, `done`, `total`", "every layer of the image is in the store"),
    ("ready", "`name`, `cacheId`", "the cache is Ready"),
    (
        "attached",
        "`images`, `withheld`, `unverified`, `reserved`, `missed`, `foreign`, `unpackedInto`, `leftOut`",
        (
            "names in containerd, private images, those of a registry that nobody has verified, those whose names no "
            "cache may record, those that native mode cannot serve, those for other platforms; other snapshotters that "
            "have them, handlers that cannot start them"
        ),
    ),
    ("error", "`reason`, `message`, `hint`, `image`, `nextStep`, `exitCode`", "why it failed; always the last"),
)


def cli() -> str:
    """docs/cli.md."""
    root: Any = typer.main.get_command(app)
    parts = [
        GENERATED,
        "# The command line",
        INTRODUCTION,
    ]
    for name, command in _commands(root, "imagecache"):
        parts.append(_command(name, command))
    parts += [
        "## Exit codes",
        EXIT_CODES_TEXT,
        _exit_codes(),
        "## Output of `create --json` and `apply --json`",
        _json_events(),
    ]
    parts += ["## Output of `layer build`", LAYER_BUILD]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _command(name: str, command: Any) -> str:
    own = [parameter for parameter in command.params if not _is_setting(parameter)]
    settings = [parameter for parameter in command.params if parameter not in own]
    arguments = [parameter for parameter in own if parameter.param_type_name == "argument"]
    options = [parameter for parameter in own if parameter.param_type_name == "option"]
    usage = " ".join([name, "[OPTIONS]", *(parameter.metavar for parameter in arguments)])
    lines = [f"## {name}", f"```\n{usage}\n```", inspect.cleandoc(command.help or "")]
    rows = [(f"`{parameter.metavar}`", parameter.help) for parameter in arguments]
    rows += [(_option(parameter), parameter.help) for parameter in options]
    if rows:
        lines.append(table(("", "meaning"), rows))
    common = {"--store", "--config", "--log-format", "--log-level"}
    names = [f"`{parameter.opts[0]}`" for parameter in settings if parameter.opts[0] not in common]
    if names:
        lines.append(f"Settings: {', '.join(names)}.")
    return "\n\n".join(lines)


def _is_setting(parameter: Any) -> bool:
    """Whether the flag is a setting's; a command may use the same flag, or the same name, for something else."""
    setting = SETTINGS.get(parameter.name)
    return parameter.name == "config" or (setting is not None and setting.flag in parameter.opts)


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{option}`" for option in parameter.opts)
    return f"{names} {parameter.metavar}" if parameter.metavar else names


def _exit_codes() -> str:
    """Of success and of ``doctor``; the others are errors'."""
    rows = [("0", "done")] + [
        (str(code), f"`doctor`: {each.name.lower()}") for each, code in EXIT_CODES.items() if code
    ]
    return table(("code", "meaning"), rows)


def _json_events() -> str:
    rows = [(f"`{name}`", fields, meaning) for name, fields, meaning in JSON_EVENTS]
    text = "One JSON object a line; `event` is its kind. Sizes, `done` and `total` are bytes. Keys are never removed."
    steps = table(("`nextStep`", "who acts"), [(f"`{step.value}`", NEXT[step]) for step in NextStep])
    return f"{text}\n\n{table(('event', 'keys', 'when'), rows)}\n\n{steps}"


def settings() -> str:
    """docs/settings.md."""
    flags = _flags(typer.main.get_command(app))
    rows = [
        (f"`{setting.name}`", _names(setting, flags), setting.unit, _default(setting), setting.help)
        for setting in SETTINGS.values()
    ]
    header = ("name", "flag, environment", "unit", "default", "meaning")
    return f"{GENERATED}\n# Settings\n\n{PRECEDENCE}\n\n{table(header, rows)}\n"


def _flags(command: Any) -> set[str]:
    """Of a command and of all commands below it."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(_flags(child) for child in getattr(command, "commands", {}).values()))


def _names(setting: Setting, flags: set[str]) -> str:
    return f"`{setting.flag}`<br>`{setting.env}`" if setting.flag in flags else f"`{setting.env}`"


def _default(setting: Setting) -> str:
    value = as_text(setting.default)
    return f"`{value}`" if value else "empty"


def _wrapped(page: str) -> str:
    """Long lines at 120 columns; tables and code stay."""
    lines, code = [], False
    for line in page.split("\n"):
        code ^= line.startswith("```")
        if code or line.startswith("|"):
            lines.append(line)
        else:
            lines += textwrap.wrap(line, 120, break_on_hyphens=False, break_long_words=False) or [""]
    return "\n".join(lines)


def main() -> None:
    """Write the files, or check them."""
    stale = []
    pages = {"cli.md": cli(), "settings.md": settings(), "reference.md": f"{GENERATED}\n{reference(_exit_codes())}"}
    for name, page in pages.items():
        path, text = DOCS / name, _wrapped(page)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"not current: {', '.join(stale)}; run .venv/bin/python tools/docs.py")


if __name__ == "__main__":
    main()
