"""Choice of the number of epochs by the speed of the machine."""

from msgspec import Struct

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.specs.tables import Count, Positive


class Calibration(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Rule by which a machine fixes the number of epochs before its first run.

    A trial of the reference, which is a block of vmapped seeds, shall train for
    ``seconds``; there are as many epochs as fit, a multiple of four, but no fewer than
    ``lowest`` and no more than ``highest``. Variants and units that declare epochs of
    their own keep them.

    Examples:
      >>> rule = Calibration(seconds=60.0, lowest=12, highest=100)
      >>> [rule.epochs(each) for each in (0.1, 2.5, 20.0)]
      [100, 24, 12]
    """

    seconds: Positive
    lowest: Count
    highest: Count

    def __post_init__(self) -> None:
        """Checks that there is a number between the limits."""
        if self.lowest > self.highest:
            raise ExperimentError(
                "`calibration`: `lowest` must be at most `highest`, got "
                f"{self.lowest} and {self.highest}."
            )

    def epochs(self, epoch_s: float) -> int:
        """The number of epochs, each of which takes so many seconds."""
        # A quarter of the training is then a whole number of epochs.
        fitting = int(self.seconds / epoch_s) // 4 * 4
        return max(self.lowest, min(self.highest, fitting))
