"""What every listing over the API shares: which rows are asked for, and how it continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query

if TYPE_CHECKING:
    from starlette.responses import Response

    from upwell.core.ports import Page

Offset = Annotated[
    int, Query(ge=0, le=1 << 31, description="Rows to skip: from the beginning, or `after`.")
]
Take = Annotated[int, Query(ge=1, le=100, description="Rows to answer.")]
After = Annotated[
    str | None,
    Query(
        max_length=4096,
        description="The `X-Next-Cursor` of an earlier page of this list, with the same filters: "
        "the rows behind that page, whatever came or went meanwhile.",
    ),
]

HEADERS: dict[str, Any] = {
    "X-Total": {
        "description": "Rows in all. Of a search with more than 1,000 files, a lower bound.",
        "schema": {"type": "integer"},
    },
    "X-Next-Cursor": {
        "description": "Send it as `after` to get the next page. Absent on the last one.",
        "schema": {"type": "string"},
    },
}


def describe(response: Response, page: Page[Any]) -> None:
    """Put a page's total and cursor into the head of its answer."""
    response.headers["X-Total"] = str(page.total)
    if page.cursor is not None:
        response.headers["X-Next-Cursor"] = page.cursor
