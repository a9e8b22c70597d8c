"""Keys of YAML stay as they are written."""

import pytest
import yaml

from flexunet_pl.core.yaml_text import with_text_keys

NAMES = ["no", "No", "on", "yes", "off", "null", "~", "true", "1", "01", "1e3", "1.5", "0x1F", "1_000", "2024-01-01"]
NAMES += [".5", "-1", "plain", "two words", "é"]


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_text_in_every_style(name: str) -> None:
    for text in (f"{name}: [0, 0, 0]\n", f"a: {{{name}: [0, 0, 0], other: 1}}", f"a:\n  {name}: [0, 0, 0]\n  b: 2\n"):
        content = yaml.safe_load(with_text_keys(text))
        keys = content.get("a", content)
        assert next(iter(keys)) == name


def test_values_merges_anchors_and_quoted_keys_are_left_alone() -> None:
    text = "base: &base {no: false}\nown: {<<: *base, 'on': yes, \"off\": 1e3}\nlist: [no, {yes: no}]\n"
    assert yaml.safe_load(with_text_keys(text)) == {
        "base": {"no": False},
        "own": {"no": False, "on": True, "off": "1e3"},
        "list": [False, {"yes": False}],
    }


@pytest.mark.parametrize("text", ["", "no", "a: [1", "&a [*a]", "a: &a {b: *a}", "{no, on}"])
def test_other_text_is_parsed_as_before(text: str) -> None:
    try:
        expected = repr(yaml.safe_load(text))
    except yaml.YAMLError:
        with pytest.raises(yaml.YAMLError):
            yaml.safe_load(with_text_keys(text))
    else:
        assert repr(yaml.safe_load(with_text_keys(text))) == expected
