"""How much memory a file of weights may ask for: checked before it is set aside."""

from jaxparc.weights import WeightsError

TIMES = 8  # its own size: quantised to bytes, or compressed, weights are a quarter of float32
SPARE = 256 << 20  # bytes more, for what a small file may expand: more than any network here has


class Budget:
    """What a file may still ask for.

    Args:
        size: of the file, or of all files of its weights, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size, self._left = size, TIMES * size + SPARE

    def take(self, count: int, what: str) -> None:
        """Counts bytes that are about to be set aside.

        Raises:
            WeightsError: these are too many for the size of the file.
        """
        self._left -= count
        if count < 0 or self._left < 0:
            raise WeightsError(
                f"{what} asks for {count:,} bytes, more than a file of {self._size:,} may"
            )
