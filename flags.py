"""Fields of a dataclass that are options of a script.

A field made with `option` is at the same time a default, a range and a command-line
flag, so the scripts, their `--help` and the checks can not drift apart.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import Field, field, fields
from typing import Any, NoReturn, TypeVar

Config = TypeVar("Config")


def option(
    default: Any,
    *flags: str,
    help: str,
    type: type = str,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    negatable: bool = False,
) -> Any:
    """Make a dataclass field that is also a command-line option.

    Without flags it is a positional argument that may be left out. `low` and `high` are
    the ends of the allowed range, both allowed; `above` is an end that is not allowed.
    A bool that is on unless told, or `negatable`, has a `--no-` form.
    """
    return field(
        default=default,
        metadata={
            "flags": flags,
            "help": help,
            "type": type,
            "low": low,
            "high": high,
            "above": above,
            "choices": choices,
            "negatable": negatable or default is True,
        },
    )


def _flag(entry: Field[Any]) -> str:
    return "/".join(entry.metadata["flags"]) or entry.name


def _check_range(entry: Field[Any], value: Any) -> None:
    rule = entry.metadata
    low, high = rule["low"], rule["high"]
    if rule["above"] is not None and not value > rule["above"]:
        raise ValueError(f"argument {_flag(entry)}: {value} is not above {rule['above']}")
    if not (low <= value <= high and (type(value) is int or math.isfinite(value))):
        allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"argument {_flag(entry)}: {value} is not allowed, it must be {allowed}")


def _check_kind(entry: Field[Any], value: Any) -> None:
    """For argparse makes an empty list of `--flag=--`."""
    kind = entry.metadata["type"]
    if not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"argument {_flag(entry)}: {value!r} is not a value for it")


class Checked:
    """Checks every option of a dataclass when a value of it is made."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if value is None or not entry.metadata:
                continue
            _check_kind(entry, value)
            if entry.metadata["type"] in (int, float):
                _check_range(entry, value)
            choices = entry.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"argument {_flag(entry)}: {value!r} is not one of {choices}")


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line.

    A long option may be abbreviated; those with a letter of their own come first, so that
    newer ones do not make an abbreviation ambiguous.
    """

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        found = super()._get_option_tuples(option_string)  # type: ignore[misc]
        lettered = [o for o in found if any(len(flag) == 2 for flag in o[0].option_strings)]
        return lettered if len(lettered) == 1 else found

    def error(self, message: str) -> NoReturn:
        """End the program with a sentence, on one line whatever was typed, and exit 2."""
        told = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        self.exit(2, f"{self.prog}: {told}\n")


def told_default(entry: Field[Any]) -> str:
    """The default of an option as help and README show it; nothing for none."""
    return "" if entry.default in (None, "") or entry.default is False else str(entry.default)


def add_arguments(parser: argparse.ArgumentParser, kind: type[Config]) -> None:
    """Give `parser` one argument for every option of the dataclass `kind`."""
    for entry in fields(kind):  # type: ignore[arg-type]
        rule = entry.metadata
        default = told_default(entry)
        text = (rule["help"] + (f" ({default})" if default else "")).replace("%", "%%")
        if rule["type"] is bool:
            action = argparse.BooleanOptionalAction if rule["negatable"] else "store_true"
            parser.add_argument(
                *rule["flags"], dest=entry.name, action=action, default=entry.default, help=text
            )
        elif rule["flags"]:
            parser.add_argument(
                *rule["flags"],
                dest=entry.name,
                type=rule["type"],
                default=entry.default,
                help=text,
                metavar=entry.name.upper(),
            )
        else:
            parser.add_argument(
                entry.name, nargs="?", type=rule["type"], default=entry.default, help=text
            )


def to_argv(options: Any) -> list[str]:
    """The arguments of which `parse` makes `options`: those that are not the defaults.

    For options that all have flags.
    """
    argv = []
    for entry in fields(options):
        value, flags = getattr(options, entry.name), entry.metadata["flags"]
        if value == entry.default:
            continue
        if entry.metadata["type"] is bool:
            argv.append(flags[-1] if value else f"--no-{flags[-1][2:]}")
        elif str(value).startswith("-"):
            argv.append(f"{flags[-1]}={value}")
        else:
            argv += [flags[0], str(value)]
    return argv


def parse(
    parser: argparse.ArgumentParser,
    kind: type[Config],
    argv: Sequence[str] | None,
    **defaults: Any,
) -> Config:
    """Parse `argv` into a checked `kind`; a wrong value ends the program with one line, exit 2.

    `defaults` replace those of `kind`.
    """
    add_arguments(parser, kind)
    parser.set_defaults(**defaults)
    try:
        return kind(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
