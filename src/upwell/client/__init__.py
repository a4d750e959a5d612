"""The client of an Upwell server: it imports nothing else of upwell.

>>> from upwell import Client
>>> with Client("https://up.example", token) as client:  # doctest: +SKIP
...     file = client.upload("holiday.mov")

:class:`Client` and :class:`AsyncClient` are for programs; :class:`Calls` is what they are made of.
"""

from upwell.client.aio import AsyncClient
from upwell.client.api import Calls, Download, NewFile
from upwell.client.client import Client
from upwell.client.download import Downloaded, Received, download_file, download_to, plain_name
from upwell.client.errors import (
    ApiError,
    CertificateRejected,
    ClientError,
    ConnectionFailed,
    ContentMismatch,
    FileChanged,
    IdentifierInvalid,
    Interrupted,
    LocalFileError,
    PatienceOver,
    Refusal,
    SettingsError,
    TargetExists,
    UnexpectedAnswer,
)
from upwell.client.folder import FileResult, Item, Manner, items_in
from upwell.client.model import (
    CloudFile,
    Digest,
    Holdings,
    Move,
    Page,
    Pool,
    PoolHoldings,
    UploadTask,
)
from upwell.client.progress import Progress, Watcher
from upwell.client.retry import Backoff, Retry, Wait
from upwell.client.settings import Given, Settings, load_settings
from upwell.client.sharing import Bundle, BundleFields, Link
from upwell.client.state import UploadStates
from upwell.client.stop import Stop
from upwell.client.upload import Uploaded, UploadOptions, upload_file
from upwell.client.webhooks import Delivery, Event, Webhook

__all__ = [
    "ApiError",
    "AsyncClient",
    "Backoff",
    "Bundle",
    "BundleFields",
    "Calls",
    "CertificateRejected",
    "Client",
    "ClientError",
    "CloudFile",
    "ConnectionFailed",
    "ContentMismatch",
    "Delivery",
    "Digest",
    "Download",
    "Downloaded",
    "Event",
    "FileChanged",
    "FileResult",
    "Given",
    "Holdings",
    "IdentifierInvalid",
    "Interrupted",
    "Item",
    "Link",
    "LocalFileError",
    "Manner",
    "Move",
    "NewFile",
    "Page",
    "PatienceOver",
    "Pool",
    "PoolHoldings",
    "Progress",
    "Received",
    "Refusal",
    "Retry",
    "Settings",
    "SettingsError",
    "Stop",
    "TargetExists",
    "UnexpectedAnswer",
    "UploadOptions",
    "UploadStates",
    "UploadTask",
    "Uploaded",
    "Wait",
    "Watcher",
    "Webhook",
    "download_file",
    "download_to",
    "items_in",
    "load_settings",
    "plain_name",
    "upload_file",
]
