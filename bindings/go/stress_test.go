package infer_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

// osThreads is how many threads the process has.
func osThreads(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("SKIPPED: threads are counted in /proc, which this system lacks")
	}
	for _, line := range strings.Split(string(status), "\n") {
		if text, ok := strings.CutPrefix(line, "Threads:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/self/status has no line Threads")
	return 0
}

// inFreshProcess runs the calling test in a process of its own, and tells whether this is it: Go keeps the threads that
// other tests needed, which would hide those that this one needs.
func inFreshProcess(t *testing.T) bool {
	t.Helper()
	const variable = "INFER_GO_FRESH_TEST"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	test := exec.Command(program, "-test.v", "-test.run", "^"+t.Name()+"$")
	test.Env = append(os.Environ(), variable+"="+t.Name())
	out, err := test.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a fresh process: %v", err)
	}
	return false
}

// Every way of using threads at once: a thousand goroutines submit together, read to the end or give up together.
func TestThousandStreamsHoldFewThreads(t *testing.T) {
	if !inFreshProcess(t) {
		return
	}
	const streams = 1000
	engine := newEngine(t, nil)
	idle := osThreads(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	begin := make(chan struct{})
	var ready, wait sync.WaitGroup
	var tokens, completed, abandoned atomic.Int64
	for i := range streams {
		ready.Add(1)
		wait.Add(1)
		go func() {
			defer wait.Done()
			ready.Done()
			<-begin
			context, completion := context.Background(), greedy(6)
			if i%4 == 0 {
				context, completion = ctx, endless()
			}
			request, err := engine.Submit(context, completion)
			if errors.Is(err, infer.ErrCancelled) {
				// Others had ended before this one came to its turn.
				abandoned.Add(1)
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			for event, err := range request.Events() {
				tokens.Add(int64(len(event.Tokens)))
				switch {
				case errors.Is(err, infer.ErrCancelled):
					abandoned.Add(1)
				case err != nil:
					t.Error(err)
				case event.Finish != nil:
					if completed.Add(1) == streams/20 {
						cancel()
					}
				}
			}
		}()
	}
	ready.Wait()
	stop := make(chan struct{})
	most := make(chan int)
	go func() {
		largest := 0
		for {
			largest = max(largest, osThreads(t))
			select {
			case <-stop:
				most <- largest
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	close(begin)
	// Streams that do not end of themselves hold the places of others: end them if they keep the rest from finishing.
	release := time.AfterFunc(2*time.Second, cancel)
	defer release.Stop()
	wait.Wait()
	close(stop)
	above := <-most - idle
	t.Logf("%d streams, %d completed, %d cancelled, %d tokens, %d threads above the %d of an idle engine",
		streams, completed.Load(), abandoned.Load(), tokens.Load(), above, idle)
	if completed.Load() < streams*3/4 || tokens.Load() < streams*3/4*6 {
		t.Errorf("only %d streams completed", completed.Load())
	}
	if above > 8 {
		t.Errorf("expected at most 8 threads above idle, found %d", above)
	}
}

// An engine whose queue gets no file descriptor waits for events inside the library.
func TestEngineWithoutDescriptorIsRead(t *testing.T) {
	if !inFreshProcess(t) {
		return
	}
	expected, err := newEngine(t, nil).Generate(context.Background(), greedy(20))
	if err != nil {
		t.Fatal(err)
	}
	model := loadModel(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	// The lowest number that is free is one too many.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	usual := limit
	limit.Cur = uint64(null.Fd())
	null.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// At its end the process writes which lines it reached to a file.
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &usual); err != nil {
			t.Error(err)
		}
	}()
	engine, err := infer.NewEngine(model, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if _, err := os.Open(os.DevNull); err == nil {
		t.Fatal("expected that no file can be opened")
	}
	text, err := engine.Generate(context.Background(), greedy(20))
	if err != nil || text != expected {
		t.Errorf("expected %q, found %q, %v", expected, text, err)
	}
}

// A consumer that does not read keeps neither the engine nor other consumers waiting, and loses nothing.
func TestSlowReaderStallsNobody(t *testing.T) {
	engine := newEngine(t, nil)
	slow := mustSubmit(t, engine, context.Background(), greedy(200))
	want, err := engine.Generate(context.Background(), greedy(200))
	if err != nil {
		t.Fatal(err)
	}
	<-slow.Done()
	event, err := slow.Next(context.Background())
	if err != nil || event.Text != want || len(event.Tokens) != 200 || event.Finish == nil {
		t.Errorf("expected one event with everything, found %+v, %v", event, err)
	}
}

// Several goroutines read one request: every token reaches one of them, and all see the end.
func TestReadersOfOneRequestShareItsEvents(t *testing.T) {
	engine := newEngine(t, nil)
	request := mustSubmit(t, engine, context.Background(), greedy(100))
	var tokens atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for {
				event, err := request.Next(context.Background())
				if err == io.EOF {
					return
				}
				tokens.Add(int64(len(event.Tokens)))
			}
		}()
	}
	wait.Wait()
	if tokens.Load() != 100 {
		t.Errorf("expected 100 tokens, found %d", tokens.Load())
	}
}

// Objects are made, used, closed in every order and forgotten, from several goroutines, while the collector runs all
// the time.
func TestCollectorStress(t *testing.T) {
	length := 3 * time.Second
	if text := os.Getenv("INFER_GO_STRESS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(length)
	var wait sync.WaitGroup
	var rounds, ended atomic.Int64
	run := func(f func()) {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for time.Now().Before(end) {
				f()
			}
		}()
	}
	run(runtime.GC)
	config := &infer.EngineConfig{Options: infer.Options{"threads": 1, "max_running": 4, "context_length": 256}}
	for range 4 {
		run(func() {
			rounds.Add(1)
			model, err := infer.LoadModel(context.Background(), modelPath, nil)
			if err != nil {
				t.Error(err)
				return
			}
			engine, err := infer.NewEngine(model, config)
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithCancel(context.Background())
			var requests []*infer.Request
			for range 6 {
				request, err := engine.Submit(ctx, greedy(200))
				if err != nil {
					t.Error(err)
					break
				}
				requests = append(requests, request)
			}
			steps := []func(){
				func() { model.Close() },
				func() { engine.Close() },
				func() { engine.Close() },
				cancel,
				func() { requests[0].Close() },
				func() { requests[1].Cancel() },
				func() {
					if _, err := requests[2].Text(ctx); err != nil && !errors.Is(err, infer.ErrCancelled) && !errors.Is(err, infer.ErrClosed) {
						t.Error(err)
					}
					ended.Add(1)
				},
				func() { requests[3] = nil },
				func() { _, _ = requests[4].Next(ctx) },
				func() { _, _ = engine.Stats() },
				func() { _, _ = model.Tokenize("The princess", infer.AddSpecial) },
				runtime.Gosched,
			}
			rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
			// Some are left undone, for the collector.
			steps = steps[:len(steps)-rand.IntN(6)]
			if rand.IntN(2) == 0 {
				for _, step := range steps {
					step()
				}
				return
			}
			var together sync.WaitGroup
			for _, step := range steps {
				together.Add(1)
				go func() {
					defer together.Done()
					step()
				}()
			}
			together.Wait()
		})
	}
	wait.Wait()
	t.Logf("%d rounds, %d texts read", rounds.Load(), ended.Load())
	if rounds.Load() < 4 || ended.Load() == 0 {
		t.Error("too little was done")
	}
}

// What is forgotten is closed: engines and thread pools that nobody refers to give their goroutines and threads back.
func TestForgottenObjectsAreClosed(t *testing.T) {
	const engines, name = 20, "forgotten"
	goroutines := runtime.NumGoroutine()
	for range engines {
		model, err := infer.LoadModel(context.Background(), modelPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		threads, err := infer.NewThreads(infer.Options{"threads": 2, "name": name})
		if err != nil {
			t.Fatal(err)
		}
		engine, err := infer.NewEngine(model, &infer.EngineConfig{Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Submit(context.Background(), endless()); err != nil {
			t.Fatal(err)
		}
	}
	for wait := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		runtime.GC()
		// Threads of the pools only: Go keeps its own for reuse.
		left := threadsNamed(t, name)
		if runtime.NumGoroutine() <= goroutines+1 && left == 0 {
			return
		}
		if time.Now().After(wait) {
			t.Fatalf("expected about %d goroutines and no thread of a pool, found %d and %d",
				goroutines, runtime.NumGoroutine(), left)
		}
	}
}

// threadsNamed counts the threads whose name begins so.
func threadsNamed(t testing.TB, name string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil || len(files) == 0 {
		t.Skip("SKIPPED: names of threads are read from /proc, which this system lacks")
	}
	n := 0
	for _, file := range files {
		// A thread may end before its name is read.
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), name) {
			n++
		}
	}
	return n
}

func TestThreadsOfAPoolCanBeCounted(t *testing.T) {
	threads, err := infer.NewThreads(infer.Options{"threads": 3, "name": "counted"})
	if err != nil {
		t.Fatal(err)
	}
	// A thread takes its name after it has started, and ends after it was told to.
	await := func(want int) {
		t.Helper()
		for wait := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			n := threadsNamed(t, "counted")
			if n == want {
				return
			}
			if time.Now().After(wait) {
				t.Fatalf("expected %d threads beside the caller, found %d", want, n)
			}
		}
	}
	await(2)
	threads.Close()
	await(0)
}

// Goroutines that tokenize long texts at once wait for their turn without a thread each.
func TestManyLongCallsHoldFewThreads(t *testing.T) {
	if !inFreshProcess(t) {
		return
	}
	engine := newEngine(t, nil)
	long := infer.Completion{Prompt: strings.Repeat("It was a long way to Moscow. ", 4000)}
	idle := osThreads(t)
	var wait sync.WaitGroup
	var most atomic.Int64
	for range 200 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			_, err := engine.Submit(context.Background(), long)
			if !errors.Is(err, infer.ErrContextOverflow) {
				t.Errorf("expected ErrContextOverflow, found %v", err)
			}
			now := int64(osThreads(t))
			for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
			}
		}()
	}
	wait.Wait()
	t.Logf("%d threads above idle", int(most.Load())-idle)
	if above := int(most.Load()) - idle; above > 8 {
		t.Errorf("expected at most 8 threads above idle, found %d", above)
	}
}

