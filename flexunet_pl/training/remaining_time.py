"""How long a run still takes."""

import lightning
from lightning.pytorch.callbacks import Timer


class Clock:
    """Estimates from the steps so far, validations included, how long the others take.

    The first step is left out: it takes longer than others.
    """

    def __init__(self) -> None:
        """Start before the first step."""
        self.start: tuple[int, float] | None = None

    def tick(self, step: int, now: float) -> None:
        """Note that ``step`` steps are done; ``now`` is in seconds."""
        if self.start is None:
            self.start = step, now

    def left(self, step: int, steps: float, now: float) -> float | None:
        """Return the seconds until ``steps`` steps are done, None where that is unknown: after the first, and for ever.

        Args:
            step: Steps that are done.
            steps: Steps of the whole run; infinity if nothing limits them.
            now: In seconds.
        """
        if self.start is None or step <= self.start[0] or steps == float("inf"):
            return None
        return max(0.0, (now - self.start[1]) / (step - self.start[0]) * (steps - step))


def time_left(trainer: lightning.Trainer, clock: Clock, now: float) -> float | None:
    """Return the seconds until max_epochs, max_steps or max_time ends a run, whichever comes first; None if unknown.

    Early stopping may end it sooner.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
    limits = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    known = [max(0.0, limit) for limit in limits if limit is not None]
    estimate = clock.left(trainer.global_step, trainer.estimated_stepping_batches, now)
    return min([*known, *([] if estimate is None else [estimate])], default=None)


def duration_text(seconds: float) -> str:
    """Return a duration for people, such as 45 s, 12 min or 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
