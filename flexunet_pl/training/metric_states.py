"""Keep what metrics have counted in a checkpoint, for a run that goes on in the middle of an epoch."""

from collections.abc import Mapping

from torch import Tensor
from torchmetrics import Metric

States = dict[str, dict[str, Tensor]]


def saved_states(metrics: Mapping[str, Metric]) -> States:
    """Return copies of the states of metrics, summed over all processes; all of them must call this."""
    states: States = {}
    for name, metric in metrics.items():
        with metric.sync_context():
            states[name] = {key: value.clone() for key, value in metric.metric_state.items()}  # type: ignore[union-attr]  # no list states
    return states


def restore_states(metrics: Mapping[str, Metric], states: States) -> None:
    """Put saved states into the metrics of one process."""
    for name, state in states.items():
        metric = metrics[name]
        for key, value in state.items():
            setattr(metric, key, value.to(metric.device))
        metric._update_count = 1  # as after an update
