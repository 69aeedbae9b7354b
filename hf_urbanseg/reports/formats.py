"""How numbers are written in tables, plots and pages."""


def format_percent(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A fraction in percent, without the "%"; `-` for None and NaN. With `sign` "+" a plus is written, too."""
    return "-" if value is None or value != value else f"{100 * value:{sign}.{digits}f}"


def format_change(value: float | None) -> str:
    """A difference of two fractions in percent, signed; a plain 0 where there is none."""
    return "0" if value == 0 else format_percent(value, sign="+")


def format_p_value(value: float) -> str:
    """Of 0.1 and above two digits, below four; a bootstrap's least one is 0.0002."""
    return f"{value:.{4 if value < 0.0995 else 2}f}"


def format_seconds(seconds: float) -> str:
    """`1:02:03`, or `4.2 s` below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
