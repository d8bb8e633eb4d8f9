"""Sizes and durations as manifests write them: `512Mi`, `2G`, `90s`, `1h30m`."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"([0-9]{1,15})(Ki|Mi|Gi|Ti|k|M|G|T)?")
_DURATION = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def size_bytes(text: str) -> int:
    """Bytes of a Kubernetes-style quantity. `ValueError` where it is none."""
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError("expected a size such as 512Mi or 2Gi")
    return int(found[1]) * _UNITS[found[2] or ""]


def duration_s(text: str) -> float:
    """Seconds of a duration such as `90s` or `1h30m`. `ValueError` where it is none."""
    found = _DURATION.fullmatch(text)
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
        if found
        else 0
    )
    if seconds == 0:
        raise ValueError("expected a duration such as 90s, 30m or 1h30m")
    return float(seconds)
