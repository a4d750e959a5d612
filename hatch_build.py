"""What building the Python package does beside the usual: the page, from ``web/``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from web import build_page


class PageHook(BuildHookInterface[Any]):  # type: ignore[misc]  # hatchling is there for builds only
    """Node is asked for only where the page must be built."""

    def dependencies(self) -> list[str]:
        return [] if build_page.is_current() else [build_page.NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build_page.build()
        if version != "editable":  # git ignores what was built, and so would the archive
            place = "src/upwell/page" if self.target_name == "sdist" else "upwell/page"
            build_data["force_include"][str(build_page.PAGE)] = place
