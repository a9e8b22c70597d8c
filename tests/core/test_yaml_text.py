"""YAML that may come from anywhere ends in data or in a YAMLError."""

import pytest
import yaml

from flexunet_pl.core.yaml_text import load_yaml

LAUGHS = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(8 * [f'*{old}'])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_plain_data_is_returned() -> None:
    assert load_yaml("a: [1, 0.5]\nb: {c: null}") == {"a": [1, 0.5], "b": {"c": None}}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: " + 5000 * "[", id="open brackets"),
        pytest.param(20_000 * "[" + 20_000 * "]", id="20,000 levels"),
        pytest.param(LAUGHS, id="anchors that multiply"),
        pytest.param("a: &a [*a]", id="an anchor in itself"),
        pytest.param("a: 2024-99-99", id="a date that is none"),
        pytest.param("!!python/object/apply:os.system ['true']", id="an object"),
        pytest.param("? [", id="damaged"),
    ],
)
def test_hostile_text_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
