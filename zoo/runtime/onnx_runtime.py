"""ONNX Runtime with its telemetry off; the one place that imports it (import-linter holds that).

Its wheels report to Microsoft by default: a device id and a database of events below the cache directory, sent while
a process serves. The variable keeps the reporter from starting, and is read once, when the library is imported, so
that it must be set before; the call is for a process in which something else has imported it already.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

onnxruntime.disable_telemetry_events()

InferenceSession = onnxruntime.InferenceSession
SessionOptions = onnxruntime.SessionOptions

__all__ = ["InferenceSession", "SessionOptions"]
