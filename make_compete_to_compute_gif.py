#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "loky>=3.5",
#                 "cloudpickle>=3.0", "matplotlib>=3.8", "pillow>=10.1", "imageio>=2.33"]
# ///
"""Animate the test accuracies epoch by epoch across the task switch; nothing is trained.

    python3 make_compete_to_compute_gif.py

reads viz/snapshots.npz and writes compete_to_compute.gif.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # as in visualize_compete_to_compute.py
try:
    import imageio.v3 as iio
    import matplotlib.pyplot as plt
    import numpy as np

    import visualize_compete_to_compute as visualize
    from compete.files import check_writable, require, run_script, write_or_stop
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    advice = "python3 -m pip install -r requirements.txt"
    if "compete" in str(missing.name):
        advice = "it lies beside this script; take the whole repository, and run without -I"
    print(f"{missing.name} is missing: {advice}", file=sys.stderr)
    sys.exit(2)

FRAME_MS, HOLD_MS = 450, 3000
MOST_FRAMES = 60  # of a long run, evenly spaced, so that the file stays small


def draw_frame(snapshots: visualize.Snapshots, update: int) -> np.ndarray:
    """Draw the curves up to an update, as a uint8 image (height, width, 3)."""
    size = {"figsize": (visualize.WIDTH, 4.4), "dpi": visualize.DPI}
    figure, axes = plt.subplots(**size, layout="constrained")
    visualize.draw_curves(axes, snapshots, update)
    curves = [run.curves[0] for run in snapshots.runs]  # of the first seed, whose updates count
    last = int(max(curve[-1, 0] for curve in curves))
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.grid(alpha=0.2)
    begun = sorted({int(curve[curve[:, 0] <= update][-1, 1]) for curve in curves})
    learned = " and ".join(f"Task {n} ({snapshots.config.tasks[n - 1]})" for n in begun if n)
    if snapshots.config.joint and learned:
        learned = "all tasks at once"
    doing = f"learning {learned}" if learned else "before training"
    seeds = max(len(run.curves) for run in snapshots.runs)
    whose = f"{seeds} seeds" if seeds > 1 else f"seed {snapshots.seed} (one seed cannot tell)"
    axes.set_title(f"Compete to Compute, {whose}: {doing}")
    figure.legend(*axes.get_legend_handles_labels(), **visualize.LEGEND_BELOW)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    return np.uint8(np.round(image / 17.0) * 17)  # 16 levels a colour: fewer bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the animation; return the exit status."""
    parser = visualize.snapshots_parser("Animate the test accuracies of a saved run.")
    usual = "the animation (default: compete_to_compute.gif; for --snapshots NAME.npz, NAME.gif)"
    parser.add_argument("--out", type=Path, help=usual)
    options = parser.parse_args(arguments)
    snapshots = visualize.load_snapshots(options.snapshots)
    out = options.out or Path("compete_to_compute.gif")
    if options.out is None and options.snapshots != visualize.SNAPSHOTS:
        # The animation of another run does not take the place of the usual one.
        out = options.snapshots.with_suffix(".gif")
    require(out.suffix.lower() == ".gif", f"--out {out}: the animation is a GIF; name it NAME.gif")
    check_writable(out)
    updates = np.unique(np.concatenate([run.curves[0][:, 0] for run in snapshots.runs]))
    chosen = np.linspace(0, len(updates) - 1, min(len(updates), MOST_FRAMES)).round().astype(int)
    frames = [draw_frame(snapshots, update) for update in updates[chosen]]
    durations = [FRAME_MS] * (len(frames) - 1) + [HOLD_MS]
    buffer = io.BytesIO()
    iio.imwrite(buffer, frames, extension=".gif", duration=durations, loop=0)
    write_or_stop(out, buffer.getvalue())
    print(f"Wrote {out}: {len(frames)} frames, {len(buffer.getvalue()) // 1000} KB")
    return 0


if __name__ == "__main__":
    run_script(main)
