"""The client of an Upwell server: it imports nothing else of upwell.

>>> from upwell.client import Client, upload_file
>>> with Client("https://up.example", token) as client:  # doctest: +SKIP
...     uploaded = upload_file(client, "holiday.mov")
"""

from upwell.client.api import Calls, Download, NewFile
from upwell.client.download import Downloaded, download_file, download_to, plain_name
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
from upwell.client.progress import Watcher
from upwell.client.retry import Backoff, Retry, Wait
from upwell.client.settings import Given, Settings, load_settings
from upwell.client.state import UploadStates
from upwell.client.upload import Uploaded, UploadOptions, upload_file

__all__ = [
    "ApiError",
    "Backoff",
    "Calls",
    "CertificateRejected",
    "ClientError",
    "CloudFile",
    "ConnectionFailed",
    "ContentMismatch",
    "Digest",
    "Download",
    "Downloaded",
    "FileChanged",
    "Given",
    "Holdings",
    "IdentifierInvalid",
    "Interrupted",
    "LocalFileError",
    "Move",
    "NewFile",
    "Page",
    "PatienceOver",
    "Pool",
    "PoolHoldings",
    "Refusal",
    "Retry",
    "Settings",
    "SettingsError",
    "TargetExists",
    "UnexpectedAnswer",
    "UploadOptions",
    "UploadStates",
    "UploadTask",
    "Uploaded",
    "Wait",
    "Watcher",
    "download_file",
    "download_to",
    "load_settings",
    "plain_name",
    "upload_file",
]
