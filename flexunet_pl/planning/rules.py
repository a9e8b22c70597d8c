"""The rules of a plan: from facts to the value of each key, with the reason and the figure behind it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flexunet_pl.data.datamodule import NO_CROP
from flexunet_pl.nn.networks import DEFAULT_NETWORK, network_fields
from flexunet_pl.planning.draft import Choice, Draft
from flexunet_pl.planning.facts import LEAST_RANGE, Facts
from flexunet_pl.planning.machine import GIBIBYTE
from flexunet_pl.planning.orientation import LEAST_COHERENCE
from flexunet_pl.training.recipes import AUGMENTATION, CROP_STEP, recipe_of
from flexunet_pl.training.student import STUDENTS

# Sides and crops that docs/results.md compares.
USUAL_SIDE, SMALL_IMAGES = 512, 320
SMALL_CROP, LARGE_CROP = 128, 256
CROPS_IN_STEP = {SMALL_CROP: 8, LARGE_CROP: 4}
# A defect has to be this wide at the working size to be seen at all, and images up to this side need no other size.
LEAST_WIDTH, NATIVE_SIDE = 5.0, 640
# Bytes that validating an image takes for each of its pixels, and the share of the memory it may take.
BYTES_PER_PIXEL, MOST_SHARE = 1_500, 0.3
# The share of a crop below which the Dice of a class needs a smaller bound.
SMALL_SHARE, SMALL_EPSILON = 0.002, 0.001
# A predicted region below this share of the smallest defects is noise.
NOISE_SHARE = 0.25
# Fewer defects do not show how small one can be; a larger region is never taken for noise.
FEWEST_DEFECTS, LARGEST_NOISE = 30, 100


def channels(draft: Draft) -> tuple[Any, str]:
    """Grey images need one channel."""
    found = draft.facts.channels
    return found, "all images that were read are grey" if found == 1 else f"the images have {found} channels"


def sixteen_bit(draft: Draft) -> tuple[Any, str]:
    """16-bit images need a rule."""
    brightest = draft.facts.brightest
    if not brightest:
        return None, "the images have 8 bits"
    if brightest >= LEAST_RANGE * 65_535:
        return "full_range", f"the brightest value is {brightest:,} of 65,535"
    return "min_max", f"the brightest value is {brightest:,} of 65,535, so most of the range is empty"


def antialiased_masks(draft: Draft) -> tuple[Any, str]:
    """Blended mask colours are moved to a class."""
    moved = draft.facts.moved
    if moved:
        return True, f"{moved:,} mask pixels lie between two colours of the palette"
    return False, f"{draft.facts.masks} masks have exact colours"


def resize(draft: Draft) -> tuple[Any, str]:
    """Images of several sizes stay as they are, or are padded where they are large."""
    sizes, longest = draft.facts.sizes, draft.facts.longest_side
    if len(sizes) == 1:
        return "stretch", "all images have one size, so their aspect is kept"
    largest = max(height * width for height, width in sizes)
    memory = draft.machine.gpu_memory or draft.machine.memory
    fits = memory is None or largest * BYTES_PER_PIXEL <= MOST_SHARE * memory
    if longest <= 2 * USUAL_SIDE and fits:
        return "none", f"the images have {len(sizes)} sizes, of {longest} pixels on the longer side"
    return "letterbox", f"the images have {len(sizes)} sizes and the largest has {largest:,} pixels"


def image_size(draft: Draft) -> tuple[Any, str]:
    """The working size keeps the thinnest defects wide enough, within the memory."""
    facts = draft.facts
    if draft.values["data.resize"] == "none":
        return None, "the images keep their own size"
    longest, thinnest = facts.longest_side, facts.thinnest
    if longest <= NATIVE_SIDE:
        side, reason = longest, f"the images have {longest} pixels on the longer side, few enough as they are"
    elif thinnest is None:
        side, reason = USUAL_SIDE, "no training mask shows a defect, so nothing says how fine the images must be"
    else:
        side = int(np.clip(LEAST_WIDTH / thinnest * longest, USUAL_SIDE, longest))
        kept = thinnest * side / longest
        reason = f"defects of {thinnest:.1f} pixels are {kept:.1f} wide then ({longest} pixels on the longer side)"
    memory = draft.machine.gpu_memory or draft.machine.memory
    aspect = facts.shortest_side / longest
    if memory is not None and side**2 * aspect * BYTES_PER_PIXEL > MOST_SHARE * memory:
        side = int((MOST_SHARE * memory / BYTES_PER_PIXEL / aspect) ** 0.5)
        reason = f"more does not fit into the free memory ({memory / GIBIBYTE:.1f} GiB)"
    return _sides(facts, side), reason


def _sides(facts: Facts, longest: int) -> list[int]:
    """Return [height, width] of the commonest aspect, multiples of 32 where the images are not kept as they are."""
    height, width = max(facts.sizes, key=lambda size: (facts.sizes[size], size))
    scale = longest / max(height, width)
    if scale == 1:
        return [height, width]
    return [max(CROP_STEP, round(side * scale / CROP_STEP) * CROP_STEP) for side in (height, width)]


def crop_size(draft: Draft) -> tuple[Any, str]:
    """Many small crops, or few large ones where these are nearly whole images."""
    if draft.network == "flexunet":
        side, reason = 192, "what FlexUNet learns best with (docs/results.md)"
    elif draft.working_side < SMALL_IMAGES and draft.facts.longest_side > LARGE_CROP:
        side, reason = LARGE_CROP, f"the images are small ({draft.working_side} pixels), so a crop shows most of one"
    else:
        side, reason = SMALL_CROP, "many small crops find defects in fewer steps than few large ones (docs/results.md)"
    if side > draft.working_side and draft.values["data.resize"] != "none":
        least = draft.working_side // CROP_STEP * CROP_STEP
        if not least:
            return NO_CROP, f"the images have {draft.working_side} pixels on the shorter side"
        return least, f"the images have {draft.working_side} pixels on the shorter side"
    return side, reason


def batch_size(draft: Draft) -> tuple[Any, str]:
    """As many crops as make up the same number of pixels; a trial may halve it."""
    crop = draft.values["data.crop_size"]
    side = min(crop, 512) if isinstance(crop, int) else draft.working_side
    count = 4 if draft.network == "flexunet" and side > SMALL_CROP else 8 * SMALL_CROP**2 // side**2
    count = CROPS_IN_STEP.get(side, count) if draft.network != "flexunet" else count
    return min(max(count, 2), 16), f"crops of {side} pixels: a step sees {max(count, 2) * side**2:,} pixels"


def sampler(draft: Draft) -> tuple[Any, str]:
    """Each class and the good images are drawn equally often."""
    facts = draft.facts
    good = facts.images["train"] - facts.defective
    few = min(facts.sources.values(), default=0)
    rarest = min(facts.sources, key=lambda index: facts.sources[index], default=0)
    name = facts.palette.names[rarest]
    if draft.network == "flexunet" and not good:
        return "uniform", "every training image shows a defect"
    return (
        "class_balanced",
        f"{good} of {facts.images['train']} images are good, and {name} has {counted(few, 'source')}",
    )


def augment(draft: Draft) -> tuple[Any, str]:
    """Turning and flipping, unless direction means something in these data."""
    facts = draft.facts
    chosen: dict[str, Any] = dict(AUGMENTATION)
    if draft.values["data.crop_size"] == NO_CROP:
        chosen.pop("crop")
    reasons = []
    if draft.values["data.channels"] == 1:
        del chosen["hue"], chosen["saturation"]
        reasons.append("no colours to change")
    if classes := facts.exchanged("flip"):
        del chosen["hflip"], chosen["vflip"]
        chosen["rotation"] = {"p": 0.3, "limit": 10}
        chosen.pop("right_angle")
        reasons.append(f"no flips, since they turn {classes[0]} into {classes[1]}")
    elif classes := facts.exchanged("quarter"):
        chosen["rotation"] = {"p": 0.3, "limit": 10}
        del chosen["right_angle"]
        reasons.append(f"no turns by 90 degrees, since they turn {classes[0]} into {classes[1]}")
    elif facts.direction >= LEAST_COHERENCE:
        chosen["rotation"] = {"p": 0.3, "limit": 10}
        del chosen["right_angle"]
        reasons.append(f"no turns by 90 degrees, since surfaces have one direction ({facts.direction:.2f} of 1)")
    return chosen, "; ".join(reasons) or f"surfaces have no direction ({facts.direction:.2f} of 1), nor have classes"


def workers(draft: Draft) -> tuple[Any, str]:
    """Processes that load data."""
    most = 8 if draft.machine.gpu else 2
    count = max(1, min(most, draft.machine.cores))
    return count, f"{draft.machine.cores} cores" + (", which also train" if draft.machine.gpu is None else "")


def network(draft: Draft) -> tuple[Any, str]:
    """The network."""
    if draft.network == DEFAULT_NETWORK:
        return draft.network, "its encoder knows ImageNet, which outweighs all else with few images (docs/results.md)"
    return draft.network, "given"


def loss(draft: Draft) -> tuple[Any, str]:
    """Cross-entropy, and an overlap that small classes can learn from."""
    if draft.network == "flexunet":
        return {"cross_entropy": 1.0, "dice": 1.0}, "what FlexUNet learns best with (docs/results.md)"
    crop = draft.values["data.crop_size"]
    side = crop if isinstance(crop, int) else draft.working_side
    medians = {
        draft.facts.palette.names[index]: float(np.median([shape.area for shape in shapes])) * draft.scale**2
        for index, shapes in draft.facts.shapes.items()
    }
    if not medians:
        return None, "no training mask shows a defect"
    name = min(medians, key=lambda one: medians[one])
    share = min(medians[name] / side**2, 1.0)
    about = f"{name} typically covers {medians[name]:,.0f} pixels, {share:.2%} of a crop"
    if share >= SMALL_SHARE:
        return {"cross_entropy": 1.0, "log_dice": 1.0}, about
    return {"cross_entropy": 1.0, "log_dice": {"epsilon": SMALL_EPSILON}}, f"{about}, so it needs a small epsilon"


def min_region_area(draft: Draft) -> tuple[Any, str]:
    """Regions far smaller than any defect are noise."""
    areas = [shape.area for shape in draft.facts.regions]
    if len(areas) < FEWEST_DEFECTS:
        return 0, f"too few to tell how small defects are: {counted(len(areas), 'defect')} in the training masks"
    small = float(np.percentile(areas, 2))
    area = min(int(NOISE_SHARE * small), LARGEST_NOISE)
    return (area if area > 1 else 0), f"98 % of {len(areas):,} defects have {small:,.0f} pixels or more"


def tta(draft: Draft) -> tuple[Any, str]:
    """Average over the mirror image, where mirroring is harmless."""
    if classes := draft.facts.exchanged("flip"):
        return False, f"mirroring turns {classes[0]} into {classes[1]}"
    return True, "the mean over an image and its mirror image, at twice the time of prediction"


def recipe_key(key: str) -> Callable[[Draft], tuple[Any, str]]:
    """Return the rule of a key that follows from the network alone."""

    def rule(draft: Draft) -> tuple[Any, str]:
        own = STUDENTS.get(draft.network, {})
        value = own.get(key, recipe_of(DEFAULT_NETWORK).model.get(key))
        return value, f"what {draft.network} learns best with (docs/results.md)"

    return rule


# In the order in which they are chosen: a rule may look at what stands before it.
RULES: dict[str, Callable[[Draft], tuple[Any, str]]] = {
    "data.channels": channels,
    "data.sixteen_bit": sixteen_bit,
    "data.antialiased_masks": antialiased_masks,
    "data.resize": resize,
    "data.image_size": image_size,
    "data.crop_size": crop_size,
    "data.batch_size": batch_size,
    "data.sampler": sampler,
    "data.augment": augment,
    "data.num_workers": workers,
    "model.network": network,
    "model.loss": loss,
    **{
        f"model.{key}": recipe_key(key)
        for key in ("optimizer", "learning_rate", "weight_decay", "schedule", "warmup_steps")
    },
    "model.min_region_area": min_region_area,
    "model.tta": tta,
}


def counted(number: int, noun: str) -> str:
    """Return a number with a noun, such as ``1 source`` and ``2 sources``."""
    return f"{number:,} {noun}{'s'[: number != 1]}"


def choose(draft: Draft) -> list[Choice]:
    """Choose the value of every key; what the user gives stays, and the rest adapts to it."""
    choices = []
    rules = dict(RULES)
    if draft.network != DEFAULT_NETWORK:
        own = {key for key in STUDENTS.get(draft.network, {}) if key in network_fields()}
        rules |= {f"model.{key}": recipe_key(key) for key in sorted(own)}
    for key, rule in rules.items():
        # A key of which the user gives a part, such as data.augment.hflip, is chosen, and the part wins over it.
        value, reason = (draft.given[key], "given") if key in draft.given else rule(draft)
        draft.values[key] = value
        choices.append(Choice(key, value, reason))
    return choices
