"""What the HTML pages share: their style and tables. Functions escape text, unless they say so."""

from collections.abc import Iterable, Sequence

from jaxparc.printing import html

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1c;--dim:#595959;--line:#ddd;--more:#0004}
@media (prefers-color-scheme:dark){:root{--bg:#161616;--fg:#e8e8e8;--dim:#a8a8a8;--line:#3a3a3a;
--more:#fff5}}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:auto;padding:1rem} p{max-width:46rem}
h1,h2,h3{line-height:1.2;overflow-wrap:anywhere;break-after:avoid} h2{margin-top:2.5rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums} strong{font-weight:800}
.answer{font-size:1.35rem;font-weight:600;line-height:1.35;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.5rem 0;container-type:scroll-state;
background:linear-gradient(to left,var(--bg) 40%,transparent) right/2.5rem 100% no-repeat local,
linear-gradient(to left,var(--more),transparent) right/1.2rem 100% no-repeat scroll}
@container scroll-state(scrollable:right){caption::before{content:"(scroll →) "}}
table:not(.sortable) tr>th:first-child{position:sticky;left:0;background:var(--bg);
overflow-wrap:anywhere} caption{text-align:left;color:var(--dim);break-after:avoid}
th,td{padding:.25em .6em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right;white-space:nowrap} th.n:first-child{text-align:left;min-width:9rem}
tbody th:first-child{min-width:8rem}
.heat{background:rgb(0 114 178/var(--alpha));print-color-adjust:exact} tbody th{font-weight:400}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0;max-width:30rem;break-inside:avoid} figcaption{font-weight:600}
figure svg{width:100%;height:auto} .grid{stroke:var(--line)} text{fill:var(--dim);font-size:12px}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.4rem 0;list-style:none}
.legend svg{width:1em;height:1em;vertical-align:-.1em;margin-right:.3em} summary{cursor:pointer}
details{margin:.4rem 0} .mark{fill-opacity:.45;stroke-width:1.2}
.chance{fill:var(--line);opacity:.6}
@media print{body{font-size:11px} .scroll{overflow:visible;background:none}
caption::before{content:none!important}
table{font-size:8.5px} th,td{padding:.2em .4em} tr{break-inside:avoid} .n{white-space:normal}}
@media (max-width:40rem){table{font-size:.75rem} th,td{padding:.2em} h1{font-size:1.5rem}
.answer{font-size:1.1rem}} figure table{font-size:.75rem}
"""


def page(title: str, body: str) -> str:
    """Return a self-contained page; `body` is HTML."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html(title)}</title><style>{STYLE}</style></head>
<body><main>{body}</main></body></html>
"""


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], css: str = "n") -> str:
    """Return a table; the columns after the first have the class `css`."""
    columns = [f'<th scope="col" class="{css}">{html(name)}</th>' for name in head]
    body = [
        f'<th scope="row">{html(row[0])}</th>'
        + "".join(f'<td class="{css}">{html(cell)}</td>' for cell in row[1:])
        for row in rows
    ]
    return framed(caption, columns, body)


def framed(caption: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    """Return a table of cells in HTML that scrolls on a narrow screen."""
    # A table that scrolls on a narrow screen must be focusable by keyboard.
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"""<div class="scroll" tabindex="0"><table><caption>{html(caption)}</caption>
<thead><tr>{"".join(columns)}</tr></thead>
<tbody>{body}</tbody></table></div>"""
