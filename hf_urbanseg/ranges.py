"""What numbers an option may be: stated in its type, held by one check before anything is read or written.

A dataclass may have `RANGES` of fields that it inherits from a library, and `HIDDEN`, those that it has no use for.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Annotated, NamedTuple, get_args, get_type_hints

from hf_urbanseg.errors import ConfigError


class Range(NamedTuple):
    """What an option's number may be, or each of its numbers; infinity and NaN never. Part of the option's type.

    `flip: Annotated[float, Range(0, 1)]`; `check_options` then holds it.

    Args:
        least, most: The bounds.
        above, below: The bound itself is out.
        also: A number beside them.
        sides: Of a (height, width), of which there must be two.
        multiple: Whole numbers of this alone; what is nearest to the number found is proposed.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False
    also: float | None = None
    sides: bool = False
    multiple: int = 1

    def __str__(self) -> str:
        least = f"above {self.least:,}" if self.above else f"of {self.least:,}"
        if self.most == math.inf:
            bounds = least if self.above else f"{least} or more"
        elif self.below:
            bounds = f"{least} to below {self.most:,}"
        else:
            bounds = f"{least}, up to {self.most:,}" if self.above else f"{least}..{self.most:,}"
        if self.multiple > 1:
            bounds += f" in multiples of {self.multiple}"
        return bounds if self.also is None else f"{bounds} or {self.also}"

    def __contains__(self, value) -> bool:
        if not isinstance(value, Real) or not abs(value) <= sys.float_info.max:
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return value == self.also or (low and high and (self.multiple == 1 or value % self.multiple == 0))

    def nearest(self, value: float) -> int:
        """The multiple within the bounds that is nearest."""
        return int(min(max(self.multiple * math.floor(value / self.multiple + 0.5), self.least), self.most))

    def check(self, name: str, value, path: str | Path | None = None) -> None:
        """Refuses a number, or a list with one, outside, and an empty list; None is an option that wasn't given."""
        values = value if isinstance(value, list | tuple) else [value]
        # HfArgumentParser replaces any `nargs` of a list by "+", so that there may be any number of sides.
        right = values and all(one in self for one in values) and (not self.sides or len(values) == 2)
        if value is not None and not right:
            found = list(value) if isinstance(value, tuple) else value
            kind = " as height and width" if self.sides else ""
            fix = "correct it"
            numbers = [one for one in values if isinstance(one, Real) and abs(one) <= sys.float_info.max]
            if self.multiple > 1 and len(numbers) == len(values) == (2 if self.sides else 1):
                fix = f"give for example {' '.join(str(self.nearest(one)) for one in numbers)}"
            raise ConfigError(f"`{name}`{kind} {self}", f"{found}", fix, path)


# The types of options. An upper bound without a reason in nature is more than anybody needs, and breaks no library.
Share = Annotated[float, Range(0, 1)]
ShareAboveZero = Annotated[float, Range(0, 1, above=True)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
Amount = Annotated[float, Range(0)]
Seconds = Annotated[float, Range(0, 10**7)]
Steps = Annotated[float, Range(0, 10**9, above=True)]
Whole = Annotated[int, Range(1, 10**9)]
Count = Annotated[int, Range(0, 10_000)]
Workers = Annotated[int, Range(0, 256)]
Batch = Annotated[int, Range(1, 4096)]
Width = Annotated[int, Range(1, 65_536)]
Port = Annotated[int, Range(1, 65_535)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Size = Annotated[list[int], Range(32, 16_384, sides=True)]
INPUT_SIDES = Range(32, 16_384, sides=True, multiple=32)
"""Of a network's input: it halves its maps five times."""
InputSize = Annotated[list[int], INPUT_SIDES]


def find_ranges(options_type: type) -> Mapping[str, Range]:
    """The ranges in the types of a dataclass's fields and in its `RANGES`, by name."""

    def search(hint):
        yield from (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range))
        for part in get_args(hint):
            yield from search(part)

    hints = get_type_hints(options_type, include_extras=True)
    found = {name: one for name, hint in hints.items() for one in search(hint)}
    return found | getattr(options_type, "RANGES", {})


def check_options(options, options_type: type | None = None, path: str | Path | None = None) -> None:
    """Refuses the first option outside its range, or without a value where its type asks for one.

    Args:
        options: The dataclass, or what has the fields of `options_type`.
        path: Of the file they are from, for the message.
    """
    options_type = options_type or type(options)
    hints, ranges = get_type_hints(options_type), find_ranges(options_type)
    hidden = getattr(options_type, "HIDDEN", ())
    for name in (field.name for field in fields(options_type) if field.init and field.name not in hidden):
        value = getattr(options, name)
        if value is None and type(None) not in get_args(hints[name]):
            raise ConfigError(f"a value for `{name}`", "none", "give one or leave the option out", path)
        if name in ranges:
            ranges[name].check(name, value, path)


def check_range(least: float, most: float = math.inf, **values: float | None) -> None:
    """Refuses arguments outside `least` to `most`, infinity and NaN; None is one that wasn't given."""
    for name, value in values.items():
        Range(least, most).check(name, value)
