"""Makes pages of files at the root of the repository, and links among all pages of the site."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {  # of files outside of docs/
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "launch/README.md": "launch.md",
    "benchmarks/README.md": "benchmarks.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^):#]+)(#[^)]*)?\)|(!\[[^\]]*\])\(([^):]+)\)")


def on_files(files, config):
    """Adds the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links between files of the repository; those that are no pages become their text."""
    source = PurePosixPath(_SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def rewritten(match):
        text, target, anchor, image, picture = match.groups()
        path = os.path.normpath(source.parent / (target or picture))
        inside = PAGES.get(path, path.removeprefix("docs/"))
        if inside == path:  # neither a page nor in docs/
            if not (ROOT / path).exists():
                raise ValueError(f"{source}, broken link: {target or picture}")
            return text
        return f"{image}({inside})" if image else f"[{text}]({inside}{anchor or ''})"

    return _LINK.sub(rewritten, markdown)
