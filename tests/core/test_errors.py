"""What is said to users about their mistakes."""

from flexunet_pl.core.errors import suggestion


def test_the_nearest_known_word_is_suggested_and_never_the_word_itself() -> None:
    known = ["patience", "monitor"]
    assert suggestion("patiense", known) == "; did you mean 'patience'?"
    assert suggestion("patience", known) == ""
    assert suggestion("colour", known) == ""
