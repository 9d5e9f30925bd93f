"""Medians, tables, and whether the bars hold."""

import statistics

from .cells import METRICS, NAMES, REFERENCES, VARIANTS


def medians(runs):
    keys = [key for key in runs[0] if all(key in run for run in runs)]
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def own_name(name):
    """The variant that a build is run as: the second one has -b behind it, the first one once more -a."""
    return name.removesuffix("-b").removesuffix("-a")


def peers(results):
    return [name for name in results if own_name(name) not in VARIANTS and name not in REFERENCES]


def judge(cell, results):
    """Each bar of a cell with what was reached; without a result where somebody is missing."""
    judged = []
    for bar in cell.bars:
        best = max if bar.at_least else min
        others = peers(results) if bar.against == "peers" else [bar.against] if bar.against else []
        others = [name for name in others if bar.metric in results.get(name, {})]
        own = results.get(bar.own, {}).get(bar.metric)
        entry = {"metric": bar.metric, "own": bar.own, "at_least": bar.at_least, "factor": bar.factor,
                 "against": bar.against, "reached": None, "holds": None}
        if own is not None and (others or bar.against is None):
            reference = 1
            if others:
                entry["against"] = best(others, key=lambda name: results[name][bar.metric])
                reference = results[entry["against"]][bar.metric]
            entry["reached"] = own / reference if reference else None
        if entry["reached"] is not None:
            entry["holds"] = entry["reached"] >= bar.factor if bar.at_least else entry["reached"] <= bar.factor
        judged.append(entry)
    return judged


def number(value):
    """Enough digits for a ratio near its bar."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"


def bar_text(bar):
    """`IOPS >= 3.5 x nbdkit: 3.61 holds`."""
    sign = "≥" if bar["at_least"] else "≤"
    against = f" × {bar['against']}" if bar["against"] else ""
    own = "" if bar["own"] == "ringnbd" else f"{bar['own']}: "
    wanted = f"{own}{NAMES[bar['metric']]} {sign} {number(bar['factor'])}{against}"
    if bar["reached"] is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {number(bar['reached'])} {'✓' if bar['holds'] else '✗'}"


def show(cell, results, bars):
    """The table of one cell, and its bars."""
    print(f"\n{cell.title}")
    columns = {key: column for key, column in METRICS.items() if any(key in result for result in results.values())}
    print(f"  {'server':<15}" + "".join(f"{heading:>13}" for heading, _ in columns.values()))
    for name, result in results.items():
        figures = [f"{result[key]:,.{digits}f}" if key in result else "-" for key, (_, digits) in columns.items()]
        print(f"  {name:<15}" + "".join(f"{figure:>13}" for figure in figures))
    own = results.get("ringnbd")
    others = [name for name in results if name in peers(results) or name in REFERENCES]
    if own and others:
        ratios = []
        for name in others:
            cpu = "cpu_us_per_request"
            less = f" (CPU {number(own[cpu] / results[name][cpu])})" if results[name].get(cpu) else ""
            ratios.append(f"{name} {number(own['iops'] / results[name]['iops'])}{less}")
        print("  ringnbd's IOPS to those of: " + ", ".join(ratios))
    floor = results.get("floor", {}).get("cpu_us_per_request")
    if floor:
        ratios = [f"{name} {number(result['cpu_us_per_request'] / floor)}" for name, result in results.items() if name != "floor"]
        print("  CPU to that of the floor: " + ", ".join(ratios))
    for name, result in results.items():
        for key in ("idle_connections", "scrapes"):
            if key in result:
                print(f"  {name}: {key.replace('_', ' ')} {result[key]:,.0f}")
    for bar in bars:
        print(f"  bar: {bar_text(bar)}")


def pairs(runs):
    """What each pair of builds has: B / A round by round, and A once more / A. The runs of a round stand beside each other, so drift
    drops out."""
    found = {}
    for name in [name for name in runs if own_name(name) != name and own_name(name) in runs]:
        both = list(zip(runs[own_name(name)], runs[name], strict=True))
        found[name] = {}
        for metric in ("iops", "cpu_us_per_request", "p50_us", "p99_us"):
            ratios = sorted(b[metric] / a[metric] for a, b in both if a.get(metric))
            if ratios:
                found[name][metric] = {"median": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
    return found


def show_pairs(found, rounds):
    for name, metrics in found.items():
        texts = [f"{NAMES[metric]} {ratio['median']:.3f} ({ratio['lowest']:.3f} to {ratio['highest']:.3f})"
                 for metric, ratio in metrics.items()]
        print(f"  {name} / {own_name(name)}, median of {rounds} rounds: " + ", ".join(texts))


# Less than this is no difference, however well two runs of the same build agreed.
NO_DIFFERENCE = 0.01


def slower(found):
    """In what a second build is slower than the first one by more than noise: in the median of its rounds it is worse than the worst round of
    the first build against itself. Empty when nothing can be said."""
    worse = []
    for name, metrics in found.items():
        noise = found.get(f"{own_name(name)}-a")
        if not name.endswith("-b") or not noise:
            continue
        # More requests are better, more CPU time is worse.
        for metric, sign in (("iops", -1), ("cpu_us_per_request", 1)):
            if metric in metrics and metric in noise:
                change = sign * (metrics[metric]["median"] - 1)
                spread = max(sign * (noise[metric][end] - 1) for end in ("lowest", "highest"))
                if change > max(spread, NO_DIFFERENCE):
                    worse.append(f"{name}: {NAMES[metric]} {metrics[metric]['median']:.3f}, noise {1 + sign * spread:.3f}")
    return worse
