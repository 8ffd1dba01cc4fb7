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
        """settings: kv (the precision of keys and values), chunk (tokens of a step), cache_gb."""
        wanted = (model, threads, tuple(sorted(settings.items())))
        if self.pipeline and self.loaded == wanted:
            return {"seconds": self.seconds}
        self.pipeline = None
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = settings["cache_gb"]
        scheduler.max_num_batched_tokens = settings["chunk"]
        scheduler.max_num_seqs = 256
        scheduler.enable_prefix_caching = False
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

    def run(self, fill, batch, steps):
        config = genai.GenerationConfig()
        config.max_new_tokens = steps + 1
        config.min_new_tokens = steps + 1
        config.ignore_eos = True
        config.do_sample = False
        prompts = [openvino.Tensor(numpy.array([protocol.prompt(fill, i, self.vocabulary)], numpy.int64)) for i in range(batch)]
        started = time.perf_counter()
        handles = []
        for ids in prompts:
            handles.append(self.pipeline.add_request(self.next_id, ids, config))
            self.next_id += 1
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
