"""The mixed load of compare.py: prompts of many lengths, all there at once, some of them with the same beginning."""

import json
import random
import statistics
import subprocess

import protocol

# Tokens that every third prompt begins with.
PREFIX = 256
PROMPT = (64, 768)
ANSWER = (32, 96)
# Lengths are the same in every round; the ids are others, so that nothing is cached from the round before.
SEED = 1
# What is recorded of a run, as in `figures`.
FIGURES = ("total", "generated", "first_p50", "first_p95")


def load(round_, requests, vocabulary):
    """A list of {"ids", "max_tokens", "shared"}: the first `shared` ids are the same in all that share any."""
    draw = random.Random(SEED)
    first = (round_ + 1) * 100_000
    prefix = protocol.prompt(PREFIX, first, vocabulary)
    made = []
    for i in range(requests):
        shared = PREFIX if i % 3 == 2 else 0
        length = draw.randint(max(PROMPT[0], shared + 16), PROMPT[1])
        ids = prefix[:shared] + protocol.prompt(length - shared, first + 1 + i, vocabulary)
        made.append({"ids": ids, "max_tokens": draw.randint(*ANSWER), "shared": shared})
    return made


def vocabulary(infer, model):
    """How many tokens the model has."""
    report = subprocess.run([infer, "--json", "inspect", model], capture_output=True, text=True, check=True).stdout
    return json.loads(report)["metadata"]["tokenizer.ggml.tokens"]["length"]


def percentile(values, percent):
    """The smallest value that `percent` of all do not exceed."""
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)]


def figures(requests, seconds, first):
    """What is recorded of a run that took `seconds`; `first` are the seconds to each request's first token."""
    answers = sum(r["max_tokens"] for r in requests)
    return {"total": (answers + sum(len(r["ids"]) for r in requests)) / seconds, "generated": answers / seconds,
            "first_p50": percentile(first, 50), "first_p95": percentile(first, 95)}


def table(record, engines, peers):
    """Lines of Markdown; none when no mixed load was served."""
    runs = [r for r in record.data["runs"] if r["case"] == "mix"]
    if not runs:
        return []
    data = record.data
    show = lambda v, digits: "–" if v is None else f"{v:.{digits}f}"
    out = ["", f"Mixed load: {data['mix_requests']} requests at once, {data['mix_sequences']} answered at the same time, prompts of {PROMPT[0]} to {PROMPT[1]} "
           f"tokens (a third begins with the same {PREFIX}), answers of {ANSWER[0]} to {ANSWER[1]}. Medians; the ratio is the median over rounds of "
           "libinfer to the better peer, for times of the better peer to libinfer.", ""]
    out += ["| model | | libinfer | llama.cpp | OpenVINO | ratio | rounds |", "|---|---|---|---|---|---|---|"]
    for model in dict.fromkeys(r["model"] for r in runs):
        for what, name, digits, best in [("total", "tokens/s of prompts and answers", 1, max), ("generated", "tokens/s of answers", 1, max),
                                         ("first_p50", "seconds to the first token, p50", 2, min),
                                         ("first_p95", "seconds to the first token, p95", 2, min)]:
            values = {e: record.of(model, e, "mix", what) for e in engines}
            medians = {e: statistics.median(v.values()) if v else None for e, v in values.items()}
            better = best((e for e in peers if values[e]), key=lambda e: medians[e], default=None)
            both = [r for r in values["libinfer"] if better and r in values[better]]
            ratios = [values["libinfer"][r] / values[better][r] for r in both]
            ratio = statistics.median(x if best is max else 1 / x for x in ratios) if ratios else None
            out.append(f"| {model} | {name} | " + " | ".join(show(medians[e], digits) for e in engines) + f" | {show(ratio, 2)} | {len(both)} |")
    return out
