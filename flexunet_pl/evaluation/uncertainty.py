"""How unsure a trained model is of an image, and what the image looks like to its encoder."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.memory import keep_freed_memory
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.nn.defect_head import image_logit, logits_and_cells
from flexunet_pl.nn.ensemble import Ensemble
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.training.task import SegmentationTask

TOP_SHARE = 0.01  # of the pixels, the most uncertain ones, which speak for the image


class Uncertainty(NamedTuple):
    """How unsure a model is of an image; each 0..1.

    Attributes:
        entropy: Mean over the most uncertain hundredth of the pixels of the entropy of their class probabilities,
            divided by its largest value, log K.
        doubt: 1 - abs(2 p - 1), where p is the probability that the image shows any defect: 1 at p = 0.5.
        disagreement: Of an ensemble, as ``entropy`` but for the mutual information between class and network: the
            entropy of the mean probabilities minus the mean of the networks' entropies; None of a single network.
    """

    entropy: float
    doubt: float
    disagreement: float | None

    @property
    def total(self) -> float:
        """The mean of the parts that are known, 0..1."""
        known = [part for part in self if part is not None]
        return sum(known) / len(known)


class Probe:
    """A checkpoint that is asked about unlabelled images.

    The disagreement of networks is the mutual information of N. Houlsby et al., "Bayesian active learning for
    classification and preference learning", 2011, with an ensemble in place of a posterior as in W. Beluch et al., "The
    power of ensembles for active learning in image classification", CVPR 2018.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Load the checkpoint, onto CUDA if there is a GPU; UserError if it is none."""
        keep_freed_memory()
        self.task = SegmentationTask.from_checkpoint(checkpoint)
        self.task.to("cuda" if torch.cuda.is_available() else "cpu")
        network: Any = self.task.network
        self.members: list[nn.Module] = list(network.members) if isinstance(network, Ensemble) else [network]
        self.rules = ReadingRules(self.task.hparams["in_channels"], self.task.hparams["sixteen_bit"])
        self._deepest: list[Tensor] = []
        _deepest_layer(self.members[0]).register_forward_hook(self._keep)

    @torch.inference_mode()
    def ask(self, path: Path) -> tuple[Uncertainty, npt.NDArray[np.float32]]:
        """Return the uncertainty of an image file, and its features float32 (F,).

        The features are the mean over all places of the deepest features of the (first) network.

        Raises:
            UserError: If the image cannot be read, or the network gives no numbers.
        """
        image = read_image(path, self.rules)
        height, width = self.task.sizing.content_size(*image.shape[:2])
        working = torch.from_numpy(self.task.sizing.fit_image(image)).permute(2, 0, 1)[None].to(self.task.device)
        batch = working.contiguous(memory_format=torch.channels_last)
        found = [logits_and_cells(member, batch) for member in self.members]
        probabilities = [_both_classes(logits[0, :, :height, :width].float()) for logits, _ in found]
        mean = torch.stack(probabilities).mean(0)
        if not mean.isfinite().all():
            raise UserError(f"{path}: the model gives probabilities that are no numbers; its training has diverged")
        of_mean = _entropy(mean)
        own = torch.stack([_entropy(one) for one in probabilities]).mean(0)
        cells = [image_logit(one.float()).sigmoid() for _, one in found if one is not None]
        has_head = len(cells) == len(found)
        defect = float(torch.cat([one.reshape(1) for one in cells]).mean() if has_head else (1 - mean[0]).max())
        return Uncertainty(
            entropy=_top(of_mean),
            doubt=1 - abs(2 * defect - 1),
            disagreement=_top((of_mean - own).clamp(min=0)) if len(self.members) > 1 else None,
        ), self._features()

    def _features(self) -> npt.NDArray[np.float32]:
        features = self._deepest.pop()
        pooled = features.float().mean((2, 3))[0] if features.ndim == 4 else features.float().mean(1)[0]
        return np.asarray(pooled.cpu().numpy(), dtype=np.float32)

    def _keep(self, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        self._deepest[:] = [_last_tensor(output)]


def _deepest_layer(network: nn.Module) -> nn.Module:
    """Return the layer whose output is the deepest features: the bridge of FlexUNet, else the encoder."""
    return network.bridge if isinstance(network, FlexUNet) else network.get_submodule("model.encoder")


def _last_tensor(output: Any) -> Tensor:
    """Return the last tensor (N, F, h, w), or tokens (N, T, F), of what a layer returns."""
    if isinstance(output, Tensor):
        return output
    tensors = [_last_tensor(one) for one in output if one is not None and not isinstance(one, int)]
    spatial = [one for one in tensors if one.ndim == 4]
    return (spatial or tensors)[-1]


def _both_classes(logits: Tensor) -> Tensor:
    """Map logits (K, h, w) to probabilities (max(K, 2), h, w)."""
    if logits.shape[0] > 1:
        return logits.softmax(0)
    second = logits.sigmoid()
    return torch.cat([1 - second, second])


def _entropy(probabilities: Tensor) -> Tensor:
    """Map probabilities (K, h, w) to their entropy (h, w), 0..1."""
    entropy: Tensor = torch.special.entr(probabilities).sum(0)
    return entropy / math.log(len(probabilities))


def _top(values: Tensor) -> float:
    """Return the mean of the highest hundredth of the values (h, w), at least one."""
    flat = values.flatten()
    return float(flat.topk(max(1, math.ceil(TOP_SHARE * flat.numel()))).values.mean())
