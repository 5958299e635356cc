"""A hook of mkdocs for pages that are read in the repository and by `retrain man` as well.

A link that leaves `docs/` leads into the code. On Read the Docs, which says where the repository is, it leads there; in
any other build its text stays and the link goes, for the site holds no code.

The first line of a topic is ``# name: what it is about``. On the site the menu's name is the heading, and what it is
about the sentence below.
"""

import os
import re
from typing import Any

REPOSITORY = os.environ.get("READTHEDOCS_GIT_CLONE_URL", "").removesuffix(".git")
COMMIT = os.environ.get("READTHEDOCS_GIT_COMMIT_HASH", "HEAD")

OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)\s]+)\)")
TITLE = re.compile(r"\A# [\w-]+: (?P<about>.+)\n")


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Return a page's Markdown as the site wants it."""
    if title := TITLE.match(markdown):
        about = title["about"]
        markdown = f"# {page.title}\n\n*{about[:1].upper()}{about[1:]}.*\n{markdown[title.end() :]}"
    link = rf"[\g<text>]({REPOSITORY}/blob/{COMMIT}/\g<path>)"
    return OUTSIDE.sub(link if REPOSITORY.startswith("https://") else r"\g<text>", markdown)
