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
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np

from compete_to_compute import check_writable, run_script, write_or_stop
from visualize_compete_to_compute import (
    SNAPSHOTS,
    Snapshots,
    draw_curves,
    load_snapshots,
    mark_switches,
    snapshots_parser,
)

FRAME_MS, HOLD_MS = 450, 3000
WIDTH, HEIGHT, DPI = 750, 440, 100  # pixels
MOST_FRAMES = 60  # of a long run, evenly spaced, so that the file stays small


def draw_frame(snapshots: Snapshots, until: int) -> np.ndarray:
    """The curves up to an evaluation, as a uint8 image (height, width, 3)."""
    figure, axes = plt.subplots(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
    draw_curves(axes, snapshots, until + 1)
    last = max(int(snapshots.of(model, "update")[-1]) for model in snapshots.models)
    model = snapshots.models[0]
    rows = snapshots.of(model, "task")
    now = int(rows[min(until, len(rows) - 1)])
    doing = f"learning Task {now} ({snapshots.tasks[now - 1]})" if now else "before training"
    if snapshots.config["joint"] and now:
        doing = "learning all tasks at once"
    axes.set(
        xlim=(-0.02 * last, 1.02 * last),
        ylim=(-0.02, 1.02),
        xlabel="updates",
        ylabel="test accuracy",
        title=f"Compete to Compute, seed {snapshots.seed}: {doing}",
    )
    mark_switches(axes, snapshots)
    axes.grid(alpha=0.2)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return image


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the animation; the exit status."""
    parser = snapshots_parser("Animate the test accuracies of a saved run.")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="the animation (default: compete_to_compute.gif; for --snapshots NAME.npz, NAME.gif)",
    )
    options = parser.parse_args(arguments)
    snapshots = load_snapshots(options.snapshots)
    out = options.out or Path("compete_to_compute.gif")
    if options.out is None and options.snapshots != SNAPSHOTS:
        # The animation of another run does not take the place of the usual one.
        out = options.snapshots.with_suffix(".gif")
    check_writable(out)
    evaluations = max(len(snapshots.of(model, "task")) for model in snapshots.models)
    chosen = np.linspace(0, evaluations - 1, min(evaluations, MOST_FRAMES)).round().astype(int)
    frames = [draw_frame(snapshots, int(until)) for until in chosen]
    buffer = io.BytesIO()
    iio.imwrite(
        buffer,
        frames,
        extension=".gif",
        duration=[FRAME_MS] * (len(frames) - 1) + [HOLD_MS],
        loop=0,
    )
    write_or_stop(out, buffer.getvalue())
    print(f"Wrote {out}: {len(frames)} frames, {len(buffer.getvalue()) // 1000} KB")
    return 0


if __name__ == "__main__":
    run_script(main)
