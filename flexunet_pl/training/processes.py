"""Several processes of one run end together."""

import os
import re
import threading
import time
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies import DDPStrategy, Strategy, StrategyRegistry

from flexunet_pl.core.errors import UserError

POLL_SECONDS = 2.0
REPORT_SECONDS = 30.0
# How gloo and NCCL begin their messages when another process has gone, or does not answer.
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "store->get")


def with_timeout(strategy: Any, seconds: float) -> Strategy | Any:
    """Return the strategy of a name such as ddp with a time-out for what its processes do together.

    Anything that is no name of a DDP strategy is returned as it is.

    Raises:
        UserError: If ``seconds`` is not above 0.
    """
    if not 0 < seconds <= 1e6:
        raise UserError(f"trainer.collective_timeout={seconds} must be a number of seconds above 0, such as 300")
    if not isinstance(strategy, str) or strategy not in StrategyRegistry:
        return strategy
    entry = StrategyRegistry[strategy]
    if not issubclass(entry["strategy"], DDPStrategy):
        return strategy
    return entry["strategy"](**entry["init_params"], timeout=timedelta(seconds=seconds))


def explain_lost_process(error: BaseException) -> UserError | None:
    """Return a clear error if ``error`` says that another process of the run ended or hangs, else None."""
    text = re.sub(r"\[\S*/\S*\] ?", "", " ".join(str(error).split()))
    is_lost = isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in LOST)
    if not isinstance(error, RuntimeError) or not is_lost:
        return None
    return UserError(
        f"another process of this run ended, or did not answer in time ({text[:100]}); see its own error above, if "
        "any, then go on with --ckpt_path last; if it only needs longer, raise trainer.collective_timeout"
    )


def let_the_first_process_report() -> None:
    """Give the first process of a run time to say that another one failed, before Lightning kills it."""
    kill = _ChildProcessObserver._terminate_all
    if getattr(kill, "__name__", "") == "later":
        return

    def later(observer: _ChildProcessObserver) -> None:
        time.sleep(REPORT_SECONDS)
        kill(observer)

    _ChildProcessObserver._terminate_all = later  # type: ignore[assignment, method-assign]  # there is no public way


def end_with_parent() -> None:
    """End this process soon after the one that started it, even if it hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
