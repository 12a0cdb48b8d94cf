"""A parser of HTML pages, for the tests of the player and the report."""

from __future__ import annotations

from html.parser import HTMLParser

VOID_TAGS = ("meta", "link", "img", "input")


class ParsedPage(HTMLParser):
    """The tags of a page with their attributes, and its texts; each tag must be closed."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # by the tag they are in
        self.text = ""
        self.stack: list[str] = []
        self.feed(content.decode())
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.stack:
            self.texts.setdefault(self.stack[-1], []).append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all tags of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def attribute_names(self) -> set[str]:
        """The names of the attributes of all tags."""
        return {name for _, attributes in self.tags for name in attributes}
