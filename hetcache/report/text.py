"""Text for the page."""

from __future__ import annotations

import re
from html import escape


def breakable(text: str) -> str:
    """Escaped, with places where a narrow column may break a method's name."""
    return re.sub(r"([_:,=/])", r"\1<wbr>", escape(text, quote=False))
