"""What the results of a benchmark say, in words."""

import math

import numpy as np

from jaxparc.evaluation import baselines
from jaxparc.evaluation.summary import Summary
from jaxparc.report.results import Results, correlations, number, plain


def conclusion(results: Results) -> list[str]:
    """Return which method predicts the accuracies best, and then how sure that is: plain sentences.

    With a summary, the best method that needs no accuracies on other targets is compared with the
    next one, with random orders, and with a better baseline that needs them.
    """
    if not results.scores:
        return ["No method has scored the models."]
    if results.summary is not None:
        return _of_summary(results, results.summary)
    means = {label: correlations(results, label)[0] for label in plain(results)}
    best = max(means, key=lambda label: np.nan_to_num(means[label].mean, nan=-math.inf))
    if not math.isfinite(means[best].mean):
        return ["The Mean PC of no method is defined."]
    return [f"{results.title(best)} predicts the accuracies best: Mean PC {means[best].text()}."]


def _of_summary(results: Results, summary: Summary) -> list[str]:
    cells = summary.cells["pearson"]
    defined = [method for method, cell in cells.items() if not math.isnan(cell.interval.value)]
    if not defined:
        return ["The Mean PC of no method is defined."]
    selectors = [method for method in defined if method not in baselines.OF_OTHERS]
    best = (selectors or defined)[0]
    value, low, high = (100 * x for x in cells[best].interval[:3])
    interval = "" if math.isnan(low) else f" (95 % interval {low:z.1f} to {high:z.1f})"
    sentences = [
        f"{results.title(best)} predicts the accuracies best: Mean PC {number(value)}{interval}."
    ]
    low, high = (100 * x for x in summary.chance["pearson"][1:3])
    if not math.isnan(low):
        sentences.append(f"95 % of random orders have {low:z.1f} to {high:z.1f}.")
    if (worse := cells[best].worse) is not None:
        differs = "a significant" if cells[best].significant else "no significant"
        next_value = number(100 * cells[worse[0]].interval.value)
        sentences.append(
            f"The next, {results.title(worse[0])}, has {next_value}: {differs} difference (5 %)."
        )
    for method in defined[: defined.index(best)]:  # baselines
        above = number(100 * cells[method].interval.value)
        sentences.append(
            f"Accuracies on the other targets predict better ({results.title(method)}: {above})."
        )
    return sentences
