"""What a place beside the run folder must offer to get its log lines."""

from typing import Protocol


class Tracker(Protocol):
    """Another place where log lines go."""

    def scalars(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Takes one log line: name of the stage, number of finished steps, scalars by name."""

    def close(self) -> None:
        """Ends the tracking, when the run is closed."""
