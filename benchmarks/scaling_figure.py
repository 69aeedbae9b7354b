"""The picture of scaling.py."""

import statistics

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = {"stock": "#c0392b", "ours": "#1f5fa8"}
AXES = {"crop": "pixels of a crop", "batch_size": "batch", "classes": "classes"}


def draw(report: dict, path: str) -> None:
    rows = 2 * ("steps" in report) + ("processes" in report or "evaluation" in report)
    figure = Figure(figsize=(13, 3.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.12)
    panels = figure.subplots(rows, 3, squeeze=False)
    if "steps" in report:
        for column, axis in enumerate(AXES):
            draw_axis(panels[0, column], report["steps"][axis], axis, "seconds")
            draw_axis(panels[1, column], report["steps"][axis], axis, "peak_mb")
    if "processes" in report:
        draw_processes(panels[-1, 0], report["processes"])
    if "evaluation" in report:
        draw_evaluation(panels[-1, 1:], report["evaluation"])
    for panel in panels.flat:
        if not panel.has_data():
            panel.set_axis_off()
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    environment, arguments = report["environment"], report["arguments"]
    figure.suptitle(
        f"SegFormer {arguments['size'].upper()}, {arguments['precision']}, {environment['machine']}, "
        f"{environment['threads']} threads"
    )
    figure.savefig(path)


def draw_axis(panel, found: dict, axis: str, cost: str) -> None:
    if cost not in found["ours"][0]:
        return
    for kind, color in COLORS.items():
        sizes = [row["crop"][0] * row["crop"][1] if axis == "crop" else row[axis] for row in found[kind]]
        values = [statistics.median(row[cost]) if cost == "seconds" else row[cost] for row in found[kind]]
        label = kind
        if axis != "classes":
            # Of the fastest rounds; see fit().
            label += f", exponent {found['fits'][kind][cost]['exponent']:.2f}"
        panel.plot(sizes, values, "o-", color=color, label=label)
        if cost == "seconds":
            low, high = ([limit(row[cost]) for row in found[kind]] for limit in (min, max))
            panel.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    row, unit = found["ours"][0], "seconds" if cost == "seconds" else "peak memory (MB)"
    fixed = {
        "crop": f"batch {row['batch_size']}", "batch_size": "{}x{}".format(*row["crop"]),
        "classes": "batch {} of {}x{}".format(row["batch_size"], *row["crop"]),
    }[axis]  # fmt: skip
    panel.set_title(f"training step, {fixed}", fontsize=10)
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel(unit)
    # From zero on both sides, so that what is proportional looks it.
    panel.set_xlim(left=0)
    panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
    if axis == "crop":
        panel.set_xticks(sizes, ["{}x{}".format(*row["crop"]) for row in found["ours"]], rotation=30, ha="right")
    else:
        panel.set_xticks(sizes)
    panel.legend(frameon=False)


def draw_processes(panel, found: dict) -> None:
    names = [name for name in found["layouts"] if " of " not in name]
    for place, name in enumerate(names):
        row = found["layouts"][name]
        rates = row["images_per_second"]
        median = statistics.median(rates)
        panel.bar(place, median, color="#1f5fa8" if row["processes"] > 1 else "#7f7f7f", width=0.6)
        panel.errorbar(place, median, [[median - min(rates)], [max(rates) - median]], color="black", capsize=4)
        text = f"{median:.2f}" + (f"\n{row['efficiency']:.0%}" if "efficiency" in row else "")
        panel.annotate(text, (place, 0), (0, 6), textcoords="offset points", ha="center", backgroundcolor="white")
    labels = [f"{name}\n{found['layouts'][name]['threads']} threads each" for name in names]
    panel.set_xticks(range(len(names)), labels)
    panel.set_ylabel("images/s")
    panel.set_title("processes: images/s, efficiency", fontsize=10)


def draw_evaluation(panels, found: dict) -> None:
    images = [row["images"] for row in found["rows"]]
    times = [[1e3 * one for one in row["seconds_per_image"]] for row in found["rows"]]
    medians = [statistics.median(one) for one in times]
    panels[0].plot(images, medians, "o-", color=COLORS["ours"])
    panels[0].fill_between(
        images, [*map(min, times)], [*map(max, times)], color=COLORS["ours"], alpha=0.15, linewidth=0
    )
    panels[0].set_ylabel("milliseconds per image")
    if found["rows"][0]["memory_mb"]:
        for place, label in enumerate(("growth at most", "resident at the end")):
            values = [row["memory_mb"][place] for row in found["rows"]]
            panels[1].plot(images, values, "os"[place] + "-", color=COLORS["ours"], alpha=1 - 0.5 * place, label=label)
        panels[1].set_ylabel("MB")
        panels[1].legend(frameon=False)
    for panel in panels:
        panel.set_title("evaluation", fontsize=10)
        panel.set_xlabel("images")
        panel.set_xlim(left=0)
        panel.set_xticks(images)
        panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
