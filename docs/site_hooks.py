"""What the site has besides the pages in docs/: pages made of files at the top of the repository.

CONTRIBUTING.md and the others stay where readers of the repository look for them, and are not
copied: MkDocs gets them as pages, with links that fit. A link of any page to a file that is not on
the site, such as a script, becomes the path of that file; notebooks are on the site as files.

Tables get the room that they need: pages of measured tables have no column on the right, and
undefined numbers two lines. Measured tables say where they are explained.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Page of the site -> the file that it is made of.
PAGES = {
    name.lower(): name
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    if (ROOT / name).exists()
}
# README.md is the home page of the repository, index.md that of the site.
STANDS_FOR = {name: page for page, name in PAGES.items()} | {"README.md": "index.md"}

FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files, config):
    """Add the pages and the notebooks."""
    for page, name in PAGES.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        uri = f"notebooks/{notebook.name}"
        files.append(File.generated(config, uri, abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links lead to where the files are on the site."""
    # Folder of the file that the page is made of, in the repository.
    uri = page.file.src_uri
    folder = PurePosixPath(".") if uri in PAGES else PurePosixPath("docs", uri).parent
    on_site = {file.src_uri for file in files}

    def of_site(match):
        text, target = match["text"], match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        in_repository = os.path.normpath(folder / path)
        inside = in_repository.removeprefix("docs/")
        found = STANDS_FOR.get(in_repository, inside)
        if found in on_site and (found != in_repository or found.startswith("notebooks/")):
            back = os.path.relpath(found, PurePosixPath(uri).parent)
            return f"[{text}]({back}{'#' if anchor else ''}{anchor})"
        if not (ROOT / in_repository).exists():
            return match[0]  # a broken link, which MkDocs reports
        return f"{text} (`{in_repository}`)" if text.strip("`") != in_repository else text

    parts, start = [], 0
    for fence in FENCED.finditer(markdown):  # code stays as it is
        parts += [LINK.sub(of_site, markdown[start : fence.start()]), fence[0]]
        start = fence.end()
    whole = "".join([*parts, LINK.sub(of_site, markdown[start:])])
    if uri.startswith("measured/"):
        page.meta.setdefault("hide", ["toc"])
        whole += "\n\n[Performance](../performance.md) explains the columns and the goals.\n"
    return whole.replace("| undefined (NaN) ", "| undefined<br>(NaN) ")
