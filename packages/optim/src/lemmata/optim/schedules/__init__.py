"""How learning rates move: linear decay, schedules refined from recorded gradient norms, and their bounds."""

from lemmata.optim.schedules.bounds import last_iterate_bound, optimal_schedule
from lemmata.optim.schedules.decay import ArraySchedule, LinearDecay
from lemmata.optim.schedules.recorder import GradientNormRecorder
from lemmata.optim.schedules.refinement import fit_polynomial, refine_schedule

__all__ = [
    "ArraySchedule",
    "GradientNormRecorder",
    "LinearDecay",
    "fit_polynomial",
    "last_iterate_bound",
    "optimal_schedule",
    "refine_schedule",
]
