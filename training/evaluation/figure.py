"""A figure and its family tree."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation with all that is needed to say what it means.

    value: from 0 to 1, the mean of `details["scores"]`. n: the number of test items (few-shot: of episodes) behind it.
    chance: what guessing gives; the protocol's module says how it is counted. details: JSON values only, among them
    scores (one per item), items (digest of the items in order: only figures with equal ones can be paired) and what was chosen.
    """

    protocol: str
    metric: str
    value: float
    n: int
    split: str
    turned: bool
    weights: Literal["pretrained", "random"]
    encoder_fingerprint: str
    dataset_fingerprint: str
    seed: int
    details: dict[str, Any] = field(default_factory=dict)
    chance: float | None = None

    @property
    def name(self) -> str:
        """For tables: protocol.metric, and .turned where clouds were turned at random."""
        return f"{self.protocol}.{self.metric}" + (".turned" if self.turned else "")

    def record(self) -> dict[str, Any]:
        """The figure as a JSON object; Figure(**record) gives it back."""
        return asdict(self)
