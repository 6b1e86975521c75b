"""The files of the page in app/web, ready to be sent: joined, and versioned by their digest.

The page's modules go out as one script and its style sheets as one: on a slow network each file costs a round trip.
Browsers keep both for good, since their address holds a digest, and two versions never mix.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "web"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
# As the page's modules write them, one a line; a test holds that no other form is used.
_IMPORT = re.compile(r'^import (?:\* as (\w+)|(\{[^}]+\})) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_STYLES = ("base", "controls", "chart", "views")


@cache
def files() -> dict[str, bytes]:
    """Every file of app/web by its path, and the two that the page asks for: js/page.js and style/page.css."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    found["js/page.js"] = "\n".join(_joined("main", {}).values()).encode()
    found["style/page.css"] = b"\n".join(found[f"style/{name}.css"] for name in _STYLES)
    return found


@cache
def version() -> str:
    digest = hashlib.sha256()
    for name, content in files().items():
        digest.update(f"{name}\0".encode() + content)
    return digest.hexdigest()[:16]


def _joined(name: str, done: dict[str, str]) -> dict[str, str]:
    """A module and all that it imports, what is imported first: each a function that returns what it exports."""
    text = (ROOT / "js" / f"{name}.js").read_text()
    for _, _, imported in _IMPORT.findall(text):
        if imported not in done:
            _joined(imported, done)
    exports = ", ".join(_EXPORT.findall(text))
    text = _IMPORT.sub(lambda found: f"const {found[1] or found[2]} = module_{found[3]};\n", text)
    body = _EXPORT.sub("", text)
    done[name] = f"const module_{name} = await (async () => {{\n{body}return {{ {exports} }};\n}})();\n"
    return done
