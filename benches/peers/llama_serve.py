"""Continuous batching over llama_batch, as an embedder of llama.cpp's C interface would write it.

Every batch has a token of each sequence that answers and is filled up with prompts, in the order of arrival, as llama-server
does. What several prompts begin with is computed once, into a sequence of its own, and copied to each by
llama_memory_seq_cp (which in a unified cache shares the cells).
"""

import time

import llama_cpp as L
import numpy


class Slot:
    """A sequence that computes a request."""

    def __init__(self, request, index):
        self.ids, self.left, self.shared, self.index = request["ids"], request["max_tokens"], request["shared"], index
        # Tokens in the cache, or in the batch that is being put together.
        self.held = 0
        self.token = None


class Server:
    def __init__(self, context, decode, capacity, vocabulary):
        """`decode` computes a list of rows (token, position, sequence, whether logits are wanted), `capacity` at most."""
        self.context, self.decode, self.capacity, self.vocabulary = context, decode, capacity, vocabulary
        self.memory = L.llama_get_memory(context)

    def serve(self, requests, sequences):
        """Answers the seconds that all took, and those to each first token."""
        L.llama_memory_clear(self.memory, True)
        kept = sequences
        prefix = next((r["ids"][: r["shared"]] for r in requests if r["shared"]), [])
        have = 0
        waiting = list(enumerate(requests))[::-1]
        slots = [None] * sequences
        first = [0.0] * len(requests)
        started = time.perf_counter()
        while waiting or any(slots):
            for s in range(sequences):
                if slots[s] is None and waiting:
                    index, request = waiting.pop()
                    slots[s] = Slot(request, index)
            rows = []
            for s, slot in enumerate(slots):
                if slot and slot.token is not None:
                    rows.append((slot.token, slot.held, s, True))
                    slot.held += 1
            for s, slot in sorted((x for x in enumerate(slots) if x[1]), key=lambda x: x[1].index):
                room = self.capacity - len(rows)
                if slot.token is not None or room == 0:
                    continue
                if slot.shared and slot.held == 0:
                    if have < len(prefix):
                        # Whoever needs it first computes it for all; it goes on with the next batch.
                        taken = min(room, len(prefix) - have)
                        rows += [(prefix[p], p, kept, False) for p in range(have, have + taken)]
                        have += taken
                        continue
                    if any(row[2] == kept for row in rows):
                        continue
                    L.llama_memory_seq_cp(self.memory, kept, s, -1, -1)
                    slot.held = slot.shared
                taken = min(room, len(slot.ids) - slot.held)
                rows += [(slot.ids[p], p, s, p + 1 == len(slot.ids)) for p in range(slot.held, slot.held + taken)]
                slot.held += taken
            self.decode(rows)
            now = time.perf_counter() - started
            for row, (_, _, s, wanted) in enumerate(rows):
                if not wanted:
                    continue
                slot = slots[s]
                if slot.token is None:
                    first[slot.index] = now
                slot.token = self.best(row)
                slot.left -= 1
                if slot.left == 0:
                    L.llama_memory_seq_rm(self.memory, s, -1, -1)
                    slots[s] = None
        return time.perf_counter() - started, first

    def best(self, row):
        logits = L.llama_get_logits_ith(self.context, row)
        return int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())
