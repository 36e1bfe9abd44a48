"""`BankScores`, the result of `score_bank`: ranked, printed, plotted and written."""

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxparc import files, printing
from jaxparc.errors import InputError

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    import rich.console
    import rich.table

COLUMNS = 80  # width of the terminal that tables are laid out for
NAME = 12  # minimum width of the column of names; longer names are folded, not truncated
LISTED = 8  # maximum number of models that a caption names
DEFAULT_LEVEL = 0.95  # of confidence, for `BankScores.tied`


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BankScores:
    """Scores of m models by k methods on r probe sets; larger is better, undefined is NaN.

    Objects are compared by identity, so they are hashable.

    Attributes:
        names: the m models, in the order in which they were given.
        methods: the k column labels.
        values_per_run: (r, m, k) float64, one run per probe set.
        undefined: (model, method) -> why that score is NaN, for every NaN.
        contributions: for every probe set what each of its n images contributes to the scores,
            (m, k, n) float32, with mean 0; empty unless `score_bank` was asked for intervals. To
            first order, the scores of a resample of the images are larger by the mean over it. For
            probe sets that share images, there is one item: of each image, to the mean scores.
        level: confidence level of `intervals` and `tied`, 0.95 by default.

    Raises:
        InputError: `values_per_run` has the wrong shape.

    Examples:
        >>> scores = BankScores(("a", "b"), ("knn",), np.array([[[80.0], [91.5]]]))
        >>> scores.ranking()
        [('b', 91.5), ('a', 80.0)]
        >>> print(scores.to_csv(), end="")
        model,knn
        a,80.000000
        b,91.500000

        Of a second probe set, the mean and what it says together with the first:

        >>> other = BankScores(("a", "b"), ("knn",), np.array([[[81.0], [89.5]]]))
        >>> both = BankScores.concat([scores, other])
        >>> both["knn"]
        {'a': 80.5, 'b': 90.5}
        >>> both.tied()
        ['b', 'a']
    """

    names: tuple[str, ...]
    methods: tuple[str, ...]
    values_per_run: np.ndarray
    undefined: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    contributions: tuple[np.ndarray, ...] = ()
    level: float = DEFAULT_LEVEL

    def __post_init__(self) -> None:
        found, expected = np.shape(self.values_per_run), (len(self.names), len(self.methods))
        if len(found) != 3 or found[0] < 1 or found[1:] != expected:
            raise InputError(
                f"values_per_run has shape {found}; expected (r, {expected[0]}, {expected[1]})"
            )

    @classmethod
    def concat(
        cls, scores: "Iterable[BankScores]", images: Sequence[np.ndarray] | None = None
    ) -> "BankScores":
        """Join the scores of the same models by the same methods on several probe sets.

        Args:
            scores: the scores, one or several probe sets each.
            images: for every item of `scores`, of one probe set, its n images as numbers, such as
                their indices in the data set: (n,) int. What an image contributes to several probe
                sets is then added up, as its noise is the same in all of them. None for probe sets
                without an image in common, which are independent.

        Raises:
            InputError: `scores` is empty, models or methods differ or are in another order, or
                `images` are not those of the probe sets.
        """
        scores = list(scores)
        if not scores:
            raise InputError("scores are empty; expected at least one BankScores")
        undefined: dict[tuple[str, str], str] = {}
        for number, one in enumerate(scores):
            if bool(one.contributions) != bool(scores[0].contributions) or (
                one.contributions and one.level != scores[0].level
            ):
                raise InputError(
                    f"probe set {number} was scored with other intervals than probe set 0; "
                    "expected the same for all"
                )
            for argument in ("names", "methods"):
                first, found = getattr(scores[0], argument), getattr(one, argument)
                if first != found:
                    raise InputError(
                        f"{argument} of probe set {number} are {_listed(found)}; expected those of "
                        f"probe set 0 in the same order: {_listed(first)}"
                    )
            undefined = {**one.undefined, **undefined}
        values = np.concatenate([one.values_per_run for one in scores])
        contributions = tuple(part for one in scores for part in one.contributions)
        if images is not None and contributions:
            found = [part.shape[-1:] for part in contributions]
            if (expected := [np.shape(of) for of in images]) != found:
                raise InputError(f"images have the shapes {expected}; expected {found}")
            contributions = (_per_image(contributions, images),)
        return cls(
            scores[0].names, scores[0].methods, values, undefined, contributions, scores[0].level
        )

    @property
    def values(self) -> np.ndarray:
        """Mean scores over probe sets, (m, k) float64; NaN where any of them is undefined."""
        return self.values_per_run.mean(axis=0)

    def __getitem__(self, method: str) -> dict[str, float]:
        """Return the mean scores of one method: name -> score, in the order of `names`.

        Raises:
            InputError: the method was not scored.
        """
        return dict(zip(self.names, self.values[:, self._index(method)].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    @property
    def best(self) -> str:
        """The model that the first method ranks first.

        Raises:
            InputError: the first method is undefined for all models.
        """
        name, score = self.ranking()[0]
        if np.isnan(score):
            raise InputError(f"method {self.methods[0]!r} is undefined for all models")
        return name

    def ranking(self, method: str | None = None) -> list[tuple[str, float]]:
        """Return models and their scores by one method, best first, undefined ones last.

        Args:
            method: one of `methods`; the first if None.

        Raises:
            InputError: the method was not scored.
        """
        column = self.values[:, self._index(method)]
        return [(self.names[i], float(column[i])) for i in self._order(method)]

    @property
    def intervals(self) -> np.ndarray:
        """Confidence intervals of the mean scores over the choice of images, (m, k, 2) float64.

        Each is the score plus and minus its standard error, times the quantile of Student's t at
        `level`. The standard error is that of the mean over images of what they contribute: the
        jackknife, to first order (Efron 1982, chapter 6). The intervals are for scores of as many
        images, and describe the noise of a method, not whether it is right. NaN where the score
        is.

        Raises:
            InputError: `score_bank` was not asked for intervals.
        """
        half = self._half_widths(self._noise())
        return np.stack([self.values - half, self.values + half], axis=-1)

    def interval(self, method: str | None = None) -> dict[str, tuple[float, float]]:
        """Return the intervals of one method: name -> (low, high), in the order of `names`.

        Args:
            method: one of `methods`; the first if None.

        Raises:
            InputError: the method was not scored, or `score_bank` was not asked for intervals.
        """
        pairs = self.intervals[:, self._index(method)].tolist()
        return {name: (low, high) for name, (low, high) in zip(self.names, pairs, strict=True)}

    def tied(self, method: str | None = None) -> list[str]:
        """Return the models that are indistinguishable from the best one, given the noise.

        A model is tied if the t interval at `level` of its difference from the best one contains 0.
        The comparison is paired: all models are scored on the same images, so noise that they share
        cancels. With `contributions` the noise is that of the choice of images; else that over
        probe sets, which are assumed to be independent. The intervals are corrected neither for the
        number of models nor for picking the best one by the same scores. They describe the noise of
        a method, not whether it is right.

        Args:
            method: one of `methods`; the first if None.

        Returns:
            Names, best first, starting with the best one itself. Undefined models are left out, so
            the list is empty if the method is undefined for all. All models are tied by a method
            whose noise is not known, such as "heuristic", which reads no image.

        Raises:
            InputError: the method was not scored, or there is only one probe set, without
                contributions.
        """
        order = self._order(method)
        column = self.values[:, self._index(method)]
        if not order or np.isnan(column[order[0]]):
            self._require_noise()
            return []
        low, high = self.differences(self.names[order[0]], method).T
        # Unknown noise, NaN, tells no model from the best one. Infinite scores tie with nothing.
        tied = np.isfinite(column) & ~((low > 0) | (high < 0))
        tied[order[0]] = True
        return [self.names[i] for i in order if tied[i]]

    def differences(self, model: str, method: str | None = None) -> np.ndarray:
        """Return paired confidence intervals of all models' mean scores minus one model's, (m, 2).

        Rows are in the order of `names`; NaN where either score is undefined. See `tied`, which
        compares with the best model, for the assumptions.

        Args:
            model: one of `names`.
            method: one of `methods`; the first if None.

        Raises:
            InputError: the model or the method was not scored, or there is only one probe set,
                without contributions.
        """
        k = self._index(method)
        self._require_noise()
        if model not in self.names:
            raise InputError(f"unknown model {model!r}; scored: {_listed(self.names)}")
        i = self.names.index(model)
        scores = self.values_per_run[:, :, k]
        with np.errstate(invalid="ignore"):
            apart = scores - scores[:, i : i + 1]
            parts = [part[:, k] - part[i, k] for part in self.contributions] or [apart.T]
            middle, half = apart.mean(axis=0), self._half_widths(parts)
            return np.stack([middle - half, middle + half], axis=-1)

    def _require_noise(self) -> None:
        if len(self.values_per_run) < 2 and not self.contributions:
            raise InputError(
                "scores are of 1 probe set, without intervals; expected at least 2 probe sets, or "
                "score_bank(..., intervals=0.95), to estimate their noise"
            )

    def _noise(self) -> tuple[np.ndarray, ...]:
        if not self.contributions:
            raise InputError(
                "scores have no intervals; expected score_bank(..., intervals=0.95) to compute them"
            )
        return self.contributions

    def _half_widths(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Return the half width of the t interval of the mean of means of samples, (...).

        Args:
            samples: (..., n) each; n may differ.
        """
        from scipy.stats import t

        variances = [
            sample.var(axis=-1, ddof=1, dtype=float) / sample.shape[-1] for sample in samples
        ]
        error = np.sqrt(np.sum(variances, axis=0)) / len(samples)
        freedom = sum(sample.shape[-1] - 1 for sample in samples)
        return np.asarray(t.ppf((1 + self.level) / 2, freedom) * error)

    def table(self) -> "rich.table.Table":
        """Return all scores as a `rich` table, ranked by the first method, ties in the caption.

        A table wider than 80 columns has its method labels wrapped, its deviations placed below
        their means and its names folded, and then loses the padding of its cells. Numbers are never
        truncated. Characters that the encoding of stdout lacks are spelled out.
        """
        return self._table(printing.stdout_encoding())

    def _table(self, encoding: str) -> "rich.table.Table":
        from rich.table import Table
        from rich.text import Text

        title = self._title()
        names = [printing.shown(str(name), encoding) for name in self.names]
        title = printing.shown(title, encoding)
        table = Table(title=f"{printing.count(len(names), 'model')}, {title}")
        if caption := self._caption():
            table.caption = Text(printing.shown(caption, encoding), style="dim italic")
        spread, bars = printing.shown("±", encoding), self._bars()
        cells = [
            [
                [f"{value:.2f}"] if bars is None else [f"{value:.2f}", f"{spread} {bar:.2f}"]
                for value, bar in zip(*rows, strict=True)
            ]
            for rows in zip(self.values, self.values if bars is None else bars, strict=True)
        ]
        longest = max(map(len, names), default=0)
        heads, glue = [printing.shown(method, encoding) for method in self.methods], " "
        widths = [max(len(glue.join(row[k])) for row in cells) for k in range(len(heads))]
        edges = len(str(len(names))) + 3 * (len(heads) + 2) + 1
        wide = edges + sum(max(len(h), w) for h, w in zip(heads, widths, strict=True))
        if wide + longest > COLUMNS:
            glue = "\n"
            widths = [max(len(s) for row in cells for s in row[k]) for k in range(len(heads))]
            heads = [_wrapped(head, width) for head, width in zip(heads, widths, strict=True)]
        table.add_column("", no_wrap=True, min_width=len(str(len(names))))
        table.add_column("model", overflow="fold", min_width=min(NAME, longest))
        for head, width in zip(heads, widths, strict=True):
            least = max(width, *map(len, head.split("\n")))
            table.add_column(Text(head), justify="right", no_wrap=True, min_width=least)
        if _minimum_width(table) > COLUMNS:
            table.padding = 0
        for place, index in enumerate(self._order(), start=1):
            table.add_row(str(place), Text(names[index]), *map(glue.join, cells[index]))
        return table

    def plot(self) -> "matplotlib.figure.Figure":
        """Draw a dot plot: a panel per method, models ranked by the first (needs matplotlib).

        Bars are confidence intervals if there are any, else standard deviations over probe sets.
        Filled dots are the best model and those that are indistinguishable from it (see `tied`).
        Undefined scores are marked as such.

        Returns:
            A figure that notebooks display and `savefig` writes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.layout_engine import ConstrainedLayoutEngine
        except ImportError as error:
            raise ImportError("BankScores.plot needs matplotlib: pip install matplotlib") from error

        class Shown(Figure):
            """A figure that notebooks display without pyplot, which would keep it open."""

            def _repr_png_(self) -> bytes:
                data = io.BytesIO()
                self.savefig(data, format="png", dpi=self.dpi)
                return data.getvalue()

        m, bars = len(self.names), self._bars()
        order = self._order()
        labels = [_elided(printing.visible(str(self.names[i]))) for i in order]
        longest = max(map(len, labels), default=0)
        size = (0.075 * longest + 0.5 + max(2.6 * len(self.methods), 3.5), 1.1 + 0.21 * m)
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.03)
        figure = Shown(figsize=size, dpi=100, layout=layout)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(self.methods), sharey=True, squeeze=False)[0]
        for k, (method, panel) in enumerate(zip(self.methods, panels, strict=True)):
            tied = set(self.names if bars is None else self.tied(method))
            for y, i in enumerate(order):
                x = self.values[i, k]
                if not np.isfinite(x):
                    where = panel.get_yaxis_transform()
                    text = "undefined" if np.isnan(x) else f"{x}"
                    panel.text(
                        0.5,
                        y,
                        text,
                        transform=where,
                        size=8,
                        color="0.45",
                        ha="center",
                        va="center",
                    )
                    continue
                fill = "tab:blue" if self.names[i] in tied else "white"
                bar = None if bars is None else bars[i, k]
                panel.errorbar(
                    x, y, xerr=bar, fmt="o", ms=5, mfc=fill, color="tab:blue", elinewidth=1.2
                )
            panel.set_title(printing.visible(method), size=10, parse_math=False)
            panel.grid(color="0.92")
            panel.set_axisbelow(True)
            panel.tick_params(labelsize=8, length=0)
            panel.locator_params(axis="x", nbins=5)
            for side in ("top", "right", "left"):
                panel.spines[side].set_visible(False)
        panels[0].set_yticks(range(m), labels, parse_math=False)
        panels[0].set_ylim(m - 0.4, -0.6)
        note = self._title()
        if bars is not None:
            note += "; filled: indistinguishable from the best"
        figure.supxlabel(f"score, larger is better\n{note}", size=8, color="0.35")
        return figure

    def to_csv(self, path: str | Path | None = None, *, per_run: bool = False) -> str:
        """Return scores as CSV, one row per model; an undefined score is "nan".

        Every score is followed by the limits of its interval, if there are any. Names that a
        spreadsheet would take for formulas are preceded by an apostrophe.

        Args:
            path: file to write as well, in UTF-8; None for none.
            per_run: write one row per probe set and model, with a column "run", from 0.

        Returns:
            The CSV text.
        """
        head: list[str] = ["model", *self.methods]
        runs = self.values_per_run if per_run else self.values[None]
        if self.contributions and not per_run:
            head = ["model", *(m + end for m in self.methods for end in ("", "_low", "_high"))]
            with_limits = np.concatenate([self.values[..., None], self.intervals], axis=-1)
            runs = with_limits.reshape(1, len(self.names), -1)
        rows = [
            [str(name), *map("{:.6f}".format, row)]
            for values in runs
            for name, row in zip(self.names, values, strict=True)
        ]
        if per_run:
            head = ["run", *head]
            rows = [[str(i // len(self.names)), *row] for i, row in enumerate(rows)]
        text = files.table_text([head, *rows])
        if path is not None:
            Path(path).write_bytes(text.encode(errors="backslashreplace"))
        return text

    def to_pandas(self, per_run: bool = False) -> "pandas.DataFrame":
        """Return scores as a data frame with methods as columns (needs pandas).

        Args:
            per_run: return the scores of every probe set, indexed by (run, model), instead of their
                means, indexed by model.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("BankScores.to_pandas needs pandas: pip install pandas") from error

        names = list(self.names)
        if not per_run:
            index = pandas.Index(names, name="model")
            return pandas.DataFrame(self.values, index=index, columns=list(self.methods))
        index = pandas.MultiIndex.from_product(
            [range(len(self.values_per_run)), names], names=["run", "model"]
        )
        values = self.values_per_run.reshape(-1, len(self.methods))
        return pandas.DataFrame(values, index=index, columns=list(self.methods))

    def __repr__(self) -> str:
        return self._console(printing.stdout_encoding()).export_text().rstrip()

    def _repr_html_(self) -> str:
        console = self._console("utf-8")
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _console(self, encoding: str) -> "rich.console.Console":
        """Record the table, as wide as its numbers need, in the characters of an encoding."""
        from rich.console import Console

        table = self._table(encoding)
        width = max(COLUMNS, _minimum_width(table))
        file = io.TextIOWrapper(io.BytesIO(), encoding)  # rich chooses its box characters by it
        # In a notebook rich would display the table itself, and the notebook would repeat it.
        console = Console(file=file, width=width, record=True, force_jupyter=False)
        console.print(table)
        return console

    def _index(self, method: str | None) -> int:
        """Return the column of a method; 0, the first method's, for None."""
        if method is None:
            return 0
        if method not in self.methods:
            raise InputError(f"unknown method {method!r}; scored: {', '.join(self.methods)}")
        return self.methods.index(method)

    def _order(self, method: str | None = None) -> list[int]:
        """Return the indices of the models, best first, undefined ones last."""
        # argsort puts NaN last; stable, so that equal scores keep the bank's order
        return np.argsort(-self.values[:, self._index(method)], kind="stable").tolist()

    def _bars(self) -> np.ndarray | None:
        """Return what follows ± after a score, (m, k): see `_title`; None for nothing."""
        if self.contributions:
            return self._half_widths(self.contributions)
        if len(self.values_per_run) == 1:
            return None
        with np.errstate(invalid="ignore"):
            return self.values_per_run.std(axis=0, ddof=1)

    def _title(self) -> str:
        """Return what the scores are of, and what follows ±."""
        runs = len(self.values_per_run)
        sets = "one probe set" if runs == 1 else f"{runs} probe sets"
        if self.contributions:
            return f"{sets}, ± {self._percent()} interval"
        return sets if runs == 1 else f"mean ± std over {sets}"

    def _percent(self) -> str:
        return f"{100 * self.level:g} %"

    def _caption(self) -> str:
        """Return a caption that names the models tied with the best; "" if that is not known."""
        if self._bars() is None or len(self.names) < 2 or not (tied := self.tied()):
            return ""
        others = printing.some(list(map(str, tied[1:])), LISTED) or "none"
        runs = len(self.values_per_run)
        over = "images" if self.contributions else f"{runs} probe sets"
        how = f"{self._percent()}, paired over {over}"
        return f"indistinguishable from the best by {self.methods[0]}: {others} ({how})"


def _per_image(parts: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> np.ndarray:
    """Return what each of u distinct images contributes to the mean over probe sets, (m, k, u).

    Args:
        parts: contributions to each probe set, (m, k, n).
        images: numbers of the images of each probe set, (n,).
    """
    distinct = np.unique(np.concatenate(images))
    sums = np.zeros((len(distinct), *parts[0].shape[:-1]))
    for part, of in zip(parts, images, strict=True):
        np.add.at(sums, np.searchsorted(distinct, of), np.moveaxis(part, -1, 0) / len(of))
    return np.moveaxis(sums * len(distinct) / len(parts), 0, -1).astype(np.float32)


def _minimum_width(table: "rich.table.Table") -> int:
    """Return the width below which a table would be truncated."""
    return 1 + sum(1 + 2 * table.padding[1] + (c.min_width or 0) for c in table.columns)


def _wrapped(label: str, width: int) -> str:
    """Wrap a method's label to lines no wider than its longest word or `width`."""
    lines = [""]
    for word in re.findall(r"[^_+(,]+|[_+(,][^_+(,]*", label):
        if lines[-1] and len(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _elided(name: str, most: int = 40) -> str:
    """Return a name, with its middle elided if it is long."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _listed(names: Iterable[str]) -> str:
    return printing.some([repr(name) for name in names], LISTED)
