"""The check that the counts among an attack's fields are counts."""


def check_counts(attack: object, *names: str, otherwise: str = "") -> None:
    """Refuse fields of an attack that are no positive integers.

    Args:
        attack: The attack.
        names: Its fields.
        otherwise: What else is allowed, for the error.

    Raises:
        ValueError: If one is not.
    """
    for name in names:
        count = getattr(attack, name)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{type(attack).__name__} {name} must be an integer >= 1{otherwise}, got {count!r}")
