"""Reads an HTML page strictly: every element must be closed, in order."""

from html.parser import HTMLParser

VOID = {"meta", "input", "path", "use", "br"}


class Page(HTMLParser):
    """The elements of a page and their texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found, self.texts, self.sections = [], [], {}, [""]
        self.rows: dict[str, list[list[str]]] = {}  # of tables by section, without small print
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.found.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(attributes["id"])
        table = self.rows.setdefault(self.sections[-1], [])
        if tag == "tr":
            table.append([])
        if tag in ("th", "td"):
            table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts.setdefault(tag, []).append(data)
        if {"th", "td"} & set(self.open) and "small" not in self.open:
            self.rows[self.sections[-1]][-1][-1] += data

    def of(self, tag: str) -> list[dict]:
        """The attributes of each element of that name."""
        return [attributes for name, attributes in self.found if name == tag]

    def text(self, tag: str) -> str:
        """The text in all elements of that name."""
        return " ".join("".join(self.texts.get(tag, [])).split())
