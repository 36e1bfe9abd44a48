"""What `score_bank` returns: scores by name, ranked, printed and written."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas
    import rich.table


@dataclasses.dataclass(frozen=True, repr=False)
class BankScores:
    """Scores of m models by k methods on r probe sets; larger is better, undefined is NaN.

    Attributes:
        names: the m models, in the order in which they were given.
        methods: the k column labels.
        values_per_run: (r, m, k) float64.
    """

    names: tuple[str, ...]
    methods: tuple[str, ...]
    values_per_run: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """(m, k) float64, the mean over the probe sets; NaN if it is undefined on any."""
        return self.values_per_run.mean(axis=0)

    @property
    def best(self) -> str:
        """The model that the first method puts first.

        Raises:
            ValueError: it is undefined for all models.
        """
        name, score = self.ranking()[0]
        if np.isnan(score):
            raise ValueError(f"method {self.methods[0]!r} is undefined for all models")
        return name

    def ranking(self, method: str | None = None) -> list[tuple[str, float]]:
        """Models and their scores by one method, best first, undefined ones last.

        Args:
            method: one of `methods`; the first if None.

        Raises:
            ValueError: the method was not scored.
        """
        if method is None:
            method = self.methods[0]
        if method not in self.methods:
            raise ValueError(f"method {method!r} was not scored; scored: {', '.join(self.methods)}")
        column = self.values[:, self.methods.index(method)]
        # argsort puts NaN last; stable, so that equal scores keep the bank's order.
        order = np.argsort(-column, kind="stable")
        return [(self.names[i], float(column[i])) for i in order]

    def table(self) -> "rich.table.Table":
        """All scores as a `rich` table, ranked by the first method."""
        from rich.table import Table
        from rich.text import Text

        runs = len(self.values_per_run)
        title = "one probe set" if runs == 1 else f"mean ± std over {runs} probe sets"
        table = Table("", "model", title=f"{len(self.names)} models, {title}")
        for method in self.methods:
            table.add_column(method, justify="right")
        spread = self.values_per_run.std(axis=0, ddof=min(1, runs - 1))
        for place, (name, _) in enumerate(self.ranking(), start=1):
            i = self.names.index(name)
            cells = [
                f"{value:.2f}" if runs == 1 else f"{value:.2f} ± {std:.2f}"
                for value, std in zip(self.values[i], spread[i], strict=True)
            ]
            table.add_row(str(place), Text(name), *cells)
        return table

    def to_csv(self, path: str | Path | None = None) -> str:
        """The mean scores as CSV, one row per model; written to `path` if that is given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", *self.methods])
        for name, row in zip(self.names, self.values, strict=True):
            writer.writerow([name, *(f"{value:.6f}" for value in row)])
        if path is not None:
            Path(path).write_text(text.getvalue())
        return text.getvalue()

    def to_pandas(self) -> "pandas.DataFrame":
        """The mean scores as a data frame, models as index (needs pandas)."""
        import pandas

        return pandas.DataFrame(self.values, index=list(self.names), columns=list(self.methods))

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100, record=True)
        console.print(self.table())
        return console.export_text().rstrip()

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100, record=True)
        console.print(self.table())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