// A request in use keeps its engine, also when the program has forgotten the engine.
func TestRequestKeepsItsEngine(t *testing.T) {
	request := func() *infer.Request {
		model, err := infer.LoadModel(context.Background(), modelPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		engine, err := infer.NewEngine(model, nil)
		if err != nil {
			t.Fatal(err)
		}
		return mustSubmit(t, engine, context.Background(), greedy(300))
	}()
	for request.Finish() == nil {
		runtime.GC()
	}
	if text, err := request.Text(context.Background()); err != nil || text == "" {
		t.Errorf("expected text, found %q, %v", text, err)
	}
}

// Load, generate, close: the process does not grow.
func TestRoundsDoNotLeak(t *testing.T) {
	round := func() {
		model, err := infer.LoadModel(context.Background(), modelPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		engine, err := infer.NewEngine(model, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := engine.Generate(context.Background(), greedy(2)); err != nil {
			t.Fatal(err)
		}
		engine.Close()
		model.Close()
	}
	for range 20 {
		round()
	}
	before := residentBytes(t)
	for range 60 {
		round()
	}
	grown := residentBytes(t) - before
	t.Logf("resident memory grew by %d KiB in 60 rounds", grown>>10)
	if grown > 30<<20 {
		t.Errorf("expected no growth, found %d KiB", grown>>10)
	}
}

func residentBytes(t testing.TB) int {
	t.Helper()
	runtime.GC()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("SKIPPED: memory is read from /proc, which this system lacks")
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// Microseconds per token of 16 streams that are read as they come. INFER_GO_BENCH_MODEL names another model.
func BenchmarkSixteenStreams(b *testing.B) {
	path := modelPath
	if other := os.Getenv("INFER_GO_BENCH_MODEL"); other != "" {
		path = other
	}
	model, err := infer.LoadModel(context.Background(), path, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer model.Close()
	engine, err := infer.NewEngine(model, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	const streams, length = 16, 128
	tokens := 0
	for b.Loop() {
		var requests []*infer.Request
		for range streams {
			requests = append(requests, mustSubmit(b, engine, context.Background(), greedy(length)))
		}
		var wait sync.WaitGroup
		for _, request := range requests {
			wait.Add(1)
			go func() {
				defer wait.Done()
				for _, err := range request.Events() {
					if err != nil {
						b.Error(err)
					}
				}
			}()
		}
		wait.Wait()
		tokens += streams * length
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(tokens), "µs/token")
}
