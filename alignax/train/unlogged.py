"""Metrics of drawings that no line of the log has yet: they wait for the next, and are saved."""

from collections.abc import Mapping
from typing import Any

from alignax.generate.drawing import merged

NAME = "unlogged"  # in the position of a checkpoint


class Unlogged:
    """What was drawn since the last line of updates, where `logging_steps` leaves some out."""

    def __init__(self) -> None:
        self._drawings: list[dict[str, float]] = []

    def add(self, drawing: Mapping[str, float]) -> None:
        """Holds the metrics of a drawing; none where nothing was drawn."""
        if drawing:
            self._drawings.append({name: float(x) for name, x in drawing.items()})

    def taken(self) -> dict[str, float]:
        """What a line says of all that is held: as of one round, where there were several."""
        drawings, self._drawings = self._drawings, []
        return drawings[0] if len(drawings) == 1 else merged(drawings)

    def position(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON, so that a resumed run's next line has it."""
        return {NAME: list(self._drawings)} if self._drawings else {}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's position."""
        self._drawings = list(position.get(NAME, ()))
