"""Figures: numbers in, figures out. One style, one colour per loss; nothing is computed or trained here."""

from hdmlib.plots.style import LOSS_LABEL, LOSS_STYLE, figure_png, present, save_figure, use_style

__all__ = ["LOSS_LABEL", "LOSS_STYLE", "figure_png", "present", "save_figure", "use_style"]
