"""What is to be measured on a GPU: commands of the other benchmarks, the most important first, and a table of them all.

    python benchmarks/gpu.py --output gpu                           # every part: about an hour of an H200
    python benchmarks/gpu.py --output gpu --parts step_b0 run_b0    # these
    python benchmarks/gpu.py --output tried --tiny                  # the same in small, on whatever machine
    python benchmarks/gpu.py --table gpu                            # what was measured, in Markdown

A part leaves NAME.json and NAME.log in the folder. One that fails or takes longer than `--seconds` is told, and the
next begins; the exit status is then 1. Minutes beside the parts are estimates for an H200 with 16 cores.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import show_table

ROOT = Path(__file__).parents[1]
LARGE = "--precision bf16 --batch_size 16 --crop 512 1024"
SMALL = "--precision bf16 --batch_size 8 --crop 368 368"
LEVERS = "--levers fused 'compiled fused' 'compiled reduce-overhead fused'"
PARTS = {
    "step_b0": (4, f"train_step.py --size b0 {LARGE} {LEVERS} channels_last searched"),
    "run_b0": (1, f"training_run.py --size b0 {LARGE}"),
    "profile_b0": (1, f"profile_step.py --size b0 {LARGE}"),
    "tests": (4, "pytest -q -m gpu --continue-on-collection-errors tests/losses tests/inference tests/training"),
    "step_b2": (5, f"train_step.py --size b2 {LARGE} {LEVERS}"),
    "run_b2": (1, f"training_run.py --size b2 {LARGE}"),
    "profile_b2": (1, f"profile_step.py --size b2 {LARGE}"),
    "evaluation_b0": (2, "evaluation.py --model b0 --image_size 1024 2048 --images 200"),
    "evaluation_b2": (2, "evaluation.py --model b2 --image_size 1024 2048 --images 200"),
    "predict_b0": (2, "predict.py --model b0 --image_size 375 1242"),
    "step_b5": (3, f"train_step.py --size b5 {LARGE} --levers fused --rounds 5 --steps 10"),
    "run_b5": (2, f"training_run.py --size b5 {LARGE} --steps 50"),
    "curves": (6, "loss_curves.py --reference stock_fp32"
                  " --variants stock_fp32 ours_fp32 stock ours stock_fp16 ours_fp16"),
    "small_b0": (2, f"train_step.py --size b0 {SMALL} {LEVERS}"),
    "run_small_b0": (1, f"training_run.py --size b0 {SMALL} --image_size 375 1242"),
    "compiled_b5": (8, f"train_step.py --size b5 {LARGE} --levers 'compiled fused' --rounds 3 --steps 10"),
    "small_b2": (3, f"train_step.py --size b2 {SMALL} {LEVERS}"),
    "small_b5": (2, f"train_step.py --size b5 {SMALL} --levers fused"),
    "run_compiled_b0": (2, f"training_run.py --size b0 {LARGE} --warmup 40 -- --torch_compile true"),
    "predict_b2": (2, "predict.py --model b2 --image_size 375 1242 --rounds 3"),
    "profile_b5": (1, f"profile_step.py --size b5 {LARGE}"),
    "autotuned_b0": (8, f"train_step.py --size b0 {LARGE} --levers 'compiled max-autotune fused'"),
}  # fmt: skip
TINY = {
    "train_step.py": "--size tiny --crop 64 64 --batch_size 2 --rounds 1 --steps 2 --levers fused 'compiled fused'"
                     " --no_memory",
    "training_run.py": "--size tiny --crop 64 64 --batch_size 2 --image_size 64 128 --images 6 --steps 4 --rounds 2"
                       " --warmup 2",
    "profile_step.py": "--size tiny --crop 64 64 --batch_size 2 --steps 2",
    "evaluation.py": "--model tiny --image_size 64 128 --images 4 --repeats 1",
    "predict.py": "--model tiny --image_size 64 128 --images 1 --rounds 1 --window 32 32",
    "loss_curves.py": "--size tiny --crop 64 64 --batch_size 2 --steps 10 --warmup_steps 2 --seeds 0 1",
    "pytest": "--collect-only",
}  # fmt: skip
"""What is said behind a part's own words, where the last one counts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for JSON files and logs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help=", ".join(PARTS), metavar="PART")
    parser.add_argument("--seconds", type=float, default=540, help="limit for each part")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data_dir", help="frames that loss curves are trained on; default: rendered streets")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that every command works")
    parser.add_argument("--table", type=Path, help="print the table of such a folder, measure nothing")
    args = parser.parse_args()
    if args.table:
        print(build_table(args.table))
        return 0
    if args.output is None:
        parser.error("expected --output, a folder, or --table")
    args.output.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.parts if not run_part(args, name)]
    print(build_table(args.output))
    return int(bool(failed))


def build_command(args, name: str) -> list[str]:
    script, *words = shlex.split(PARTS[name][1])
    small = shlex.split(TINY[script]) if args.tiny else []
    if script == "pytest":
        return ["-m", script, *words, *small]
    own = ["--device", args.device, "--output", str(args.output.resolve() / f"{name}.json")]
    if script in ("training_run.py", "evaluation.py", "loss_curves.py"):
        own += ["--num_workers", str(max(1, os.cpu_count() - 2))]
    if script == "loss_curves.py" and args.data_dir:
        own += ["--data_dir", str(Path(args.data_dir).resolve())]
    end = words.index("--") if "--" in words else len(words)
    return [str(ROOT / "benchmarks" / script), *words[:end], *own, *small, *words[end:]]


def run_part(args, name: str) -> bool:
    """Whether it came to its end; says how it went."""
    command, log, start = build_command(args, name), args.output / f"{name}.log", time.perf_counter()
    print(f"{name} (about {PARTS[name][0]} min): {shlex.join(command)}", flush=True)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            status = process.wait(args.seconds)
        except subprocess.TimeoutExpired:
            status = f"more than {args.seconds:g} s"
        finally:  # its workers and compilers, too
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-5:]))
    print(f"  {f'FAILED: {status}' if status else 'done'}, {time.perf_counter() - start:.0f} s", flush=True)
    return not status


def build_table(folder: Path) -> str:
    """The tables of the parts in Markdown, parts of the same columns together; where they were measured."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    rows, places = {}, {}
    for name in sorted(found, key=[*PARTS].index):
        table, place = found[name]["table"], found[name]["environment"]
        rows.setdefault(tuple(table["head"]), []).extend(table["rows"])
        places["{machine}, torch {torch}, transformers {transformers}, Python {python}".format(**place)] = None
    lines = ["; ".join(places)]
    for head, own in rows.items():
        lines += ["", show_table(head, own)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
