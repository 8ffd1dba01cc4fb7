"""OpenVINO GenAI's ContinuousBatchingPipeline, for compare.py."""

import time

import numpy
import openvino
import openvino_genai as genai

import protocol


class Engine:
    def __init__(self):
        self.pipeline = None
        self.next_id = 0

    def load(self, model, threads, settings):
        """settings: kv (the precision of keys and values), chunk (tokens of a step), cache_gb; of the mixed load also
        sequences (at the same time, with a prefix cache)."""
        wanted = (model, threads, tuple(sorted(settings.items())))
        if self.pipeline and self.loaded == wanted:
            return {"seconds": self.seconds}
        self.pipeline = None
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = settings["cache_gb"]
        scheduler.max_num_batched_tokens = settings["chunk"]
        scheduler.max_num_seqs = settings.get("sequences", 256)
        # Of the other measurements every run computes its prompts.
        scheduler.enable_prefix_caching = "sequences" in settings
        properties = {"INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": settings["kv"]}
        started = time.perf_counter()
        self.pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self.seconds = time.perf_counter() - started
        self.loaded = wanted
        self.vocabulary = len(self.pipeline.get_tokenizer().get_vocab())
        self.measured = set()
        return {"seconds": self.seconds}

    def measure(self, fill, batch, steps):
        if (fill, batch) not in self.measured:
            # The first use of a shape is not measured.
            self.run(min(fill, 512), batch, 1)
            self.measured.add((fill, batch))
        prefill, decode = self.run(fill, batch, steps)
        return {"prefill": prefill, "decode": decode}

    def add(self, ids, tokens):
        """Queues a request of that many tokens, greedily chosen."""
        config = genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.min_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        self.next_id += 1
        return self.pipeline.add_request(self.next_id, openvino.Tensor(numpy.array([ids], numpy.int64)), config)

    def serve(self, requests, sequences):
        """`sequences` are those of the settings."""
        if "serve" not in self.measured:
            # The first use is not measured; these ids come in no load.
            self.run(512, 1, 1)
            self.measured.add("serve")
        first = [None] * len(requests)
        started = time.perf_counter()
        handles = [self.add(r["ids"], r["max_tokens"]) for r in requests]
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            now = time.perf_counter() - started
            for i, handle in enumerate(handles):
                if first[i] is None and handle.can_read():
                    first[i] = now
        seconds = time.perf_counter() - started
        for request, handle in zip(requests, handles):
            tokens = sum(len(output.generated_ids) for output in handle.read_all())
            if tokens != request["max_tokens"]:
                raise RuntimeError(f"{request['max_tokens']} tokens were to be generated, {tokens} were")
        return {"seconds": seconds, "first": first}

    def run(self, fill, batch, steps):
        prompts = [protocol.prompt(fill, i, self.vocabulary) for i in range(batch)]
        started = time.perf_counter()
        handles = [self.add(ids, steps + 1) for ids in prompts]
        while not all(h.can_read() for h in handles):
            self.pipeline.step()
        filled = time.perf_counter()
        done = 0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            done += 1
        ended = time.perf_counter()
        # With many long prompts the first sequences decode while the last are filled, and the rest takes fewer steps.
        if done != steps:
            raise RuntimeError(f"{steps} steps were to be measured, {done} were left")
        return filled - started, ended - filled


if __name__ == "__main__":
    protocol.serve(Engine())
