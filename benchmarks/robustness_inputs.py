"""Generated inputs: bad ones are refused in one line, odd but right ones are taken, hostile ones do nothing.

    python benchmarks/robustness_inputs.py                           # 2,000 bad, 500 odd, 100 hostile cases
    python benchmarks/robustness_inputs.py --what bad --cases 200
    python benchmarks/robustness_inputs.py --what bad --kind "label of 16 bits" --cases 1 --seed 17    # one again
    python benchmarks/robustness_inputs.py --list

Prints a Markdown table, and exits with 1 if a bad or hostile case failed, or more than 2 % of the odd ones. A bad case
passes if the command ends within 60 s and 2 GB, with status 2, one line `error: ...` on standard error, no traceback,
and every file beside it as it was before.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random

from robustness import warm
from robustness.bad_data import KINDS as BAD_DATA
from robustness.bad_exports import KINDS as BAD_EXPORTS
from robustness.bad_models import KINDS as BAD_MODELS
from robustness.bad_options import KINDS as BAD_OPTIONS
from robustness.bad_runs import KINDS as BAD_RUNS
from robustness.campaign import Campaign
from robustness.cases import Case, describe_fault, list_files, make_base
from robustness.hostile_inputs import KINDS as HOSTILE
from robustness.masks import BAD as BAD_MASKS
from robustness.masks import ODD as ODD_MASKS
from robustness.odd_inputs import KINDS as ODD
from robustness.watching import describe_harm, watch

WHAT = {
    "bad": (
        BAD_DATA | BAD_MASKS | BAD_EXPORTS | BAD_OPTIONS | BAD_MODELS | BAD_RUNS,
        2000,
        0.0,
        "generated bad inputs: one line, status 2, nothing written",
    ),
    "odd": (ODD | ODD_MASKS, 500, 0.02, "odd but right inputs: taken"),
    "hostile": (
        HOSTILE,
        100,
        0.0,
        'hostile inputs with "y" on standard input: nothing run, written outside or asked for',
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WHAT, nargs="+", default=list(WHAT))
    parser.add_argument("--kind", help="only kinds with this in their name")
    parser.add_argument("--cases", type=int, help="in all, over the kinds in turn; default: the full number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="start no case after so many")
    parser.add_argument("--limit", type=float, default=75, help="seconds after which a case is killed")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--list", action="store_true", help="print the kinds and do nothing")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{what}: {kind}" for what in args.what for kind in WHAT[what][0]))
        return
    warm.import_everything()
    good, root = True, Path(tempfile.mkdtemp(prefix="robustness-", dir=args.folder))
    os.environ["HF_URBANSEG_CACHE"], os.environ["HF_HOME"] = str(root / "cache"), str(root / "hub")
    try:
        base = make_base(root / "base")
        for what in args.what:
            kinds, cases, allowed, title = WHAT[what]
            chosen = [kind for kind in kinds if args.kind in (None, kind)]
            chosen = chosen or [kind for kind in kinds if args.kind in kind]
            if not chosen:
                continue
            campaign = Campaign(f"{title} ({len(chosen)} kinds)", args.seconds)

            def check(seed: int, rng: Random, what=what, kinds=kinds, chosen=chosen):
                name = chosen[seed % len(chosen)]
                fault = check_case(what, kinds[name], rng, root / "case", base, args.limit)
                return name, fault and f'--kind "{name}": {fault}', None

            campaign.run(args.seed, args.cases or cases, check)
            good &= campaign.finish(allowed)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if good else 1)


def check_case(what: str, kind, rng: Random, folder: Path, base: Path, limit: float) -> str | None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    case = Case(folder, base, rng)
    words = kind(case)
    environment = {"HF_URBANSEG_CACHE": str(folder.parent / "case-cache")} | case.environment
    shutil.rmtree(folder.parent / "case-cache", ignore_errors=True)
    before = list_files(folder) | list_files(base)
    options = {"environment": environment, "limit": limit, "prepare": warm.limit_memory(6000)}
    if what == "hostile":
        options |= {"stdin": b"y\n" * 20, "prepare": lambda: watch(folder)}
    ended = warm.run(words, folder, **options)
    after = list_files(folder) | list_files(base)
    if what == "hostile":
        fault = describe_harm(ended, folder, before, after)
    elif what == "odd":
        fault = None if ended.status == 0 else ended.describe_refusal() or f"refused: {ended.errors[0][:300]}"
    else:
        fault = describe_fault(ended, before, after)
        cached = sum(path.stat().st_size for path in (folder.parent / "case-cache").rglob("*") if path.is_file())
        if fault is None and cached > 50 << 20:
            fault = f"{cached >> 20} MB left in the cache"
    return fault and f"{fault}; urbanseg {shlex.join(map(str, words))}"


if __name__ == "__main__":
    main()
