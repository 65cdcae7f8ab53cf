"""Frames: what makes any network equivariant by averaging over finitely many views of its input."""

from lemmata.equivariant.frames.action import frame_from, frame_mean, frame_to
from lemmata.equivariant.frames.averaging import FrameAveraging, frame_average
from lemmata.equivariant.frames.graph_averaging import GraphFrameAveraging
from lemmata.equivariant.frames.graph_frames import GraphFrames, graph_frames
from lemmata.equivariant.frames.pca import DegenerateFrameError, Frames, pca_frames, skew_frames
from lemmata.equivariant.frames.weighted import weighted_frames

__all__ = [
    "DegenerateFrameError",
    "FrameAveraging",
    "Frames",
    "GraphFrameAveraging",
    "GraphFrames",
    "frame_average",
    "frame_from",
    "frame_mean",
    "frame_to",
    "graph_frames",
    "pca_frames",
    "skew_frames",
    "weighted_frames",
]
