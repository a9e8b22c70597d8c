"""What to tell about a model that predicts nothing but background."""

from typing import NamedTuple


class BackgroundCounts(NamedTuple):
    """Of predicted masks: how many there are, how many are all background, and of how many a rule took all regions."""

    images: int
    background: int
    emptied: int  # those of the background masks that had regions before model.min_region_area

    def statement(self, min_region_area: int, has_defects: bool | None = None) -> str | None:
        """Return what is wrong and what to do about it, None if any mask has a defect.

        Args:
            min_region_area: The model's rule, in pixels.
            has_defects: Whether the truth of the images has defects; None where it is unknown.
        """
        if not self.images or self.background < self.images:
            return None
        found = f"The model predicts nothing but background on {self.background} of {self.images} images"
        if has_defects is False:
            return f"{found}, as in their masks: these images cannot show whether it finds defects."
        if self.emptied and min_region_area > 1:
            return (
                f"{found}: min_region_area={min_region_area} removed all regions that it found in {self.emptied} of "
                "them. Lower it; tune-min-area compares areas."
            )
        condition = "" if has_defects else "If they show defects: "
        advice = "train longer; if that does not help, try model.class_weights: median_frequency."
        return f"{found}. {condition}{advice if condition else advice.capitalize()}"

    def to_mapping(self) -> dict[str, int]:
        """Return the counts for JSON."""
        return {"images_all_background": self.background, "images_emptied_by_min_region_area": self.emptied}
