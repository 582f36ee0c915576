"""Which sequences are for validation; all others are for training."""

from __future__ import annotations

from napari_surgsam2.errors import UsageError

SPLITS: dict[int, dict[str, frozenset[int]]] = {
    2017: {
        "surgsam2": frozenset({2, 5, 6}),
        # the four folds of Shvets et al. (arXiv 1803.01207), which ISINet uses
        "fold0": frozenset({1, 3}),
        "fold1": frozenset({2, 5}),
        "fold2": frozenset({4, 8}),
        "fold3": frozenset({6, 7}),
    },
    2018: {"surgsam2": frozenset({2, 5, 9, 15})},  # ISINet's as well
}
"""By year and name. Surgical SAM 2's of 2017 is the one that its authors' Ref-EndoVis17 has."""


def validation_sequences(year: int, split: str) -> frozenset[int]:
    """Return the numbers of the sequences for validation.

    Raises
    ------
    UsageError
        If there is no such year or split.
    """
    if year not in SPLITS:
        raise UsageError(f"The year is {year}; it must be {' or '.join(map(str, SPLITS))}.")
    if split not in SPLITS[year]:
        raise UsageError(f"The split is '{split}'; of EndoVis {year} there are: {', '.join(SPLITS[year])}.")
    return SPLITS[year][split]
