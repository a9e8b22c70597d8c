"""Sources are read from names, patterns and CSVs; groups are dealt out whole, evenly, and with every class."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.sources import look_up_groups, read_groups, source_of
from flexunet_pl.data.splits import (
    DEFECT_FREE,
    Group,
    absent_classes,
    fold_groups,
    make_groups,
    split_groups,
)

SPLITS = ("train", "valid", "test")
SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("crack_16", "crack_16"),
        ("barrdistorted_1001_0.3_0.3_crack_16", "crack_16"),
        ("pincdistorted_1001_0.5_-0.5_crack_16", "crack_16"),
        ("deformed_alpha_1300_sigmoid_7_crack_16", "crack_16"),
        ("distorted_0.03_rsigma0.5_sigma40_crack_16", "crack_16"),
        ("hflipped_crack_16", "crack_16"),
        ("vflipped_crack_16", "crack_16"),
        ("hfliped_crack_16", "crack_16"),
        ("rotated_90_crack_16", "crack_16"),
        ("shrinked_0.8_crack_16", "crack_16"),
        ("shrinked_0_8_crack_16", "crack_16"),
        ("shrinked_crack_16", "crack_16"),
        ("sheared_0_1_crack_16", "crack_16"),
        ("sheared_crack_16", "crack_16"),
        ("sheared_15.0_crack_16", "crack_16"),
        ("sharpened_1.0_crack_16", "crack_16"),
        ("brightened_1.2_10_crack_16", "crack_16"),
        ("augmented_12_crack_16", "crack_16"),
        ("hflipped_rotated_90_crack_16", "crack_16"),
        ("vflipped_barrdistorted_1001_0.3_0.3_deformed_alpha_1300_sigmoid_7_crack_16", "crack_16"),
        ("barrdistorted_1001_0.3_0.3_104000_7", "104000_7"),
        ("rotated_90_16", "16"),
        ("sheared_16", "16"),
        ("rotated_90", "rotated_90"),
        ("hflipped_", "hflipped_"),
        ("exp1_num_265613", "exp1_num_265613"),
    ],
)
def test_the_source_is_what_stays_when_the_variant_prefixes_are_gone(stem: str, source: str) -> None:
    assert source_of(stem) == source


VARIANTS = st.sampled_from(
    [
        "barrdistorted_1001_0.3_0.3_",
        "pincdistorted_7_0.5_-0.5_",
        "deformed_alpha_1300_sigmoid_7_",
        "distorted_0.03_rsigma0.5_sigma40_",
        "hflipped_",
        "vflipped_",
        "rotated_270_",
        "shrinked_",
        "shrinked_0.8_",
        "sheared_0_1_",
    ]
)


@given(st.lists(VARIANTS, max_size=5), st.sampled_from(["crack_16", "1001", "a.b-c", "good 7", "0"]))
def test_any_chain_of_variants_leads_back_to_the_source(chain: list[str], source: str) -> None:
    assert source_of("".join(chain) + source) == source


def test_a_pattern_names_the_source() -> None:
    assert source_of("exp3_num_17_view2", r"num_(\d+)") == "17"


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("(", "no regular expression"), ("num", "0 groups"), ("(a)(b)", "2 groups"), ("(zzz)", "no source")],
)
def test_a_pattern_that_cannot_name_sources_is_refused(pattern: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        source_of("exp3_num_17", pattern)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_groups_come_from_a_csv_by_path_or_by_bare_name(tmp_path: Path) -> None:
    path = _write_csv(
        tmp_path / "groups.csv", [["file", "group"], ["A/1.jpg", "g1"], ["B/1.jpg", "g2"], ["7.jpg", "g7"]]
    )
    groups = read_groups(path)
    assert look_up_groups(["A/1.jpg", "B/1.jpg", "deep/7.jpg"], groups, path) == {
        "A/1.jpg": "g1",
        "B/1.jpg": "g2",
        "deep/7.jpg": "g7",
    }
    with pytest.raises(UserError, match=r"1 of 1 files have no line.*C/1\.jpg"):
        look_up_groups(["C/1.jpg"], groups, path)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([["name", "group"], ["a", "b"]], "needs file and group"),
        ([["file", "group"], ["a.jpg", ""]], "line 2 has an empty cell"),
        ([["file", "group"], ["a.jpg", "x"], ["./a.jpg", "y"]], "line 3 puts a.jpg into 'y', an earlier one into 'x'"),
    ],
)
def test_a_csv_that_does_not_say_the_groups_is_refused(tmp_path: Path, rows: list[list[str]], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_groups(_write_csv(tmp_path / "groups.csv", rows))


def test_a_missing_csv_is_a_clean_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_groups(tmp_path / "none.csv")


def test_make_groups_counts_images_by_group_and_class() -> None:
    group_of = {"a1": "a", "a2": "a", "b1": "b"}
    classes_of: dict[str, list[str]] = {"a1": ["crack"], "a2": ["crack", "oil"], "b1": []}
    assert make_groups(group_of, classes_of) == [
        Group("a", 2, {"crack": 2, "oil": 1}),
        Group("b", 1, {DEFECT_FREE: 1}),
    ]


def _images(groups: Sequence[Group], part_of: Mapping[str, str]) -> Counter[str]:
    images: Counter[str] = Counter()
    for group in groups:
        images[part_of[group.name]] += group.images
    return images


@st.composite
def one_class_groups(draw: st.DrawFn, least_sources: int = 1, most_classes: int = 5) -> list[Group]:
    """Groups of 1 to 6 images that each show one class."""
    groups = []
    for label in range(draw(st.integers(1, most_classes))):
        for number in range(draw(st.integers(least_sources, 14))):
            images = draw(st.integers(1, 6))
            groups.append(Group(f"c{label}_{number}", images, {f"c{label}": images}))
    return groups


@st.composite
def many_class_groups(draw: st.DrawFn) -> list[Group]:
    """Groups of 1 to 6 images that show any of four classes."""
    groups = []
    for number in range(draw(st.integers(1, 40))):
        images = draw(st.integers(1, 6))
        labels = draw(st.sets(st.sampled_from("wxyz"), max_size=3))
        shown = {label: draw(st.integers(1, images)) for label in sorted(labels)}
        groups.append(Group(f"g{number}", images, shown or {DEFECT_FREE: images}))
    return groups


shares = st.sampled_from([SHARES, {"train": 0.7, "valid": 0.15, "test": 0.15}, {"train": 0.8, "valid": 0.2, "test": 0}])


@settings(deadline=None, max_examples=40)
@given(st.one_of(one_class_groups(), many_class_groups()), shares, st.integers(0, 5))
def test_every_group_is_in_exactly_one_split_and_the_seed_decides_which(
    groups: list[Group], fractions: dict[str, float], seed: int
) -> None:
    split_of = split_groups(groups, fractions, seed)
    assert split_of.keys() == {group.name for group in groups}
    assert set(split_of.values()) <= {split for split, share in fractions.items() if share}
    assert split_groups(groups[::-1], fractions, seed) == split_of


@settings(deadline=None, max_examples=40)
@given(one_class_groups(), st.integers(0, 5))
def test_every_class_with_three_sources_is_in_all_three_splits(groups: list[Group], seed: int) -> None:
    split_of = split_groups(groups, SHARES, seed)
    assert absent_classes(groups, split_of, SPLITS) == []
    for label in {label for group in groups for label in group.classes}:
        of_class = [group.name for group in groups if label in group.classes]
        assert len(of_class) < 3 or {split_of[name] for name in of_class} == set(SPLITS)
    assert len(groups) < 3 or set(split_of.values()) == set(SPLITS)


@settings(deadline=None, max_examples=40)
@given(one_class_groups(least_sources=6), st.integers(0, 5))
def test_fractions_are_met_within_one_group(groups: list[Group], seed: int) -> None:
    total = sum(group.images for group in groups)
    largest = max(group.images for group in groups)
    images = _images(groups, split_groups(groups, SHARES, seed))
    for split, share in SHARES.items():
        assert abs(images[split] - share * total) <= largest


@settings(deadline=None, max_examples=40)
@given(many_class_groups(), st.integers(0, 5))
def test_fractions_give_way_only_to_classes(groups: list[Group], seed: int) -> None:
    """Where a split is off by more than a group, no single move could mend it without losing a class somewhere."""
    split_of = split_groups(groups, SHARES, seed)
    images, total = _images(groups, split_of), sum(group.images for group in groups)
    largest = max(group.images for group in groups)
    off = {split: images[split] - share * total for split, share in SHARES.items()}
    for split in SPLITS:
        if off[split] > largest:
            receiver = min(SPLITS, key=lambda other: off[other])
            for group in groups:
                if split_of[group.name] == split:
                    alone = [
                        label
                        for label in group.classes
                        if sum(label in other.classes and split_of[other.name] == split for other in groups) == 1
                    ]
                    assert alone, f"{group} could move from {split} to {receiver}"


def test_one_source_trains_and_two_train_and_test() -> None:
    groups = [Group("rough_1", 1, {"rough": 1}), Group("oil_1", 1, {"oil": 1}), Group("oil_2", 1, {"oil": 1})]
    groups += [Group(f"crack_{number}", 1, {"crack": 1}) for number in range(7)]
    split_of = split_groups(groups, SHARES, seed=0)
    assert split_of["rough_1"] == "train"
    assert {split_of["oil_1"], split_of["oil_2"]} == {"train", "test"}


def test_given_splits_stay_and_the_rest_fills_up_around_them() -> None:
    groups = [Group(f"g{number}", 1, {"c": 1}) for number in range(10)]
    fixed = {f"g{number}": "test" for number in range(2)}
    split_of = split_groups(groups, SHARES, seed=3, fixed=fixed)
    assert {name: split_of[name] for name in fixed} == fixed
    assert _images(groups, split_of) == {"train": 6, "valid": 2, "test": 2}


def test_another_seed_deals_another_way() -> None:
    groups = [Group(f"g{number}", 1, {"c": 1}) for number in range(20)]
    assert split_groups(groups, SHARES, seed=0) != split_groups(groups, SHARES, seed=1)


@pytest.mark.parametrize("fractions", [{"train": 0.9, "valid": 0.2}, {"train": 1.2, "valid": -0.2}])
def test_fractions_that_are_none_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(UserError, match="their sum 1"):
        split_groups([Group("a", 1, {"c": 1})], fractions, seed=0)


@settings(deadline=None, max_examples=40)
@given(one_class_groups(least_sources=5), st.integers(2, 5), st.integers(0, 5))
def test_folds_are_even_and_hold_every_class(groups: list[Group], folds: int, seed: int) -> None:
    fold_of = fold_groups(groups, folds, seed)
    parts = [str(fold) for fold in range(folds)]
    named = {name: str(fold) for name, fold in fold_of.items()}
    assert absent_classes(groups, named, parts) == []
    images, total = _images(groups, named), sum(group.images for group in groups)
    assert max(abs(images[part] - total / folds) for part in parts) <= max(group.images for group in groups)


@pytest.mark.parametrize("folds", [1, 4])
def test_folds_need_as_many_sources(folds: int) -> None:
    with pytest.raises(UserError, match=f"folds={folds} with 3 sources"):
        fold_groups([Group(name, 1, {"c": 1}) for name in "abc"], folds, seed=0)


def test_absent_classes_are_named_where_they_could_have_been() -> None:
    groups = [Group(f"oil_{number}", 1, {"oil": 1}) for number in range(3)] + [Group("rough", 1, {"rough": 1})]
    part_of = {"oil_0": "train", "oil_1": "train", "oil_2": "test", "rough": "train"}
    assert absent_classes(groups, part_of, SPLITS) == [("oil", "valid")]
