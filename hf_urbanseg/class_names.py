"""Classes of one model or set found in another: by name, never by position."""

from collections.abc import Sequence

from hf_urbanseg.errors import ConfigError


def find_common_classes(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, list[int]]:
    """Our index -> their indices of the classes in common, in our order.

    Case, underscores and the synonyms after a comma ("road, route") don't matter.
    """
    known: dict[str, list[int]] = {}
    for index, label in enumerate(theirs):
        for word in {_plain(word) for word in str(label).split(",")} | {_plain(label)}:
            known.setdefault(word, []).append(index)
    return {index: known[word] for index, label in enumerate(ours) if (word := _plain(label)) in known}


def match_classes(theirs: Sequence[str], ours: Sequence[str], name: str) -> list[tuple[int, int]]:
    """(their index, our index) of the classes that a teacher has in common with the data, by `find_common_classes`.

    Raises:
        ConfigError: None in common, or two of theirs for one of ours.
    """
    common = find_common_classes(theirs, ours)
    for train_id, found in common.items():
        if len(found) > 1:
            which = " and ".join(f"`{theirs[index]}`" for index in found)
            expected = f"one class of the teacher's for `{ours[train_id]}`"
            raise ConfigError(expected, which, "rename one in its config.json", name)
    if not common:
        some = ", ".join(map(str, theirs[:3]))
        expected = f"a teacher with classes of the data's ({', '.join(ours[:3])}, ...), by name"
        raise ConfigError(expected, f"{some}, ...", "choose another, or rename its classes in config.json", name)
    return [(found[0], train_id) for train_id, found in common.items()]


def _plain(label: object) -> str:
    return str(label).strip().lower().replace("_", " ")
