#!/usr/bin/env python3
"""How much each tensor type loses: perplexity, KL divergence and same-top rate against F32, as a Markdown table.

Makes every type from one F32, F16 or BF16 model with `infer quantize`, and measures each with `infer perplexity` against
the logits of the F32 file. Where the Python package llama-cpp-python is installed (`pip install llama-cpp-python numpy`),
llama.cpp measures the same files on the same tokens against its own F32 run.

    cargo build --release -p infer-cli
    python3 benches/quality.py --model tolstoy-21m-F16.gguf --text tolstoy-val.txt > benches/record/quality-NAME.md
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

TYPES = (
    "F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S IQ4_NL IQ4_XS Q4_1 Q4_0 MXFP4 Q3_K_L Q3_K_M Q3_K_S Q2_K"
).split()


def infer(args, *command):
    run = subprocess.run([args.infer, *map(str, command), "--json"], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"infer {command[0]}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def chunks(args):
    """Chunks of tokens, as `infer perplexity` cuts them: saved logits begin with them."""
    import numpy

    with open(args.folder / "base", "rb") as file:
        _, n_vocab, context, count = numpy.frombuffer(file.read(24)[8:], dtype="<u4")
        ids = numpy.frombuffer(file.read(4 * int(context) * int(count)), dtype="<u4")
    return int(n_vocab), ids.reshape(int(count), int(context))


class LlamaCpp:
    """Logits by llama.cpp."""

    def __init__(self, args):
        import ctypes

        import llama_cpp
        import numpy

        self.lib, self.np, self.ctypes, self.threads = llama_cpp, numpy, ctypes, args.threads
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.n_vocab, self.chunks = chunks(args)
        self.base = None

    def rows(self, path):
        """Log-probabilities of the positions that count, chunk by chunk, with the tokens that follow."""
        lib, np = self.lib, self.np
        context = self.chunks.shape[1]
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(str(path).encode(), params)
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = self.threads
        # 0: F32.
        params.type_k = params.type_v = 0
        ctx = lib.llama_init_from_model(model, params)
        batch = lib.llama_batch_init(context, 0, 1)
        for ids in self.chunks:
            lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
            batch.n_tokens = context
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
                batch.seq_id[i][0], batch.logits[i] = 0, 1
            if lib.llama_decode(ctx, batch) != 0:
                sys.exit("llama.cpp cannot compute")
            logits = np.ctypeslib.as_array(lib.llama_get_logits(ctx), shape=(context, self.n_vocab))
            logits = logits[context // 2 : context - 1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), ids[context // 2 + 1 :]
        lib.llama_batch_free(batch)
        lib.llama_free(ctx)
        lib.llama_model_free(model)

    def measure(self, path):
        np = self.np
        surprise, divergence, same = [], [], []
        base = []
        for i, (rows, following) in enumerate(self.rows(path)):
            surprise.append(-rows[np.arange(len(rows)), following])
            if self.base is None:
                base.append(rows.astype(np.float32))
            else:
                p = self.base[i].astype(np.float64)
                divergence.append((np.exp(p) * (p - rows)).sum(axis=1))
                same.append(p.argmax(axis=1) == rows.argmax(axis=1))
        result = {"perplexity": float(np.exp(np.concatenate(surprise).mean()))}
        if self.base is None:
            self.base = base
        else:
            result["kl_divergence"] = float(np.concatenate(divergence).mean())
            result["same_top"] = float(np.concatenate(same).mean())
        return result


def cells(result):
    if result is None:
        return ["", "", ""]
    if result.get("kl_divergence") is None:
        return [f"{result['perplexity']:.3f}", "", ""]
    return [
        f"{result['perplexity']:.3f}",
        f"{result['kl_divergence']:.6f}",
        f"{100 * result['same_top']:.2f}",
    ]


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="F32, F16 or BF16 model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--infer", default=here.parent / "target/release/infer", help="the command")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, help="use at most so many chunks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--no-llama-cpp", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        table(args)


def table(args):
    common = ["--file", args.text, "--context", args.context, "--threads", args.threads]
    if args.chunks:
        common += ["--chunks", args.chunks]
    file = args.folder / "model.gguf"
    base = args.folder / "base"
    infer(args, "quantize", args.model, file, "F32")
    first = infer(args, "perplexity", "--model", file, "--save-logits", base, *common)
    peer, version = None, ""
    if not args.no_llama_cpp:
        try:
            peer = LlamaCpp(args)
            version = f"llama-cpp-python {peer.lib.__version__}"
        except ImportError as error:
            print(f"without llama.cpp: {error}", file=sys.stderr)
    name = pathlib.Path(args.model).name
    print(f"# What tensor types lose: {name}\n")
    print(f"`infer quantize` made every type of {name}; `infer perplexity` measured it on {pathlib.Path(args.text).name},")
    print(f"{first['positions']} positions of {first['chunks']} chunks of {first['context']} tokens, against libinfer's own run")
    print("of the F32 file. KLD is the mean KL divergence in nats, same top the share of positions whose most probable")
    print("token is the same.", end=" ")
    print(f"llama.cpp ({version}) measured the same files against its own F32 run." if peer else "")
    print("Made by `benches/quality.py`.\n")
    print("| type | bytes | perplexity | KLD | same top % |" + (" llama.cpp: perplexity | KLD | same top % |" if peer else ""))
    print("|---|---|---|---|---|" + ("---|---|---|" if peer else ""))

    def row(name, ours):
        theirs = cells(peer.measure(file)) if peer else []
        print("| " + " | ".join([name, str(file.stat().st_size), *cells(ours), *theirs]) + " |", flush=True)

    row("F32", first)
    for ty in args.types:
        infer(args, "quantize", args.model, file, ty)
        row(ty, infer(args, "perplexity", "--model", file, "--kl-base", base, *common))


if __name__ == "__main__":
    main()
