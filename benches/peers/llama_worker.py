"""llama.cpp through the low-level interface of llama-cpp-python, for compare.py."""

import ctypes
import time

import llama_cpp as L

import protocol
from llama_serve import Server

# The callback must live as long as the library.
SILENCE = L.llama_log_callback(lambda *_: None)


class Engine:
    def __init__(self):
        L.llama_log_set(SILENCE, ctypes.c_void_p(0))
        L.llama_backend_init()
        self.model = None
        self.contexts = {}

    def load(self, model, threads, settings):
        """settings: repack (weights in another layout) and flash (attention); of the mixed load also unified (one cache for
        all sequences) and rows (most of a batch)."""
        self.threads, self.flash, self.settings = threads, settings["flash"], settings
        if self.model and self.loaded == (model, settings["repack"]):
            return {"seconds": self.seconds}
        self.free()
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = settings["repack"]
        started = time.perf_counter()
        self.model = L.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self.seconds = time.perf_counter() - started
        self.loaded = (model, settings["repack"])
        self.vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        return {"seconds": self.seconds}

    def free(self):
        for context, batch in self.contexts.values():
            L.llama_batch_free(batch)
            L.llama_free(context)
        self.contexts = {}
        if self.model:
            L.llama_model_free(self.model)
            self.model = None

    def context(self, fill, batch, steps):
        """A context that fits, kept for the next round; its first use is not measured."""
        key = (fill, batch, steps, self.flash)
        if key not in self.contexts:
            self.contexts[key] = self.new_context(fill + steps, batch, 2048, batch == 1)
            self.run(*self.contexts[key], min(fill, 512), batch, 1)
        return self.contexts[key]

    def new_context(self, tokens, batch, rows, unified):
        params = L.llama_context_default_params()
        params.n_ctx = batch * (-(-(tokens + 2) // 256) * 256)
        params.n_batch = rows
        params.n_ubatch = 512
        params.n_seq_max = batch
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash else L.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = L.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot create a context for {batch} x {tokens} tokens")
        return context, L.llama_batch_init(rows, 0, 1)

    def serve(self, requests, sequences):
        longest = max(len(r["ids"]) + r["max_tokens"] for r in requests)
        unified, rows = self.settings["unified"], self.settings["rows"]
        key = ("serve", longest, sequences, unified, rows, self.flash)
        known = key in self.contexts
        if not known:
            # One sequence more, for what several prompts begin with.
            self.contexts[key] = self.new_context(longest, sequences + 1, rows, unified)
        context, tokens = self.contexts[key]
        server = Server(context, lambda batch: self.decode(context, tokens, batch), rows, self.vocabulary)
        if not known:
            # The first use of a context is not measured.
            server.serve(requests[:1], sequences)
        seconds, first = server.serve(requests, sequences)
        return {"seconds": seconds, "first": first}

    def measure(self, fill, batch, steps):
        context, tokens = self.context(fill, batch, steps)
        prefill, decode = self.run(context, tokens, fill, batch, steps)
        return {"prefill": prefill, "decode": decode}

    def run(self, context, tokens, fill, batch, steps):
        L.llama_memory_clear(L.llama_get_memory(context), True)
        prompts = [protocol.prompt(fill, i, self.vocabulary) for i in range(batch)]
        started = time.perf_counter()
        rows = [(ids[p], p, s, p + 1 == fill) for s, ids in enumerate(prompts) for p in range(fill)]
        for i in range(0, len(rows), 2048):
            self.decode(context, tokens, rows[i : i + 2048])
        filled = time.perf_counter()
        for step in range(steps):
            rows = [((step * 37 + s) % self.vocabulary, fill + step, s, True) for s in range(batch)]
            self.decode(context, tokens, rows)
        return filled - started, time.perf_counter() - filled

    def decode(self, context, tokens, rows):
        tokens.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            tokens.token[i] = token
            tokens.pos[i] = position
            tokens.n_seq_id[i] = 1
            tokens.seq_id[i][0] = sequence
            tokens.logits[i] = logits
        status = L.llama_decode(context, tokens)
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}")
        L.llama_synchronize(context)


if __name__ == "__main__":
    protocol.serve(Engine())
