#!/usr/bin/env python3
"""Compares libinfer with llama.cpp and OpenVINO GenAI on the same GGUF files, on this machine.

    python3 benches/peers/compare.py MODEL.gguf... [--quick]

The engines take turns for every measurement (A B C A B C ...), because a shared machine drifts within minutes; ratios are
medians over rounds of which all engines were part. Each peer runs with the settings that were the fastest for the file
in a short run. Everything measured is written to benches/record/MACHINE-DATE.json after every run, the tables beside it as
.md after every round. Started again on the same day, it goes on where it was stopped.

Without --venv and --openvino-venv it makes environments under ~/.cache/libinfer-peers and installs the peers there
(llama.cpp is compiled for this machine, which takes minutes). docs/benchmarks.md has more.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mix

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENGINES = ["libinfer", "llama.cpp", "openvino"]
PEERS = ENGINES[1:]
PACKAGES = {"llama.cpp": ["llama-cpp-python==0.3.36", "numpy"], "openvino": ["openvino-genai==2026.4.1.0", "numpy"]}
MODULES = {"llama.cpp": "llama_cpp", "openvino": "openvino_genai"}
WORKERS = {"llama.cpp": "llama_worker.py", "openvino": "openvino_worker.py"}
# Ratio to the better peer and fraction of the limit that libinfer aims at.
TARGETS = {"pp512": (1.4, 0.65), "pp8192": (1.5, 0.45), "tg": (1.05, 0.9), "b8": (2.0, None), "b32": (2.0, None), "tg@8192": (1.5, 0.8)}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    p.add_argument("--quick", action="store_true", help="fewer rounds and tokens; ends within 15 minutes")
    p.add_argument("--minutes", type=float, help="start no run after this many minutes (13 with --quick)")
    p.add_argument("--cases", help="ppN prompt of N, tg one sequence, bN N sequences, dN prompt of N and decoding after it, "
                   "mix a mixed load (default pp512,tg,b4,b8,b16,b32,mix; with --quick pp512,tg,b8,b32)")
    p.add_argument("--deep", default="8192", help="depths measured for --deep-types as well, or none (with --quick none)")
    p.add_argument("--deep-types", default="Q4_0,Q8_0", help="models whose file name contains one of these (default Q4_0,Q8_0)")
    p.add_argument("--rounds", type=int, help="rounds (default 5; 3 with --quick)")
    p.add_argument("--deep-rounds", type=int, default=3)
    p.add_argument("--steps", type=int, help="tokens decoded per sequence alone (default 128; 48 with --quick)")
    p.add_argument("--batch-steps", type=int, help="the same of several (default 64; 24 with --quick)")
    p.add_argument("--mix-requests", type=int, help="requests of the mixed load (default 24; 12 with --quick)")
    p.add_argument("--mix-sequences", type=int, default=8, help="those of them that are answered at the same time (default 8)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--infer", type=Path, default=ROOT / "target/release/infer", help="the command (default target/release/infer)")
    p.add_argument("--infer-args", default="", help="more arguments for `infer bench`, such as '--kv-type q8'")
    p.add_argument("--venv", type=Path, help="an environment with llama-cpp-python, instead of one made here")
    p.add_argument("--openvino-venv", type=Path, help="an environment with openvino-genai, instead of one made here")
    p.add_argument("--only", default=",".join(ENGINES), help="engines to run (default all)")
    p.add_argument("--cache-gb", type=int, default=2, help="key/value memory of OpenVINO")
    p.add_argument("--record", type=Path, default=ROOT / "benches/record", help="folder of the results")
    p.add_argument("--name", help="name of the files (default MACHINE-DATE)")
    p.add_argument("--fresh", action="store_true", help="forget what is recorded under this name")
    a = p.parse_args()
    a.cases = (a.cases or ("pp512,tg,b8,b32" if a.quick else "pp512,tg,b4,b8,b16,b32,mix")).split(",")
    a.deep = [] if a.quick or a.deep == "none" else [int(d) for d in a.deep.split(",")]
    a.rounds = a.rounds or (3 if a.quick else 5)
    a.steps = a.steps or (48 if a.quick else 128)
    a.batch_steps = a.batch_steps or (24 if a.quick else 64)
    a.mix_requests = a.mix_requests or (12 if a.quick else 24)
    a.minutes = a.minutes or (13 if a.quick else 1e9)
    a.only = [e for e in ENGINES if e in a.only.split(",")]
    for case in a.cases:
        if not re.fullmatch(r"tg|mix|(pp|b|d)[1-9]\d*", case):
            p.error(f"--cases: '{case}' is none of ppN, tg, bN, dN, mix")
    for file in [*a.models, a.infer]:
        if not file.is_file():
            p.error(f"{file} is not there")
    return a


def shape(case, a):
    """Tokens to fill, sequences and steps of a case."""
    number = int(case.lstrip("ptgbd") or 0)
    if case.startswith("pp"):
        return number, 1, 0
    if case.startswith("d"):
        return number, 1, a.steps
    return (1, number, a.batch_steps) if case.startswith("b") else (1, 1, a.steps)


def compiled_by_gcc_for_amx():
    """Whether llama.cpp will use AMX here, compiled by GCC: version 12 takes the shapes of tiles that it writes for
    `_tile_loadconfig` to be unused, and the program ends by a fault."""
    cpu, compiler = Path("/proc/cpuinfo"), shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or not cpu.exists() or "amx_tile" not in cpu.read_text():
        return False
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return "Free Software Foundation" in version.stdout


def environment(engine, given):
    """The Python of an environment that has the engine; made and filled when there is none."""
    folder = given or Path.home() / ".cache/libinfer-peers" / engine
    python = folder / "bin/python"
    if python.exists():
        has = subprocess.run([python, "-c", f"import {MODULES[engine]}"], capture_output=True, text=True)
        if has.returncode == 0:
            return python
        if given:
            sys.exit(f"{python} has no {MODULES[engine]}:\n{has.stderr}")
    print(f"installing {engine} into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    native = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
    if engine == "llama.cpp" and compiled_by_gcc_for_amx():
        native["CXXFLAGS"] = f"{os.environ.get('CXXFLAGS', '')} -fno-tree-dse -fno-dse"
    # Not what pip compiled at another time, with other flags.
    source = ["--no-cache-dir", "--no-binary", "llama-cpp-python"] if engine == "llama.cpp" else []
    subprocess.run([python, "-m", "pip", "install", "-q", *source, *PACKAGES[engine]], check=True, env=native)
    return python


class Failed(Exception):
    """An engine could not do something; a sentence."""


class Peer:
    """An engine in a process of its own, started when it is needed."""

    def __init__(self, engine, python):
        self.engine, self.python, self.process = engine, python, None

    def ask(self, **request):
        if self.process is None:
            self.process = subprocess.Popen([self.python, HERE / WORKERS[self.engine]], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = self.process.wait()
            self.process = None
            raise Failed(f"the process ended with {code}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def settings(self, a):
        if self.engine == "llama.cpp":
            return [{"repack": r, "flash": f} for r in (True, False) for f in (True, False)]
        chunks = (512,) if a.quick else (512, 2048)
        return [{"kv": kv, "chunk": c, "cache_gb": a.cache_gb} for c in chunks for kv in ("u8", "f16")]

    def mix_settings(self, settings, a):
        """What is tried for the mixed load with the settings that are the fastest otherwise."""
        if self.engine == "llama.cpp":
            return [{**settings, "unified": u, "rows": rows} for u in (True, False) for rows in (512, 2048)]
        return [{**settings, "sequences": a.mix_sequences}]

    def load(self, model, settings, a):
        return self.ask(op="load", model=str(model), threads=a.threads, settings=settings)["seconds"]

    def serve(self, requests, a):
        answer = self.ask(op="serve", requests=requests, sequences=a.mix_sequences)
        return mix.figures(requests, answer["seconds"], answer["first"])

    def measure(self, case, a):
        fill, batch, steps = shape(case, a)
        answer = self.ask(op="measure", fill=fill, batch=batch, steps=steps)
        run = {}
        if batch == 1 and fill > 1:
            run["prefill"] = fill / answer["prefill"]
        if steps:
            run["decode"] = batch * steps / answer["decode"]
        return run

    def choose(self, model, cases, a, tries, write):
        """Tries all settings that are not in `tries` in a short run of each kind of case; answers the fastest."""
        probes = ["pp256", "tg", "b8"] if any(c[0] == "b" for c in cases) else ["pp256", "tg"]
        probes += ["d1024"] if any(c[0] == "d" for c in cases) else []
        short = argparse.Namespace(**{**vars(a), "steps": 12, "batch_steps": 6})
        # What failed may work in another run.
        tries[:] = [t for t in tries if "score" in t]
        for settings in self.settings(a):
            if any(t["settings"] == settings for t in tries):
                continue
            speeds = []
            try:
                self.load(model, settings, a)
                for case in probes:
                    speeds += self.measure(case, short).values()
                tries.append({"settings": settings, "speeds": speeds, "score": statistics.geometric_mean(speeds)})
            except Failed as e:
                tries.append({"settings": settings, "error": str(e)})
            write()
        return self.fastest(tries)

    def choose_mix(self, model, settings, requests, a, tries, write):
        """The same for a mixed load, on top of what was chosen without one."""
        tries[:] = [t for t in tries if "score" in t]
        for settings in self.mix_settings(settings, a):
            if any(t["settings"] == settings for t in tries):
                continue
            try:
                self.load(model, settings, a)
                tries.append({"settings": settings, "score": self.serve(requests, a)["total"]})
            except Failed as e:
                tries.append({"settings": settings, "error": str(e)})
            write()
        return self.fastest(tries)

    def fastest(self, tries):
        # A fresh process: what the other settings left behind is not the chosen one's memory.
        self.stop()
        works = [t for t in tries if "score" in t]
        if not works:
            raise Failed(tries[0]["error"])
        return max(works, key=lambda t: t["score"])["settings"]

    def stop(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


class Libinfer:
    """The command, a process per run: loading is quick, and its memory is measured as well."""

    def run(self, model, arguments, a):
        command = [a.infer, "--json", "bench", "--model", model, "--threads", str(a.threads), *arguments]
        answer = subprocess.run([*map(str, command), *a.infer_args.split()], capture_output=True, text=True)
        if answer.returncode != 0:
            raise Failed(answer.stderr.strip()[-500:])
        return json.loads(answer.stdout)

    def measure(self, model, case, a):
        fill, batch, steps = shape(case, a)
        prompt, depth = (fill, fill) if fill > 1 else (0, 0)
        report = self.run(model, ["--prompt-tokens", str(prompt), "--generate-tokens", str(steps), "--batch", str(batch),
                                  "--depth", str(depth), "--repetitions", "1"], a)
        run = {"load": report["load_seconds"], "peak": report["peak_rss_bytes"], "options": report["options"]}
        for r in report["results"]:
            what = "prefill" if r["kind"] == "pp" else "decode"
            run[what] = r["tokens_per_second"]
            run[what + "_limit"] = r["limit_tokens_per_second"]
            run["bandwidth"], run["clock"] = r["bandwidth_gb_s"], r["clock_ghz"]
        return run, report["machine"]

    def serve(self, model, requests, a):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(requests, file)
            file.flush()
            report = self.run(model, ["--serve", file.name, "--sequences", str(a.mix_sequences), "--repetitions", "1"], a)
        result, first = report["results"][0], report["results"][0]["first_token"]
        return {**mix.figures(requests, result["seconds"], [0.0]), "first_p50": first["p50"], "first_p95": first["p95"]}


class Record:
    """The file of results: written whole after every run, so that stopping loses at most one."""

    def __init__(self, a, machine):
        cpu = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
        name = a.name or f"{cpu}-{machine['cores']}c-{datetime.date.today()}" + ("-quick" if a.quick else "")
        a.record.mkdir(parents=True, exist_ok=True)
        self.path = a.record / f"{name}.json"
        git = lambda *args: subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True).stdout.strip()
        commit = git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", ".", ":!benches/record") else "")
        setup = {"threads": a.threads, "steps": a.steps, "batch_steps": a.batch_steps, "infer_args": a.infer_args,
                 "mix_requests": a.mix_requests, "mix_sequences": a.mix_sequences}
        self.data = {"machine": machine, "date": str(datetime.date.today()), "commit": commit, **setup,
                     "packages": PACKAGES, "models": {}, "choices": {}, "failures": {}, "runs": []}
        if self.path.exists() and not a.fresh:
            old = json.loads(self.path.read_text())
            different = [k for k in ("commit", *setup) if old.get(k) != self.data[k]]
            if different:
                sys.exit(f"{self.path} was measured with another {', '.join(different)}: give --name, or --fresh to forget it")
            self.data = old
            print(f"going on with {self.path}: {len(old['runs'])} runs are there", flush=True)

    def write(self):
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(self.data, indent=1) + "\n")
        beside.replace(self.path)

    def has(self, model, engine, case, round_):
        return any((r["model"], r["engine"], r["case"], r["round"]) == (model, engine, case, round_) for r in self.data["runs"])

    def of(self, model, engine, case, what):
        """Values of a case by round."""
        return {r["round"]: r[what] for r in self.data["runs"]
                if (r["model"], r["engine"], r["case"]) == (model, engine, case) and what in r}


def rows(record):
    """Every line of the tables: model, name of the line, case, which of its two speeds."""
    seen = []
    for run in record.data["runs"]:
        for what in ("prefill", "decode"):
            line = (run["model"], run["case"], what)
            if what in run and line not in seen:
                seen.append(line)
    for model, case, what in seen:
        if case[0] == "d":
            name = f"pp{case[1:]}" if what == "prefill" else f"tg@{case[1:]}"
        else:
            name = case
        yield model, name, case, what


def tables(record):
    """The results as Markdown."""
    data = record.data
    machine = data["machine"]
    probes = [r for r in data["runs"] if "bandwidth" in r]
    middle = lambda values: statistics.median(values) if values else None
    show = lambda v, digits=1: "–" if v is None else f"{v:.{digits}f}"
    out = [f"# {machine['cpu']}, {machine['cores']} cores, {data['date']}", ""]
    out.append(f"libinfer at {data['commit'][:12]}, {data['threads']} threads; {', '.join(p[0] for p in data['packages'].values())}.")
    if probes:
        speeds = sorted(r["bandwidth"] for r in probes)
        out.append(f"Memory read at {speeds[0]:.0f} to {speeds[-1]:.0f} GB/s (median {middle(speeds):.0f}), "
                   f"clock {middle([r['clock'] for r in probes]):.2f} GHz, measured beside every run of libinfer.")
    out += ["", "Tokens per second, medians; the ratio is the median over rounds of libinfer to the peer that is better in the median.", ""]
    out += ["| model | case | libinfer | llama.cpp | OpenVINO | ratio | target | rounds |", "|---|---|---|---|---|---|---|---|"]
    for model, name, case, what in rows(record):
        speeds = {e: record.of(model, e, case, what) for e in ENGINES}
        medians = {e: middle(s.values()) for e, s in speeds.items()}
        better = max((e for e in PEERS if speeds[e]), key=lambda e: medians[e], default=None)
        both = [r for r in speeds["libinfer"] if better and r in speeds[better]]
        ratio = middle([speeds["libinfer"][r] / speeds[better][r] for r in both])
        target = TARGETS.get(name, (None, None))[0]
        verdict = "" if ratio is None or target is None else (" met" if ratio >= target else " **missed**")
        out.append(f"| {model} | {name} | {show(medians['libinfer'])} | {show(medians['llama.cpp'])} | {show(medians['openvino'])} "
                   f"| {show(ratio, 2)} | {'' if target is None else f'≥ {target}'}{verdict} | {len(both)} |")
    out += mix.table(record, ENGINES, PEERS)
    out += ["", "Fraction of what the machine allowed at the moment of the run (docs/benchmarks.md). Against one's own single sequence: "
            "how many times its speed.", ""]
    out += ["| model | case | limit | libinfer | target | llama.cpp | OpenVINO | × single |", "|---|---|---|---|---|---|---|---|"]
    for model, name, case, what in rows(record):
        limits = record.of(model, "libinfer", case, what + "_limit")
        share = {}
        for e in ENGINES:
            values = record.of(model, e, case, what)
            share[e] = middle([values[r] / limits[r] for r in values if r in limits])
        single = middle(record.of(model, "libinfer", "tg", "decode").values())
        own = middle(record.of(model, "libinfer", case, what).values())
        times = own / single if case[0] == "b" and own and single else None
        target = TARGETS.get(name, (None, None))[1]
        verdict = "" if share["libinfer"] is None or target is None else (" met" if share["libinfer"] >= target else " **missed**")
        out.append(f"| {model} | {name} | {show(middle(limits.values()))} | {show(share['libinfer'], 2)} "
                   f"| {'' if target is None else f'≥ {target}'}{verdict} | {show(share['llama.cpp'], 2)} | {show(share['openvino'], 2)} | {show(times)} |")
    out += ["", "Loading (median of libinfer, once for the others; seconds per GB of file) and peak memory over file size.", ""]
    out += ["| model | GB | libinfer | llama.cpp | OpenVINO | memory libinfer | llama.cpp | OpenVINO |", "|---|---|---|---|---|---|---|---|"]
    for model, about in data["models"].items():
        gb = about["bytes"] / 1e9
        ours = [r for r in data["runs"] if (r["model"], r["engine"]) == (model, "libinfer") and "load" in r]
        load = {"libinfer": middle([r["load"] for r in ours]), **about.get("load", {})}
        peak = {"libinfer": max((r["peak"] for r in ours), default=None), **about.get("peak", {})}
        cells = [show(load[e] / gb if load.get(e) is not None else None, 2) for e in ENGINES]
        cells += [show(peak[e] / about["bytes"] if peak.get(e) else None, 2) for e in ENGINES]
        out.append(f"| {model} | {gb:.2f} | " + " | ".join(cells) + " |")
    out += ["", "Settings of the peers:", ""]
    for key, choice in data["choices"].items():
        if choice["settings"]:
            out.append(f"- {key}: {json.dumps(choice['settings'])}")
        for failed in (t for t in choice["tries"] if "error" in t):
            why = " ".join(failed["error"].split())[:200]
            out.append(f"- {key} with {json.dumps(failed['settings'])} did not run: {why}")
    for key, why in data["failures"].items():
        out.append(f"- {key} did not run: {' '.join(why.split())[:200]}")
    return "\n".join(out) + "\n"


def publish(record):
    record.write()
    record.path.with_suffix(".md").write_text(tables(record))


def compare(model, a, record, peers, late):
    name = model.stem
    cases = [c for c in a.cases if c != "mix"]
    plan = [(r, c) for r in range(a.rounds) for c in cases]
    if any(t in name for t in a.deep_types.split(",")):
        plan += [(r, f"d{d}") for d in a.deep for r in range(a.deep_rounds)]
    cases = list(dict.fromkeys(c for _, c in plan))
    chosen = lambda engine: settings_of(record, f"{name} {engine}", lambda tries: peers[engine].choose(model, cases, a, tries, record.write))
    take_turns(model, a, record, peers, late, plan, "", chosen, lambda engine, case, _: (
        Libinfer().measure(model, case, a)[0] if engine == "libinfer" else peers[engine].measure(case, a)))
    if "mix" not in a.cases:
        return
    vocabulary = mix.vocabulary(a.infer, model)
    # The tries get ids of their own, as every round does.
    probe = mix.load(a.rounds, max(3, a.mix_requests // 3), vocabulary)
    mixed = lambda engine: settings_of(record, f"{name} {engine} mix", lambda tries: (
        peers[engine].choose_mix(model, chosen(engine), probe, a, tries, record.write)))

    def serve(engine, _, round_):
        requests = mix.load(round_, a.mix_requests, vocabulary)
        return Libinfer().serve(model, requests, a) if engine == "libinfer" else peers[engine].serve(requests, a)

    take_turns(model, a, record, peers, late, [(r, "mix") for r in range(a.rounds)], " mix", mixed, serve)


def settings_of(record, key, choose):
    """The settings that are recorded under the key; those that `choose` finds when there are none."""
    choice = record.data["choices"].setdefault(key, {"settings": None, "tries": []})
    if not choice["settings"]:
        choice["settings"] = choose(choice["tries"])
        print(f"{key}: fastest with {json.dumps(choice['settings'])}", flush=True)
    return choice["settings"]


def take_turns(model, a, record, peers, late, plan, kind, chosen, measure):
    """Measures the rounds and cases of a plan that are not recorded yet, with the settings that `chosen` answers."""
    name, data = model.stem, record.data
    about = data["models"].setdefault(name, {"path": str(model), "bytes": model.stat().st_size})
    engines = list(a.only)
    if not any(not record.has(name, e, c, r) for e in engines for r, c in plan):
        return
    for engine in [e for e in engines if e in peers]:
        key, peer = f"{name} {engine}{kind}", peers[engine]
        try:
            seconds = peer.load(model, chosen(engine), a)
            about.setdefault("load", {}).setdefault(engine, seconds)
            data["failures"].pop(key, None)
        except Failed as e:
            data["failures"][key] = str(e)
            print(f"{name}: {engine} does not run: {e}", flush=True)
            engines.remove(engine)
            peer.stop()
        record.write()
    for at, (round_, case) in enumerate(plan):
        # Each round begins with another engine.
        turn = engines[round_ % len(engines):] + engines[: round_ % len(engines)]
        if all(record.has(name, e, case, round_) for e in engines):
            continue
        if late():
            print("the time is up", flush=True)
            break
        for engine in turn:
            if record.has(name, engine, case, round_):
                continue
            try:
                run = measure(engine, case, round_)
            except Failed as e:
                data["failures"][f"{name} {engine} {case}"] = str(e)
                print(f"{name} {case}: {engine} failed: {e}", flush=True)
                if engine in peers:
                    try:
                        peers[engine].load(model, chosen(engine), a)
                    except Failed:
                        engines = [e for e in engines if e != engine]
                continue
            data["failures"].pop(f"{name} {engine} {case}", None)
            data["runs"].append({"model": name, "engine": engine, "case": case, "round": round_, **run})
            record.write()
            figures = ", ".join(f"{w} {run[w]:.1f}" for w in ("prefill", "decode", *mix.FIGURES) if w in run)
            print(f"{name} {case} round {round_ + 1}: {engine} {figures}", flush=True)
            # Threads of an engine that spin after their work must not disturb the next.
            time.sleep(0.3)
        if at + 1 == len(plan) or plan[at + 1][0] != round_:
            publish(record)
    for engine, peer in peers.items():
        try:
            if engine in engines and not kind:
                about.setdefault("peak", {})[engine] = peer.ask(op="memory")["peak"]
        except Failed as e:
            print(f"{name}: the memory of {engine} is unknown: {e}", flush=True)
        peer.stop()
    publish(record)


def main():
    a = arguments()
    given = {"llama.cpp": a.venv, "openvino": a.openvino_venv}
    pythons = {e: environment(e, given[e]) for e in PEERS if e in a.only}
    started = time.monotonic()
    # Also the first use of the command, which tells a wrong one at once.
    _, machine = Libinfer().measure(a.models[0], "pp8", a)
    record = Record(a, machine)
    peers = {e: Peer(e, python) for e, python in pythons.items()}
    try:
        for i, model in enumerate(a.models):
            # Each model has its share of the time that is left.
            left = 60 * a.minutes - (time.monotonic() - started)
            end = time.monotonic() + left / (len(a.models) - i)
            compare(model, a, record, peers, lambda: time.monotonic() > end)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
    finally:
        for peer in peers.values():
            if peer.process:
                peer.process.kill()
        publish(record)
    print(tables(record))
    print(f"written to {record.path} and {record.path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
