#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8",
#                 "imageio>=2.33", "pillow>=10.1"]
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

    from compete_to_compute import check_writable, require, run_script, write_or_stop
    from visualize_compete_to_compute import (
        DPI,
        LEGEND_BELOW,
        SNAPSHOTS,
        WIDTH,
        Snapshots,
        draw_curves,
        load_snapshots,
        snapshots_parser,
    )
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(f"{missing.name} is missing: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

FRAME_MS, HOLD_MS = 450, 3000
MOST_FRAMES = 60  # of a long run, evenly spaced, so that the file stays small


def draw_frame(snapshots: Snapshots, update: int) -> np.ndarray:
    """The curves up to an update, as a uint8 image (height, width, 3)."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), dpi=DPI, layout="constrained")
    draw_curves(axes, snapshots, update)
    last = max(int(run.update[-1]) for run in snapshots.runs)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.grid(alpha=0.2)
    begun = sorted({int(run.task[run.update <= update][-1]) for run in snapshots.runs})
    learned = " and ".join(f"Task {n} ({snapshots.config['tasks'][n - 1]})" for n in begun if n)
    if snapshots.config["joint"] and learned:
        learned = "all tasks at once"
    doing = f"learning {learned}" if learned else "before training"
    seeds = max(len(run.curves) for run in snapshots.runs)
    whose = f"{seeds} seeds" if seeds > 1 else f"seed {snapshots.seed} (one seed cannot tell)"
    axes.set_title(f"Compete to Compute, {whose}: {doing}")
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND_BELOW)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    image = np.uint8(np.round(image / 17.0) * 17)  # 16 levels a colour: fewer bytes
    plt.close(figure)
    return image


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the animation; the exit status."""
    parser = snapshots_parser("Animate the test accuracies of a saved run.")
    usual = "the animation (default: compete_to_compute.gif; for --snapshots NAME.npz, NAME.gif)"
    parser.add_argument("--out", type=Path, help=usual)
    options = parser.parse_args(arguments)
    snapshots = load_snapshots(options.snapshots)
    out = options.out or Path("compete_to_compute.gif")
    if options.out is None and options.snapshots != SNAPSHOTS:
        # The animation of another run does not take the place of the usual one.
        out = options.snapshots.with_suffix(".gif")
    require(out.suffix.lower() == ".gif", f"--out {out}: the animation is a GIF; name it NAME.gif")
    check_writable(out)
    updates = np.unique(np.concatenate([run.update for run in snapshots.runs]))
    chosen = np.linspace(0, len(updates) - 1, min(len(updates), MOST_FRAMES)).round().astype(int)
    frames = [draw_frame(snapshots, int(update)) for update in updates[chosen]]
    durations = [FRAME_MS] * (len(frames) - 1) + [HOLD_MS]
    buffer = io.BytesIO()
    iio.imwrite(buffer, frames, extension=".gif", duration=durations, loop=0)
    write_or_stop(out, buffer.getvalue())
    print(f"Wrote {out}: {len(frames)} frames, {len(buffer.getvalue()) // 1000} KB")
    return 0


if __name__ == "__main__":
    run_script(main)
