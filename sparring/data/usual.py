"""The threat model of a data set unless told otherwise; the one file here that needs Keras."""

from __future__ import annotations

from sparring.data import SOURCES
from sparring.errors import SettingsError
from sparring.threat import ThreatModel, threat_model


def default_threat(norm: str, key: str | None, name: str | None = None) -> ThreatModel:
    """Give the threat model of a norm with a data set's usual eps.

    Args:
        norm: "Linf" or "L2", in any case.
        key: `Dataset.key` or `DatasetInfo.key`; None, a user's own data set, has no usual eps.
        name: what the data set is called in messages; None calls it by its key.

    Raises:
        SettingsError: for an unknown norm, and for a data set without a usual eps.
    """
    threat_model(norm, 1.0)
    usual = {name: dict(source.usual_eps) for name, source in SOURCES.items()}
    eps = {name.lower(): eps for name, eps in usual.get(key or "", {}).items()}
    if norm.lower() not in eps:
        known = "; ".join(
            f"{source} {', '.join(f'{of} {size:.4g}' for of, size in sizes.items())}"
            for source, sizes in usual.items()
        )
        raise SettingsError(
            f"eps: {name or key or 'a data set of your own'} has no usual eps for {norm}; "
            f"give one. Usual ones, of built-in data sets: {known}"
        )
    return threat_model(norm, eps[norm.lower()])
