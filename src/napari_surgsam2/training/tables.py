"""What all tables of a settings file check, and how their errors say where something is wrong."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from napari_surgsam2.errors import UsageError
from napari_surgsam2.settings import _Settings

BACKSLASHES = "Write paths with / or in single quotes: in double quotes \\ begins a special character."


class Table(_Settings):
    """A table of the file: what all of them check."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from plain values, lists in the place of tuples.

        Raises
        ------
        UsageError
            If a key is unknown or missing, or a value is out of its range.
        """
        cls._refuse_unknown(values)
        needed = [
            f.name
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if missing := [name for name in needed if name not in values]:
            raise UsageError(f"{missing[0]} is missing; set it.")
        return cls(**values)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse(self, name: str, rule: str) -> UsageError:
        return UsageError(f"{name} is {getattr(self, name)!r}; it must be {rule}.")

    def _require_number(
        self, name: str, low: float = 0.0, high: float = math.inf, *, above: bool = False
    ) -> None:
        """Check a setting, and make it a float; `above` leaves `low` itself out."""
        value = getattr(self, name)
        number = as_number(value)
        if number is None or not low <= number <= high or (above and number == low):
            start = f"above {low:g}" if above else f"{low:g} or more"
            end = "" if high == math.inf else f", at most {high:g}"
            raise self._refuse(name, f"a number, {start}{end}")
        self._set(name, number)

    def _require_flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise self._refuse(name, "true or false")

    def _require_text(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or not value:
            raise self._refuse(name, "a text that is not empty")
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise UsageError(f"{name} is {value!r}, which has a control character in it. {BACKSLASHES}")

    def _require_choice(self, name: str, choices: Sequence[str]) -> None:
        if getattr(self, name) not in choices:
            raise self._refuse(name, f"one of {', '.join(map(repr, choices))}")

    def _require_numbers(self, name: str, low: float, high: float, *, ordered: bool = True) -> None:
        """Check a pair of numbers, and make it a tuple of floats."""
        values = getattr(self, name)
        pair = [as_number(v) for v in values] if isinstance(values, (list, tuple)) else []
        numbers = [v for v in pair if v is not None and low <= v <= high]
        if len(numbers) != 2 or len(pair) != 2 or (ordered and numbers[0] > numbers[1]):
            rising = ", the smaller one first" if ordered else ""
            raise self._refuse(name, f"two numbers from {low:g} to {high:g}{rising}")
        self._set(name, tuple(numbers))

    def _require_integers(self, name: str, low: int, *, ordered: bool) -> None:
        """Check a pair of whole numbers, and make it a tuple."""
        values = getattr(self, name)
        fits = (
            isinstance(values, (list, tuple))
            and len(values) == 2
            and all(isinstance(v, int) and not isinstance(v, bool) and v >= low for v in values)
        )
        if not fits or (ordered and values[0] > values[1]):
            rising = ", the smaller one first" if ordered else ""
            raise self._refuse(name, f"two whole numbers, at least {low}{rising}")
        self._set(name, tuple(values))

    def _require_texts(self, name: str) -> None:
        """Check a list of texts, and make it a tuple."""
        values = getattr(self, name)
        if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) and v for v in values):
            raise self._refuse(name, "a list of texts")
        self._set(name, tuple(values))


_T = TypeVar("_T", bound=Table)


def as_number(value: Any) -> float | None:
    """Return a value as a float; None of one that is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def table(kind: type[_T], name: str, value: Any) -> _T:
    """Make settings of a table, whose name goes into the error."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is {value!r}; it must be a table.")
    try:
        return kind.from_dict(value)
    except UsageError as error:
        raise UsageError(f"{name} {error}") from error


def tables(kind: type[_T], name: str, values: Any) -> tuple[_T, ...]:
    """Make settings of a list of tables, whose name goes into the error with the table's number."""
    if not isinstance(values, (list, tuple)):
        raise UsageError(f"{name} is {values!r}; it must be a list of tables.")
    return tuple(table(kind, f"{name} number {i}:", value) for i, value in enumerate(values, 1))
