#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""Put a number on what people say they see in LWTA's figures, over many seeds.

    python3 measure_visual_claims.py --n-seeds 40

The claims: LWTA's first-layer fields are more localised than ReLU's; a band of LWTA's units fires
almost only for one task, while ReLU's fire for both. Writes study/visual_claims.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compete_to_compute import (
    ACTIVATIONS,
    SCHEMA,
    Config,
    InputError,
    OneLineParser,
    as_finished,
    available_cores,
    check_writable,
    compare,
    environment,
    load_mnist,
    local_executor,
    run_script,
    summarise,
    to_json,
    train_model,
    write_or_stop,
)
from visualize_compete_to_compute import field_spread, segregation

MEASURES = {
    "weight_spread": "spread of the trained first-layer weights, pixels",
    "change_spread": "spread of what training changed in the first layer, pixels",
    "selectivity_1": "mean selectivity S, layer 1",
    "selectivity_2": "mean selectivity S, layer 2",
    "gap_1": "mean gap, layer 1",
    "gap_2": "mean gap, layer 2",
    "exclusive_1": "share of units almost only for one task, layer 1",
    "exclusive_2": "share of units almost only for one task, layer 2",
}


def measure(model: str, seed: int, data_dir: str | None) -> dict[str, Any]:
    """Train one model at the default configuration and measure what its figures show."""
    run = train_model(Config(), ACTIVATIONS[model], seed, load_mnist(data_dir))
    trained, initial = run.snapshot["W1"], run.snapshot["W1_init"]
    layers = [segregation(*layer) for layer in run.snapshot["active"][-1]]
    return {
        "seed": seed,
        "model": model,
        "status": run.record["status"],
        "weight_spread": float(field_spread(trained).mean()),
        "change_spread": float(field_spread(trained - initial).mean()),
        **{f"{name}_{i}": v for i, layer in enumerate(layers, 1) for name, v in layer.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and save; the exit status."""
    parser = OneLineParser(
        description="Put a number on what people say they see in LWTA's figures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--n-seeds", type=int, default=40, metavar="N", help="seeds, from 0 (default: 40)"
    )
    parser.add_argument(
        "--data-dir",
        default=None,
        metavar="DIR",
        help="folder of the four MNIST files (default: $MNIST_DIR, else fetched once and cached)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study/visual_claims.json"),
        metavar="FILE",
        help="what was measured (default: study/visual_claims.json)",
    )
    options = parser.parse_args(arguments)
    if options.n_seeds < 2:
        raise InputError("--n-seeds must be 2 or more: one seed shows no difference")
    check_writable(options.out)
    load_mnist(options.data_dir)

    units = [(model, seed) for seed in range(options.n_seeds) for model in ("relu", "lwta")]
    executor = local_executor(available_cores(), len(units))
    futures = [executor.submit(measure, *unit, options.data_dir) for unit in units]
    list(as_finished(executor, futures))
    rows = [future.result() for future in futures]
    failed = {row["seed"] for row in rows if row["status"] != "ok"}
    aggregate: dict[str, Any] = {}
    print(f"{'':65}{'ReLU':>7}{'LWTA':>8}")
    for name, text in MEASURES.items():
        relu, lwta = (
            [r[name] for r in rows if r["model"] == model and r["seed"] not in failed]
            for model in ("relu", "lwta")
        )
        comparison = compare(relu, lwta)
        aggregate[name] = {
            "what": text,
            "relu": summarise(relu),
            "lwta": summarise(lwta),
            "relu_minus_lwta": comparison["difference"],
        }
        print(f"{text:65}{summarise(relu)['mean']:7.3f}{summarise(lwta)['mean']:8.3f}")
        low, high = comparison["difference"]["ci95"]
        print(f"{'':18}ReLU minus LWTA, 95 % interval {low:+.4f} to {high:+.4f}")
    study = {
        "schema": SCHEMA,
        "name": "visual_claims",
        "question": "Are LWTA's fields more localised, and its units more specialised?",
        "command": f"python3 measure_visual_claims.py --n-seeds {options.n_seeds}",
        "environment": environment(),
        "n": options.n_seeds - len(failed),
        "aggregate": aggregate,
        "per_seed": rows,
    }
    write_or_stop(options.out, to_json(study))
    print(f"Wrote {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
