"""Measuring how far a model holds up: protocols, the evaluator, and the records that it leaves."""

from .evaluator import evaluate_robustness
from .metrics import RobustAccuracy, wilson_interval
from .plots import plot_accuracy
from .presets import PRESETS
from .protocol import Protocol
from .records import Row, Sample, read_samples
from .retrieval import evaluate_retrieval
from .retrieval_protocol import RetrievalProtocol
from .retrieval_records import RetrievalRow
from .revision import checkpoint_revision, weights_revision
from .run_folder import require_writable
from .store import RecordStore
from .variants import get_protocol, get_protocols, with_test_time_defence

__all__ = [
    "PRESETS",
    "Protocol",
    "RecordStore",
    "RetrievalProtocol",
    "RetrievalRow",
    "RobustAccuracy",
    "Row",
    "Sample",
    "checkpoint_revision",
    "evaluate_retrieval",
    "evaluate_robustness",
    "get_protocol",
    "get_protocols",
    "plot_accuracy",
    "read_samples",
    "require_writable",
    "weights_revision",
    "wilson_interval",
    "with_test_time_defence",
]
