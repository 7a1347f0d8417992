"""Draws docs/benchmarks/*.svg from docs/benchmarks/results.json: plot.py DIRECTORY.

The background is transparent and every colour has enough contrast to both white and near black.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

GREY = "#7d8590"
COLOURS = {
    "floor": "#7d8590",
    "ours": "#3b82f6",
    "ours, layer": "#10a37f",
    "no spool": "#b07cf0",
    "baseline": "#e8710a",
    "none": "#d0437e",
}

plt.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "langfuse-lambda-extension",
        "font.size": 10,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.labelcolor": GREY,
    }
    | dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"),
        GREY,
    )
)


def save(figure, directory, name, data):
    figure.text(
        0.01,
        0.005,
        f"{data['machine']} · {data['commit']} · {data['command']} · load {data['load'][0]}–{data['load'][1]}",
        fontsize=6.5,
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def bars(data, directory, name, title, whats, unit):
    """Groups of bars, one bar for each subject: the median, with minimum and maximum."""
    rows = [row for row in data["rows"] if row["unit"] == unit]
    subjects = [s for s in data["subjects"] if any(r["subject"] == s and r["what"] in whats for r in rows)]
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    width = 0.8 / max(len(subjects), 1)
    for nth, subject in enumerate(subjects):
        for place, what in enumerate(whats):
            for row in rows:
                if row["subject"] == subject and row["what"] == what:
                    x = place + (nth - (len(subjects) - 1) / 2) * width
                    axes.bar(x, row["median"], width * 0.9, color=COLOURS.get(subject))
                    # The maximum is the machine's; the minimum is what is possible.
                    axes.plot([x, x], [row["min"], row["median"]], color=GREY, linewidth=1)
                    axes.annotate(f"{row['median']:.3g}", (x, row["median"]), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(whats)), whats)
    axes.set_ylabel(f"{unit}, median, line down to minimum")
    axes.set_title(title)
    axes.legend(handles=[plt.Rectangle((0, 0), 1, 1, color=COLOURS.get(s)) for s in subjects], labels=subjects)
    save(figure, directory, name, data)


def lines(data, directory, name, title, what, unit, xlabel, log=False, scale=1.0):
    """A line for each subject over the growing parameter."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    for subject in data["subjects"]:
        rows = [
            r
            for r in data["rows"]
            if r["what"] == what and r["unit"] == unit and r["subject"] == subject and r["x"] is not None
        ]
        points = sorted((r["x"] * scale, r["median"], r["min"], r["max"]) for r in rows)
        if points:
            x, median, low, high = zip(*points)
            axes.plot(x, median, marker="o", color=COLOURS.get(subject), label=subject)
            axes.fill_between(x, low, high, color=COLOURS.get(subject), alpha=0.15, linewidth=0)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.legend()
    save(figure, directory, name, data)


def main():
    directory = Path(sys.argv[1])
    data = json.loads((directory / "results.json").read_text())
    start = ["exec → register", "exec → first next", "exec → first answered POST"]
    bars(data, directory, "start", "Cold start", start, "ms")
    acks = [f"ack of 10 spans, {beside}, p50" for beside in ("idle", "while exporting", "beside 4 MB bodies")]
    bars(data, directory, "ack", "Answer to a POST of 10 spans", acks, "µs")
    lines(data, directory, "ack-by-body", "Answer by size of body", "ack, body of", "µs", "bytes", log=True)
    lines(data, directory, "memory", "Resident memory", "resident memory", "MiB", "spans taken and delivered")
    held = "held after a warm invocation, Langfuse at"
    for row in data["rows"]:
        if row["what"] == held and ("plain" in row["at"] or "network" in row["at"]):
            row["x"] = None
    lines(data, directory, "held", "Sandbox held after the handler", held, "ms", "Langfuse answers after … ms")
    slow = "handler with 10 POSTs, function of"
    lines(data, directory, "handler", "Handler's own time by function memory", slow, "ms", "MB of memory", log=True)


if __name__ == "__main__":
    main()
