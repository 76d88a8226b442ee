"""How docs/ and the READMEs become one site without a second copy of any page: mkdocs calls these functions by name."""

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

HOMES = {"README.md": "index.md", "README_zh.md": "index_zh.md"}  # a repository's file: its page
_LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:|#)([^)\"#]+)")


def on_config(config: Any) -> None:
    """Headings are named as GitHub names them, so that one link holds in both places, and for Chinese too."""
    config.mdx_configs["toc"]["slugify"] = _anchor


def on_files(files: Files, config: Any) -> None:
    """Each README is a page of the site."""
    for name, page in HOMES.items():
        with open(name, encoding="utf-8") as file:
            files.append(File.generated(config, page, content=_with_links(file.read(), "", config.repo_url)))


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links out of docs/ lead to the site's page of that file, or else to the repository."""
    return markdown if page.file.src_uri in HOMES.values() else _with_links(markdown, "docs", config.repo_url)


def _anchor(heading: str, _: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _with_links(markdown: str, folder: str, repository: str) -> str:
    """The text of a file in `folder` with the paths that it names as a page of docs/ names them."""

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path in HOMES or path.startswith("docs/"):
            return match[1] + HOMES.get(path, path.removeprefix("docs/"))
        return f"{match[1]}{repository}/blob/main/{path}"

    return _LINK.sub(link, markdown)
