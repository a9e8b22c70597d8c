"""What is written as CSV is read back exactly."""

import csv
import io

import pytest

from flexunet_pl.core.csv_text import csv_of_maps, csv_text


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", "=1+1", ";", " a ", "-", "é", "caf\udce9"])
def test_every_name_reads_back(name: str) -> None:
    text = csv_text(["file", name], [[name, 1], ["plain", 2]])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["file", name], [name, "1"], ["plain", "2"]]


def test_maps_may_lack_columns() -> None:
    assert csv_of_maps([{"a": 1}, {"b": "x,y"}]) == 'a,b\n1,\n,"x,y"\n'
