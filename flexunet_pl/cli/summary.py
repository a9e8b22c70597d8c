"""summary: what a network is."""

from pathlib import Path

from flexunet_pl.core.console import say


def summary(source: Path, size: str | None = None, batch_size: int = 1, out: Path | None = None) -> int:
    """Print the layers, parameters, FLOPs, receptive field and memory of a network, and draw it.

    Args:
        source: A config (YAML), a checkpoint, or a run folder.
        size: Size of the images, 512 or 512x768 (height x width); by default the working size.
        batch_size: Images in a training step, for its memory.
        out: Folder for summary.txt and model.png; without it the summary is only printed.
    """
    from flexunet_pl.summary.source import summarize

    say(*summarize(source, size, batch_size, out))
    return 0
