"""A ranking as a self-contained HTML page: the answer, a sortable table, and what models cost."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxparc.bank import ranked_tables
from jaxparc.bank.ranked import Ranked, Row
from jaxparc.printing import count, html
from jaxparc.report import markup, plots

# Sorts the rows by the column that is clicked: by data-key, as a number where it is one.
_SCRIPT = """
document.querySelectorAll("table.sortable th[scope=col]").forEach((head, column) => {
  const button = document.createElement("button");
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.onclick = () => {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th[scope=col]").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.key;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const sign = up ? 1 : -1;
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    body.append(...[...body.rows].sort(compare));
  };
});
"""
_STYLE = """<style>th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid}
th[aria-sort=ascending] button::after{content:" ↑"}
th[aria-sort=descending] button::after{content:" ↓"}
.sortable tr>:first-child.n{min-width:2.5em;text-align:right}
.sortable tr>:nth-child(2){position:sticky;left:0;background:var(--bg);min-width:8em;
overflow-wrap:anywhere} figure svg{overflow:visible}
.marks{font-size:.85em;color:var(--dim)}
.thumbnails{display:flex;flex-wrap:wrap;gap:.8rem 1.2rem} .thumbnails figure{max-width:100%}
.thumbnails img{height:64px;max-width:128px;margin-right:3px;vertical-align:top}
.thumbnails figcaption{font-size:.85em;font-weight:400;overflow-wrap:anywhere}</style>"""


def page(ranking: Ranked) -> str:
    """Return the page."""
    target = str(ranking.settings.get("target") or ranking.settings.get("folder") or "")
    notes = "".join(f"<li>{html(note)}</li>" for note in ranking.notes)
    settings = [[key.replace("_", " "), text] for key, text in _words(ranking.settings)]
    heading = ": ".join(filter(None, ["Which model to fine-tune", target]))
    body = f"""{_STYLE}<h1>{html(heading)}</h1>
<p class="answer">{html(ranking.answer)}</p>
{_table(ranking, "; click a heading to sort")}
<p class="marks">{"<br>".join(map(html, ranked_tables.notes_of(ranking)))}</p>
{_plots(ranking)}
{_methods(ranking)}
{_probe(ranking)}
{notes and f"<h2>Notes</h2><ul>{notes}</ul>"}
<h2>Settings and versions</h2>
{markup.table("Settings", ["setting", "value"], settings, css="")}
{markup.table("Versions", ["package", "version"], list(ranked_tables.versions().items()), css="")}
<script>{_SCRIPT}</script>"""
    return markup.page(": ".join(filter(None, [target, ranking.answer])), body)


def _words(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings that are given, in words."""
    for key, value in settings.items():
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        if value not in (None, ""):
            yield key, str(value)


def _probe(ranking: Ranked) -> str:
    """Return the thumbnails, if there are any."""
    if not (pictures := ranking.thumbnails.html()):
        return ""
    about = html(str(ranking.settings.get("images", "")))
    return f"<h2>Probe images</h2><p>{about}.</p>{pictures}"


def fragment(ranking: Ranked) -> str:
    """Return the answer, the table and its notes for a notebook, whose style they keep."""
    notes = [*ranked_tables.notes_of(ranking), *(f"note: {note}" for note in ranking.notes)]
    return f"""<div><p><strong>{html(ranking.answer)}</strong></p>
{_table(ranking)}
<p><small>{"<br>".join(map(html, notes))}</small></p></div>"""


def _table(ranking: Ranked, hint: str = "") -> str:
    columns = ranked_tables.columns_of(ranking)
    heads = []
    for column in columns:
        css = "" if column.is_text else ' class="n"'
        heads.append(f'<th scope="col"{css}>{html(column.head or "rank")}</th>')
    rows = []
    for row in ranking.rows:
        cells = []
        for column in columns:
            key = column.key(row)
            text = "" if key is None else str(key)
            css = "" if column.is_text else ' class="n"'
            cells.append(f'<td{css} data-key="{html(text)}">{html(column.cell(row))}</td>')
        rows.append("".join(cells))
    caption = f"{count(len(rows), 'model')}{hint}"
    return markup.framed(caption, heads, rows).replace("<table>", '<table class="sortable">', 1)


def _plots(ranking: Ranked) -> str:
    """Return figures of scores against speeds and numbers of parameters, where these are known."""
    figures = ""
    costs: dict[str, Callable[[Row], float | None]] = {
        "images per second": lambda row: row.facts.images_per_second,
        "parameters (M)": lambda row: row.facts.parameters and row.facts.parameters / 1e6,
    }
    for name, cost in costs.items():
        drawn = [(row, x) for row in ranking.rows if (x := cost(row)) and math.isfinite(row.score)]
        if len(drawn) > 1:
            figures += f"<figure>{_scatter(ranking, drawn, name)}</figure>"
    if not figures:
        return ""
    return f"""<h2>Score and cost</h2><p>A mark is a model, filled if it is the best or tied
with it; the bar is its interval. Point at a mark for its name.</p>
<div class="plots">{figures}</div>"""


def _scatter(ranking: Ranked, drawn: list[tuple[Row, float]], name: str) -> str:
    ends = {
        row.name: (row.score,) * 2 if math.isnan(row.low) else (row.low, row.high)
        for row, _ in drawn
    }
    heights = [y for both in ends.values() for y in both]
    place_x, x_ticks = plots.log_axis([x for _, x in drawn], plots.LEFT, plots.RIGHT)
    place_y, y_ticks = plots.axis(heights, plots.BOTTOM, plots.TOP)
    parts = []
    for row, cost in sorted(drawn, key=lambda one: one[0].tied):  # tied ones on top
        x, y = place_x(cost), place_y(row.score)
        low, high = map(place_y, ends[row.name])
        filled = 0.6 if row.tied else 0
        parts.append(
            f"<g><title>{html(row.name)}: score {row.score:.2f}, {cost:,.4g} {html(name)}</title>"
            f'<path stroke="{plots.COLOURS[0]}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{plots.COLOURS[0]}" '
            f'fill-opacity="{filled}" stroke="{plots.COLOURS[0]}" stroke-width="1.5"/></g>'
        )
    about = f"Scatter plot of {count(len(drawn), 'model')}"
    return plots.framed(about, parts, (name, x_ticks), (ranking.scores.methods[0], y_ticks))


def _methods(ranking: Ranked) -> str:
    """Return the scores of all methods, if there are several."""
    scores = ranking.scores
    if len(scores.methods) < 2:
        return ""
    rows = []
    for row in ranking.rows:
        cells = [ranked_tables.cell_of(ranking, row, method) for method in scores.methods]
        # On paper, cells are wrapped after the score.
        rows.append([row.name, *(cell.replace("± ", "±\N{NO-BREAK SPACE}") for cell in cells)])
    caption = f"Scores by all methods, ± {100 * scores.level:g} % intervals"
    return f"<h2>All methods</h2>{markup.table(caption, ['model', *scores.methods], rows)}"
