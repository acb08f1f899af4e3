"""What a mistyped name was meant to be."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that look most like `name`, at most so many, whatever their capitals; none if none is near.

    >>> nearest("max_step", ["seed", "max_steps"]), nearest("Cifar11", ["cifar10", "cifar100", "mnist"], most=2)
    (['max_steps'], ['cifar10', 'cifar100'])
    >>> nearest("colour", ["seed", "max_steps"])
    []
    """
    by_lower_case = {each.lower(): each for each in known}
    found = difflib.get_close_matches(str(name).lower(), by_lower_case, n=most, cutoff=0.7)
    return [by_lower_case[each] for each in found]


def instead(name: object, known: Iterable[str], called: str = "allowed") -> str:
    """How a sentence about an unknown name ends: with the one that was meant, if one is near, and all that there are.

    Args:
        name: That is unknown.
        known: In the order in which they are listed.
        called: What the list is called.

    >>> instead("max_step", ["max_steps", "seed"]), instead("colour", ["max_steps", "seed"])
    ('; did you mean max_steps? Allowed: max_steps, seed.', '; allowed: max_steps, seed.')
    """
    listed = list(known)
    near = nearest(name, listed)
    names = f"{', '.join(listed) or 'none'}."
    return f"; did you mean {near[0]}? {called.capitalize()}: {names}" if near else f"; {called}: {names}"
