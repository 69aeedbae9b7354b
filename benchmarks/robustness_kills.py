"""What is left of a run that ends before its time: killed, damaged, stopped, out of disk, or not alone in its folder.

    python benchmarks/robustness_kills.py --what kills --cases 200      # 25 minutes of one core
    python benchmarks/robustness_kills.py                               # every campaign, at its full length
    python benchmarks/robustness_kills.py --what kills --cases 1 --seed 37   # case 37 again

Prints a Markdown table a campaign and exits with 1 if a case failed. Runs are of seconds (tiny model, 64x64 crops, 12
rendered frames) and are forked from a process that has imported everything; some are started by torchrun or afresh.
"""

import argparse
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from robustness import kills, warm
from robustness.campaign import Campaign
from robustness.damage import check_damage
from robustness.disks import check_disk
from robustness.stops import check_lock, check_signal
from robustness.tiny_runs import References, make_set, make_shards

CAMPAIGNS = {
    "kills": (kills.check_kill, 200, "kill -9 at random moments, then --resume"),
    "streamed": (kills.check_streamed_kill, 40, "the same of runs that stream their frames from shards"),
    "damage": (check_damage, 180, "files of the newest and the best checkpoint damaged, then --resume"),
    "lock": (check_lock, 20, "two to four runs started within 3 s in one folder"),
    "signals": (check_signal, 20, "SIGTERM, SIGINT, SIGUSR1, then --resume"),
    "disk": (check_disk, 28, "full and read-only disks, then --resume"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=CAMPAIGNS, nargs="+", default=list(CAMPAIGNS))
    parser.add_argument("--cases", type=int, help="of each campaign; default: its full length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, choices=[1, 2], help="kill runs of so many alone; default: both")
    parser.add_argument("--seconds", type=float, help="start no case of a campaign after so many")
    parser.add_argument("--data_dir", type=Path, help="frames that are streamed; default: rendered ones")
    parser.add_argument("--folder", type=Path, help="on a disk with 1 GB to spare; default: a temporary one")
    args = parser.parse_args()
    for variants in (kills.VARIANTS, kills.STREAMED):
        variants[:] = [variant for variant in variants if args.processes in (None, variant[-1])]
    warm.import_everything()
    good, root = True, Path(tempfile.mkdtemp(prefix="robustness-", dir=args.folder))
    os.environ["HF_URBANSEG_CACHE"], os.environ["HF_HOME"] = str(root / "cache"), str(root / "hub")
    try:  # not TemporaryDirectory: forks that end would clean it up, too
        made = functools.cache(make_set)
        for name in args.what:
            check, cases, title = CAMPAIGNS[name]
            (root / name).mkdir()
            data = make_shards(root, args.data_dir) if name == "streamed" else made(root)
            given = (root / name, data, References(root / name))
            campaign = Campaign(title, args.seconds)
            campaign.run(args.seed, args.cases or cases, functools.partial(check, *given))
            good &= campaign.finish()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
