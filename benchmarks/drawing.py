"""The curves: cost per hook against the number of hooks, beside the peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Curves = dict[str, list[tuple[float, float]]]
"""By system: numbers of hooks, and microseconds per hook."""
MEASURED = "plan and run"
SIZE = (7.5, 4.8)
"""Inches."""


def curves_of(documents: dict[str, Any]) -> Curves:
    """Return the curves of the benchmarks hooks and peers, as far as they were run."""
    found: dict[str, dict[float, float]] = {}
    for name in ("peers", "hooks"):  # where both know a size, hooks has more rounds
        for row in documents.get(name, {}).get("results", ()):
            if row["metric"] == MEASURED:
                cost = row["seconds_median"] / row["amount"] * 1e6
                found.setdefault(row["system"], {})[row["amount"]] = cost
    return {system: sorted(points.items()) for system, points in found.items()}


def draw(curves: Curves, path: Path) -> None:
    """Write the picture to *path*, as SVG; equal curves give equal files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - the only need of an optional dependency

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    settings = {"svg.hashsalt": "karbor-actors", "svg.fonttype": "none", "font.size": 10}
    with plt.rc_context(settings):
        picture, axes = plt.subplots(figsize=SIZE, layout="constrained")
        for number, (system, points) in enumerate(curves.items()):
            is_ours = system == "karbor_actors"
            axes.loglog(
                *zip(*points, strict=True),
                marker="o",
                markersize=4,
                linewidth=2.5 if is_ours else 1.2,
                color="black" if is_ours else f"C{number}",
                zorder=3 if is_ours else 2,
                label=system,
            )
        axes.set(xlabel="hooks in one operation", ylabel="microseconds per hook")
        axes.grid(visible=True, which="major", alpha=0.4)
        axes.legend(frameon=False, fontsize=9)
        picture.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
        plt.close(picture)
