"""The values of all label files together: those that no class has, and those that are of another kind of ids."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from hf_urbanseg.data.preflight.pair_files import OpenedPair, PairInspection
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace


def count_all(pairs: Iterable[PairInspection]) -> Counter:
    """Pixels per value in several label files."""
    counts = Counter()
    for pair in pairs:
        counts.update(pair.label_counts)
    return counts


def find_unknown(pair: PairInspection | OpenedPair, label_space: LabelSpace) -> dict[int, int]:
    """Pixels per unknown value, the commonest first, unless they are few enough to be void."""
    unknown = {value: count for value, count in pair.label_counts.items() if value not in label_space.label_ids}
    few = sum(unknown.values()) <= label_space.edge_tolerance * sum(pair.label_counts.values())
    return {} if few else unknown


def refuse_values(
    unknown: Mapping[int, int], pixels: int, files_with: Mapping[int, int], space: LabelSpace, where: str
) -> DataError:
    """The error about a label of `pixels` with values that are `unknown`."""
    listed = [f"{space.spell(value) if value >= 0 else 'others'} in {count} pixels" for value, count in unknown.items()]
    first = next(iter(unknown))
    found = f"{first_few(listed)}; {files_with[first]} file(s) have {'this value' if len(unknown) == 1 else listed[0]}"
    if space.encoding == "color":
        share = sum(unknown.values()) / pixels
        fix = "list the colours under their class as `label_colors`, or under `void`; where edges were drawn with "
        fix += f"anti-aliasing, `edge_tolerance: {max(share * 1.5, 0.01):.2g}` makes pixels of other colours void"
    elif list(unknown) == [space.num_labels] and _counts_from_0(space):
        names = f"{{1: {space.names[0]}, ..., {space.num_labels}: {space.names[-1]}}}"
        fix = "if these files count the classes from 1, with 0 for all others, as ADE20K's do, every class was one "
        fix += f"off: write `id2label: {names}` and `void: [0]`; if not, correct the label, or name the value"
    else:
        fix = "correct the label, list the value under its class or `void` in the `--label_space` file, or choose the "
        fix += "label space these files were made for"
    return DataError(f"only label values of `{space.name}` ({list_values(space.label_ids, space)})", found, fix, where)


def check_id_kind(seen: Collection[int], label_space: LabelSpace) -> None:
    """Refuses files of one kind of ids where another is expected: most classes would be read as others or as void.

    - Train ids for label ids: a third of the classes or more, two at least, have ids above the number of classes, none
      of which any pixel has, and several smaller values occur, of which one at least is no class in the mapping.
    - Masks of 0 and 255 for ids 0 and 1.

    Values of no kind are left to the next check.
    """
    ids, count = label_space.label_ids, label_space.num_labels
    classes = {value for value, train_id in ids.items() if train_id != IGNORE_INDEX}
    if classes == {0, 1} and set(seen) == {0, IGNORE_INDEX} and ids.get(IGNORE_INDEX) == IGNORE_INDEX:
        names = f"{{0: {label_space.names[ids[0]]}, 255: {label_space.names[ids[1]]}}}"
        fix = f"write `id2label: {names}`"
        raise DataError(f"label ids of `{label_space.name}` (0, 1)", "0 and 255 alone, as binary masks have", fix)
    large = {value for value in classes if value >= count}
    if (
        label_space.encoding == "color"
        or len(large) < max(2, count / 3)
        or large & set(seen)
        or sum(value < count for value in seen) < 2
        or not any(value < count and value not in classes for value in seen)
        or any(value >= count and value not in ids for value in seen)
    ):
        return
    own = f"`--label_space {label_space.name}_train_ids`"
    raise DataError(
        f"label ids of `{label_space.name}` ({list_values(classes, label_space)})",
        f"no class above {count - 1} in any label ({list_values(seen, label_space)}), which looks like train ids",
        f"use {own if label_space.name == 'cityscapes' else 'a label space'} that lists 0..{count - 1}, or, if they "
        "really are label ids, one that has only the classes which occur",
    )


def list_values(values: Iterable[int], label_space: LabelSpace) -> str:
    """`0..3, 7` for 7, 0, 1, 2 and 3; colours one by one."""
    values = sorted(value for value in values if value >= 0)
    if label_space.encoding == "color":
        return first_few([label_space.spell(value) for value in values], 8)
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join("..".join(map(str, run)) for run in runs)


def _counts_from_0(space: LabelSpace) -> bool:
    """Whether ids are train ids, as of an id2label that lists the classes from 0."""
    counted = {train_id: train_id for train_id in range(space.num_labels)} | {IGNORE_INDEX: IGNORE_INDEX}
    return space.encoding == "ids" and dict(space.label_ids) | {IGNORE_INDEX: IGNORE_INDEX} == counted


def find_odd_values(values: Counter, label_space: LabelSpace) -> Iterable[str]:
    """A sentence on each oddity of the pixels per value in the whole set."""
    ids, last = label_space.label_ids, label_space.num_labels - 1
    unknown = {value: count for value, count in values.most_common() if value not in ids}
    if unknown:
        some = first_few([label_space.spell(value) for value in unknown if value >= 0])
        share = 100 * sum(unknown.values()) / values.total()
        yield f"{share:.2g} % of all pixels are void because their values are no class's (edges): {some}."
    if last > 1 and _counts_from_0(label_space) and values[0] and not values[last] and not values[IGNORE_INDEX]:
        yield (
            f"the last class, {label_space.names[last]} (id {last}), has no pixel, and {label_space.names[0]} (id 0) "
            "has some: if 0 means `other` in these files, as in ADE20K's, every class is read as its neighbour; look "
            f"at pictures (`urbanseg browse-data`), and if so write `id2label: {{1: {label_space.names[0]}, ...}}` "
            "and `void: [0]`."
        )


def first_few(words: list[str], limit: int = 5, between: str = ", ") -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return between.join(words[:limit]) + more
