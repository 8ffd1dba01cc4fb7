"""How compare.py talks to an engine in a process of its own: one JSON object per line, each way.

    {"op": "load", "model": PATH, "threads": N, "settings": {...}}      -> {"seconds": S}
    {"op": "measure", "fill": N, "batch": B, "steps": S}                -> {"prefill": SECONDS, "decode": SECONDS}
    {"op": "serve", "requests": [{"ids": [...], "max_tokens": N, "shared": N}, ...], "sequences": N}
                                                                        -> {"seconds": S, "first": [SECONDS, ...]}
    {"op": "memory"}                                                    -> {"peak": BYTES}

A measurement computes `batch` prompts of `fill` tokens each, to the logits of their last tokens, and then decodes `steps`
tokens for each sequence. Serving answers all requests, which are there at once, at most `sequences` at the same time, and says
how long all of them took and how long each took to its first token. Whatever fails is answered as {"error": SENTENCE}.
"""

import json
import os
import sys
import traceback


def prompt(tokens, sequence, vocabulary):
    """Ids without meaning, the same every time."""
    state = sequence ^ 0x9E3779B9
    ids = []
    for _ in range(tokens):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        ids.append(state * vocabulary >> 32)
    return ids


def peak_memory():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def serve(engine):
    """Answers requests on standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        try:
            answer = {"peak": peak_memory()} if op == "memory" else getattr(engine, op)(**request)
        except Exception as e:  # whatever a library throws is the answer
            traceback.print_exc()
            answer = {"error": f"{type(e).__name__}: {e}"[:500]}
        print(json.dumps(answer), file=answers, flush=True)
