"""Opens a page in Chromium, as QtWebEngine has it, without a screen: python browser.py FILE WIDTH.

Prints as JSON the requests, the messages of the console, and the widths of the page and its window.
"""

import json
import sys

from PyQt6.QtCore import QTimer, QUrl
from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

_SETTLE_MS = 500  # for the layout after a page is loaded
_WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


class _Requests(QWebEngineUrlRequestInterceptor):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def interceptRequest(self, info):
        self.found.append(info.requestUrl().toString())


class _Page(QWebEnginePage):
    def __init__(self, profile, parent, messages):
        super().__init__(profile, parent)
        self.messages = messages

    def javaScriptConsoleMessage(self, level, message, line, source):
        self.messages.append(message)


def main(path: str, width: int) -> None:
    app = QApplication(sys.argv[:1])
    requests, messages = [], []
    interceptor, profile, view = _Requests(requests), QWebEngineProfile(), QWebEngineView()
    profile.setUrlRequestInterceptor(interceptor)
    page = _Page(profile, view, messages)
    view.setPage(page)
    view.resize(width, 900)

    def measured(widths):
        print(json.dumps({"requests": requests, "console": messages, "widths": widths}))
        app.quit()

    def loaded(ok):
        assert ok
        QTimer.singleShot(_SETTLE_MS, lambda: page.runJavaScript(_WIDTHS, measured))

    page.loadFinished.connect(loaded)
    page.load(QUrl.fromLocalFile(path))
    view.show()
    app.exec()
    view.setPage(None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
