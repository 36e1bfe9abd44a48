"""How much memory a weight file may declare, checked before it is allocated."""

from jaxparc.weights.errors import WeightsError

TIMES = 8  # the size of the file: weights that are quantised or compressed are a quarter of float32
SPARE = 256 << 20  # more bytes, for what a small file may expand to: above any network here


class Budget:
    """The memory that a file may still declare.

    Args:
        size: of the file, or of all files that hold the weights, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size, self._left = size, TIMES * size + SPARE

    def take(self, count: int, what: str) -> None:
        """Count bytes that are about to be allocated.

        Raises:
            WeightsError: they are too many for the size of the file.
        """
        self._left -= count
        if count < 0 or self._left < 0:
            raise WeightsError(
                f"{what} declares {count:,} bytes, too many for a file of {self._size:,} bytes"
            )
