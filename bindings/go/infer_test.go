package infer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

const (
	root      = "../.."
	modelPath = root + "/models/tolstoy-3m-Q8_0.gguf"
	prompt    = "Prince Andrew looked at the sky"
)

func loadModel(t testing.TB) *infer.Model {
	t.Helper()
	model, err := infer.LoadModel(context.Background(), modelPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return model
}

func newEngine(t testing.TB, config *infer.EngineConfig) *infer.Engine {
	t.Helper()
	engine, err := infer.NewEngine(loadModel(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	return engine
}

// greedy continues the prompt by n tokens, the most likely each time.
func greedy(n int) infer.Completion {
	return infer.Completion{Prompt: prompt, Options: infer.Options{
		"max_tokens": n, "temperature": 0, "ignore_end_of_generation": true,
	}}
}

// endless runs until it is ended from outside, as far as a test can tell.
func endless() infer.Completion {
	return greedy(1900)
}

func mustSubmit(t testing.TB, engine *infer.Engine, ctx context.Context, completion infer.Completion) *infer.Request {
	t.Helper()
	request, err := engine.Submit(ctx, completion)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// wantError checks the kind of an error and that its message says something.
func wantError(t testing.TB, err error, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("expected %v, found %v", kind, err)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("expected the message to name %q, found %q", part, err)
		}
	}
}

func TestOutputsComeWithTheirTokens(t *testing.T) {
	engine := newEngine(t, nil)
	ctx := context.Background()
	completion := greedy(8)
	completion.Options["logprobs"] = true
	completion.Options["top_logprobs"] = 3
	completion.Options["prompt_logprobs"] = true
	generated, scored, promptTokens := 0, 0, 0
	for event, err := range mustSubmit(t, engine, ctx, completion).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if len(event.Logprobs) != len(event.Tokens) || len(event.TopLogprobs) != len(event.Tokens) {
			t.Fatalf("%d tokens with %d and %d log probabilities", len(event.Tokens), len(event.Logprobs), len(event.TopLogprobs))
		}
		for i, top := range event.TopLogprobs {
			if want := (infer.TokenLogprob{Token: event.Tokens[i], Logprob: event.Logprobs[i]}); len(top) != 3 || top[0] != want {
				t.Errorf("expected 3 with %v first, found %v", want, top)
			}
		}
		generated += len(event.Tokens)
		scored += len(event.PromptLogprobs)
		if event.Finish != nil {
			promptTokens = event.Finish.PromptTokens
		}
	}
	if generated != 8 || scored != promptTokens {
		t.Errorf("%d tokens of 8, %d scores of %d", generated, scored, promptTokens)
	}
	completion = greedy(8)
	completion.Options["embedding"] = "last"
	event, err := mustSubmit(t, engine, ctx, completion).Next(ctx)
	if err != nil || event.Finish == nil || len(event.Tokens) != 0 {
		t.Fatalf("%v, %v", event, err)
	}
	norm := 0.0
	for _, x := range event.Embedding {
		norm += float64(x) * float64(x)
	}
	if math.Abs(norm-1) > 1e-5 {
		t.Errorf("the norm's square is %v", norm)
	}
}

func TestGreedyTextIsThatOfTheCExample(t *testing.T) {
	hello := filepath.Join(t.TempDir(), "hello")
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	build := exec.Command(compiler, "-o", hello, root+"/examples/c/hello.c", "-I", root+"/include",
		root+"/target/release/libinfer.a", "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the C example: %v\n%s", err, out)
	}
	run := func(args ...string) string {
		args = append(args, modelPath, prompt, "64", "0")
		out, err := exec.Command(hello, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	wantText := strings.TrimSuffix(run(), "\n")
	var wantIDs []uint32
	for _, word := range strings.Fields(run("--ids")) {
		id, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		wantIDs = append(wantIDs, uint32(id))
	}

	engine := newEngine(t, nil)
	completion := infer.Completion{Prompt: prompt, Options: infer.Options{"max_tokens": 64, "temperature": 0}}
	request := mustSubmit(t, engine, context.Background(), completion)
	var text strings.Builder
	var ids []uint32
	var finish *infer.Finish
	for event, err := range request.Events() {
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(event.Text)
		ids = append(ids, event.Tokens...)
		finish = event.Finish
	}
	if text.String() != wantText || len(wantText) < 50 {
		t.Errorf("expected %q, found %q", wantText, text.String())
	}
	if !slices.Equal(ids, wantIDs) {
		t.Errorf("expected ids %v, found %v", wantIDs, ids)
	}
	if finish == nil || finish.Reason != infer.FinishLength || finish.GeneratedTokens != 64 || finish.PromptTokens == 0 ||
		finish.TotalTime < finish.TimeToFirstToken || finish.TimeToFirstToken <= 0 {
		t.Errorf("implausible end %+v", finish)
	}
	if _, err := request.Next(context.Background()); err != io.EOF {
		t.Errorf("expected io.EOF after the last event, found %v", err)
	}
	if request.Finish() == nil || request.Finish().GeneratedTokens != 64 {
		t.Errorf("the request does not know its end: %+v", request.Finish())
	}

	if got, err := engine.Generate(context.Background(), completion); err != nil || got != wantText {
		t.Errorf("Generate: expected %q, found %q, %v", wantText, got, err)
	}
	read, err := io.ReadAll(mustSubmit(t, engine, context.Background(), completion).Reader())
	if err != nil || string(read) != wantText {
		t.Errorf("Reader: expected %q, found %q, %v", wantText, read, err)
	}
}

func TestContextCancelsACompletion(t *testing.T) {
	engine := newEngine(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	request := mustSubmit(t, engine, ctx, endless())
	if _, err := request.Next(context.Background()); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err := request.Text(context.Background())
	wantError(t, err, infer.ErrCancelled, "cancel")
	wantError(t, err, context.Canceled)
	if finish := request.Finish(); finish.Reason != infer.FinishCancelled || finish.GeneratedTokens >= 1900 {
		t.Errorf("unexpected end %+v", finish)
	}
	_, err = engine.Submit(ctx, greedy(1))
	wantError(t, err, context.Canceled)
}

func TestContextDeadlineCancelsACompletion(t *testing.T) {
	engine := newEngine(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	var last error
	for _, err := range mustSubmit(t, engine, ctx, endless()).Events() {
		last = err
	}
	wantError(t, last, context.DeadlineExceeded)
	wantError(t, last, infer.ErrCancelled)
}

func TestContextOfTextCancels(t *testing.T) {
	engine := newEngine(t, nil)
	request := mustSubmit(t, engine, context.Background(), endless())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, err := request.Text(ctx)
	wantError(t, err, context.DeadlineExceeded)
}

func TestContextOfNextOnlyLimitsTheWait(t *testing.T) {
	engine := newEngine(t, nil)
	if err := engine.Pause(); err != nil {
		t.Fatal(err)
	}
	request := mustSubmit(t, engine, context.Background(), greedy(4))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := request.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("expected the deadline, found %v", err)
	}
	if err := engine.Resume(); err != nil {
		t.Fatal(err)
	}
	if text, err := request.Text(context.Background()); err != nil || text == "" {
		t.Errorf("expected text, found %q, %v", text, err)
	}
}

func TestDeadlineOptionEndsWithWhatThereIs(t *testing.T) {
	engine := newEngine(t, nil)
	completion := endless()
	completion.Options["deadline_ms"] = 40 * time.Millisecond
	request := mustSubmit(t, engine, context.Background(), completion)
	if _, err := request.Text(context.Background()); err != nil {
		t.Fatal(err)
	}
	if finish := request.Finish(); finish.Reason != infer.FinishDeadline || finish.TotalTime < 40*time.Millisecond {
		t.Errorf("unexpected end %+v", finish)
	}
}

func TestCancelAndCloseEndARequest(t *testing.T) {
	engine := newEngine(t, nil)
	request := mustSubmit(t, engine, context.Background(), endless())
	request.Cancel()
	request.Cancel()
	_, err := request.Text(context.Background())
	wantError(t, err, infer.ErrCancelled)
	for range 2 {
		if err := request.Close(); err != nil {
			t.Fatal(err)
		}
	}
	<-request.Done()
}

func TestEngineClosedWhileStreaming(t *testing.T) {
	engine := newEngine(t, nil)
	var wait sync.WaitGroup
	errs := make([]error, 40)
	var started sync.WaitGroup
	for i := range errs {
		request := mustSubmit(t, engine, context.Background(), endless())
		started.Add(1)
		wait.Add(1)
		go func() {
			defer wait.Done()
			started.Done()
			_, errs[i] = request.Text(context.Background())
		}()
	}
	started.Wait()
	for range 3 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			if err := engine.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
	for _, err := range errs {
		wantError(t, err, infer.ErrClosed, "engine")
	}
	_, err := engine.Submit(context.Background(), greedy(1))
	wantError(t, err, infer.ErrClosed, "engine")
	_, err = engine.Stats()
	wantError(t, err, infer.ErrClosed)
}

func TestModelMayBeClosedBeforeItsEngine(t *testing.T) {
	model := loadModel(t)
	engine, err := infer.NewEngine(model, nil)
	if err != nil {
		t.Fatal(err)
	}
	model.Close()
	model.Close()
	if text, err := engine.Generate(context.Background(), greedy(8)); err != nil || text == "" {
		t.Errorf("expected text, found %q, %v", text, err)
	}
	_, err = model.Tokenize("x", 0)
	wantError(t, err, infer.ErrClosed, "model")
	engine.Close()
	_, err = infer.NewEngine(model, nil)
	wantError(t, err, infer.ErrClosed)
}

func TestFullQueueIsBusy(t *testing.T) {
	engine := newEngine(t, &infer.EngineConfig{Options: infer.Options{"max_queued": 2, "max_running": 1}})
	if err := engine.Pause(); err != nil {
		t.Fatal(err)
	}
	var requests []*infer.Request
	var refused error
	for range 8 {
		request, err := engine.Submit(context.Background(), greedy(2))
		if err != nil {
			refused = err
			break
		}
		requests = append(requests, request)
	}
	wantError(t, refused, infer.ErrBusy, "2")
	_, err := engine.SubmitBatch(context.Background(), []infer.Completion{greedy(1), greedy(1), greedy(1)})
	wantError(t, err, infer.ErrBusy)
	if err := engine.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, request := range requests {
		if _, err := request.Text(context.Background()); err != nil {
			t.Error(err)
		}
	}
	// A refused submission leaves nothing that would keep the engine from draining.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := engine.Drain(ctx); err != nil {
		t.Error(err)
	}
}

func TestDrainWaitsAndRefuses(t *testing.T) {
	engine := newEngine(t, nil)
	request := mustSubmit(t, engine, context.Background(), greedy(50))
	if err := engine.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if request.Finish() == nil {
		t.Error("Drain came back before the request ended")
	}
	_, err := engine.Submit(context.Background(), greedy(1))
	wantError(t, err, infer.ErrClosed, "drain")
	if err := engine.Resume(); err != nil {
		t.Fatal(err)
	}
	running := mustSubmit(t, engine, context.Background(), endless())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := engine.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected the deadline, found %v", err)
	}
	running.Close()
}

func TestBatchGivesWhatSingleRequestsGive(t *testing.T) {
	engine := newEngine(t, nil)
	prompts := []string{"The princess", "In the year 1812", "War is"}
	var batch []infer.Completion
	var want []string
	for _, p := range prompts {
		c := greedy(16)
		c.Prompt = p
		text, err := engine.Generate(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		batch, want = append(batch, c), append(want, text)
	}
	requests, err := engine.SubmitBatch(context.Background(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, request := range requests {
		if text, err := request.Text(context.Background()); err != nil || text != want[i] {
			t.Errorf("%q: expected %q, found %q, %v", prompts[i], want[i], text, err)
		}
	}
	batch[1].Options = infer.Options{"temperature": -1}
	_, err = engine.SubmitBatch(context.Background(), batch)
	wantError(t, err, infer.ErrInvalidArgument, "temperature", "request 1")
	batch[1] = infer.Completion{Tokens: []uint32{1 << 31}}
	_, err = engine.SubmitBatch(context.Background(), batch)
	wantError(t, err, infer.ErrInvalidArgument, "1")
	if none, err := engine.SubmitBatch(context.Background(), nil); err != nil || len(none) != 0 {
		t.Errorf("an empty batch: %v, %v", none, err)
	}
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	model := loadModel(t)
	_, err := infer.LoadModel(context.Background(), modelPath, &infer.ModelConfig{Options: infer.Options{"load_mode": "tape"}})
	wantError(t, err, infer.ErrInvalidArgument, "load_mode", "tape", "read|mmap")
	_, err = infer.NewEngine(model, &infer.EngineConfig{Options: infer.Options{"no_such": 1}})
	wantError(t, err, infer.ErrInvalidArgument, "no_such")
	_, err = infer.NewEngine(model, &infer.EngineConfig{Options: infer.Options{"threads": []int{1}}})
	wantError(t, err, infer.ErrInvalidArgument, "threads", "[]int")
	_, err = infer.NewThreads(infer.Options{"threads": "many"})
	wantError(t, err, infer.ErrInvalidArgument, "threads", "many")

	engine := newEngine(t, nil)
	for _, c := range []struct {
		completion infer.Completion
		kind       infer.Status
		says       string
	}{
		{infer.Completion{Prompt: "x", Options: infer.Options{"temperature": "hot"}}, infer.ErrInvalidArgument, "temperature"},
		{infer.Completion{Prompt: "x", Options: infer.Options{"max_tokens": time.Second}}, infer.ErrInvalidArgument, "duration"},
		{infer.Completion{Prompt: "x", Options: infer.Options{"max_tokens": "1\x00"}}, infer.ErrInvalidArgument, "NUL"},
		{infer.Completion{Prompt: "x", Options: infer.Options{"tag": 1}}, infer.ErrInvalidArgument, "tag"},
		{infer.Completion{Prompt: "x", Tokens: []uint32{1}}, infer.ErrInvalidArgument, "one of"},
		{infer.Completion{Prompt: "\xff"}, infer.ErrInvalidUTF8, "UTF-8"},
		{infer.Completion{Messages: []infer.Message{{Role: "user", Content: "\xff"}}}, infer.ErrInvalidUTF8, "UTF-8"},
		{infer.Completion{MessagesJSON: "{"}, infer.ErrInvalidArgument, "JSON"},
		{infer.Completion{Tokens: []uint32{1 << 31}}, infer.ErrInvalidArgument, "vocabulary"},
		{infer.Completion{Tokens: []uint32{}}, infer.ErrInvalidArgument, "prompt"},
		{infer.Completion{Prompt: "x", Stop: []string{""}}, infer.ErrInvalidArgument, "stop"},
		{infer.Completion{Prompt: strings.Repeat("word ", 5000)}, infer.ErrContextOverflow, "context"},
	} {
		_, err := engine.Submit(context.Background(), c.completion)
		wantError(t, err, c.kind, c.says)
	}
}

func TestChatTemplateErrorsNameTheReason(t *testing.T) {
	model := loadModel(t)
	messages := []infer.Message{{Role: "user", Content: "Who are you?"}}
	if model.Info().HasChatTemplate {
		t.Fatal("this test expects the demo model to have no chat template")
	}
	_, err := model.ApplyChatTemplate(messages, true)
	wantError(t, err, infer.ErrUnsupported, "template")
	engine := newEngine(t, nil)
	_, err = engine.Submit(context.Background(), infer.Completion{Messages: messages})
	wantError(t, err, infer.ErrUnsupported, "template")
}

func TestModelFilesThatCannotBeLoaded(t *testing.T) {
	_, err := infer.LoadModel(context.Background(), "/no/such/model.gguf", nil)
	wantError(t, err, infer.ErrIO, "/no/such/model.gguf", "No such file")
	var detail *infer.Error
	if !errors.As(err, &detail) || detail.Status != infer.ErrIO {
		t.Errorf("expected an *infer.Error with ErrIO, found %#v", err)
	}
	if infer.ErrIO.Error() != "INFER_ERR_IO" {
		t.Errorf("unexpected name %q", infer.ErrIO.Error())
	}
	_, err = infer.LoadModelFromMemory(context.Background(), []byte("GGUF but not really"), nil)
	wantError(t, err, infer.ErrInvalidModel)
	_, err = infer.LoadModelFromMemory(context.Background(), nil, nil)
	if err == nil {
		t.Error("a model of no bytes was loaded")
	}
	_, err = infer.EstimateMemory("/no/such/model.gguf", nil, nil)
	wantError(t, err, infer.ErrIO)
}

func TestLoadingReportsProgressAndCanBeCancelled(t *testing.T) {
	var fractions []float32
	model, err := infer.LoadModel(context.Background(), modelPath, &infer.ModelConfig{Progress: func(f float32) bool {
		fractions = append(fractions, f)
		return true
	}})
	if err != nil {
		t.Fatal(err)
	}
	model.Close()
	if len(fractions) == 0 || !slices.IsSorted(fractions) || fractions[len(fractions)-1] != 1 {
		t.Errorf("unexpected progress %v", fractions)
	}
	_, err = infer.LoadModel(context.Background(), modelPath, &infer.ModelConfig{Progress: func(float32) bool { return false }})
	wantError(t, err, infer.ErrCancelled)

	ctx, cancel := context.WithCancel(context.Background())
	_, err = infer.LoadModel(ctx, modelPath, &infer.ModelConfig{Progress: func(float32) bool {
		cancel()
		return true
	}})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("expected context.Canceled, found %v", err)
	}
	_, err = infer.LoadModel(ctx, modelPath, nil)
	wantError(t, err, context.Canceled)

	func() {
		defer func() {
			if r := recover(); r != "from the callback" {
				t.Errorf("expected the callback's panic, found %v", r)
			}
		}()
		_, _ = infer.LoadModel(context.Background(), modelPath, &infer.ModelConfig{Progress: func(float32) bool {
			panic("from the callback")
		}})
	}()
}

func TestModelFromMemory(t *testing.T) {
	data, err := os.ReadFile(modelPath)
	if err != nil {
		t.Fatal(err)
	}
	model, err := infer.LoadModelFromMemory(context.Background(), data, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	clear(data)
	engine, err := infer.NewEngine(model, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	got, err := engine.Generate(context.Background(), greedy(12))
	if err != nil {
		t.Fatal(err)
	}
	want, err := newEngine(t, nil).Generate(context.Background(), greedy(12))
	if err != nil || got != want {
		t.Errorf("expected %q, found %q, %v", want, got, err)
	}
}

func TestTokenizeRoundTrip(t *testing.T) {
	model := loadModel(t)
	for _, text := range []string{"", "x", prompt, "Привет, мир! 🙂 <b>&amp;</b>\x00\n", strings.Repeat("Moscow burned. ", 500)} {
		ids, err := model.Tokenize(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		back, err := model.Detokenize(ids, 0)
		if err != nil || back != text {
			t.Errorf("expected %q, found %q, %v", text, back, err)
		}
	}
	bos, err := model.SpecialToken(infer.TokenBOS)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := model.Tokenize("War", infer.AddSpecial)
	if err != nil || ids[0] != bos {
		t.Errorf("expected the begin token %d first, found %v, %v", bos, ids, err)
	}
	text, err := model.TokenText(bos)
	if err != nil || text == "" {
		t.Errorf("the begin token has no text: %q, %v", text, err)
	}
	if rendered, err := model.Detokenize([]uint32{bos}, infer.RenderSpecial); err != nil || rendered != text {
		t.Errorf("expected %q, found %q, %v", text, rendered, err)
	}
	if parsed, err := model.Tokenize(text, infer.ParseSpecial); err != nil || !slices.Equal(parsed, []uint32{bos}) {
		t.Errorf("expected [%d], found %v, %v", bos, parsed, err)
	}
	eos, err := model.SpecialToken(infer.TokenEOS)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint32]bool{eos: true, 5: false} {
		if ends, err := model.IsEndOfGeneration(id); err != nil || ends != want {
			t.Errorf("token %d ends a completion: expected %v, found %v, %v", id, want, ends, err)
		}
	}
	_, err = model.SpecialToken(infer.TokenSeparator)
	wantError(t, err, infer.ErrNotFound)
	_, err = model.SpecialToken(99)
	wantError(t, err, infer.ErrInvalidArgument)
	_, err = model.Tokenize("\xff", 0)
	wantError(t, err, infer.ErrInvalidUTF8)
	_, err = model.Detokenize([]uint32{1 << 30}, 0)
	wantError(t, err, infer.ErrInvalidArgument)
}

func TestMetadataAndInfo(t *testing.T) {
	model := loadModel(t)
	info := model.Info()
	if info.Architecture != "llama" || info.Name != "tolstoy-3m" || info.VocabularySize != 4096 || info.Layers != 2 ||
		info.EmbeddingLength != 256 || info.Heads != 4 || info.KVHeads != 2 || info.ContextLength != 2048 ||
		info.Parameters < 2e6 || info.WeightBytes < info.Parameters || info.Description == "" {
		t.Errorf("unexpected info %+v", info)
	}
	keys, err := model.MetadataKeys()
	if err != nil || !slices.Contains(keys, "llama.block_count") {
		t.Fatalf("unexpected keys %v, %v", keys, err)
	}
	for _, key := range keys {
		if _, err := model.Metadata(key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if value, err := model.Metadata("llama.block_count"); err != nil || value != "2" {
		t.Errorf("expected 2, found %q, %v", value, err)
	}
	if tokens, err := model.Metadata("tokenizer.ggml.tokens"); err != nil || len(tokens) < 4096 || tokens[0] != '[' {
		t.Errorf("expected a long array, found %d bytes, %v", len(tokens), err)
	}
	_, err = model.Metadata("no.such.key")
	wantError(t, err, infer.ErrNotFound, "no.such.key")

	estimate, err := infer.EstimateMemory(modelPath, nil, infer.Options{"max_running": 4})
	if err != nil || estimate.Total != estimate.Weights+estimate.KVCache+estimate.Workspace || estimate.Weights == 0 {
		t.Errorf("unexpected estimate %+v, %v", estimate, err)
	}
	if !regexp.MustCompile(`^\d+\.\d+\.\d+`).MatchString(infer.Version()) || infer.CPULevel() == "" {
		t.Errorf("unexpected version %q or CPU level %q", infer.Version(), infer.CPULevel())
	}
}

func TestEveryOptionTakesItsDefault(t *testing.T) {
	byObject := map[string]infer.Options{"model": {}, "engine": {}, "request": {}, "threads": {}, "kv_cache": {}}
	for _, o := range infer.DescribeOptions() {
		if o.Doc == "" || o.Range == "" || byObject[o.Object] == nil {
			t.Errorf("incomplete option %+v", o)
		}
		if o.Name != "tag" {
			byObject[o.Object][o.Name] = o.Default
		}
	}
	model, err := infer.LoadModel(context.Background(), modelPath, &infer.ModelConfig{Options: byObject["model"]})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	engine, err := infer.NewEngine(model, &infer.EngineConfig{Options: byObject["engine"]})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	text, err := engine.Generate(context.Background(), infer.Completion{Prompt: prompt, Options: byObject["request"]})
	if err != nil || text == "" {
		t.Errorf("expected text, found %q, %v", text, err)
	}
	threads, err := infer.NewThreads(byObject["threads"])
	if err != nil {
		t.Fatal(err)
	}
	threads.Close()

	// The shape has no default.
	for _, name := range []string{"n_layers", "n_kv_heads", "head_dim"} {
		byObject["kv_cache"][name] = 8
	}
	cache, err := infer.NewKVCache(byObject["kv_cache"])
	if err != nil {
		t.Fatal(err)
	}
	cache.Close()
}

func TestOptionValuesOfEveryType(t *testing.T) {
	engine := newEngine(t, nil)
	for _, options := range []infer.Options{
		{"max_tokens": 1e6, "temperature": float32(0.1), "ignore_end_of_generation": false},
		{"max_tokens": uint8(3), "temperature": json.Number("0.5"), "deadline_ms": 90 * time.Second},
		{"max_tokens": "3", "temperature": 1e-9, "seed": uint64(math.MaxUint64)},
	} {
		request := mustSubmit(t, engine, context.Background(), infer.Completion{Prompt: prompt, Options: options})
		if _, err := request.Next(context.Background()); err != nil {
			t.Errorf("%v: %v", options, err)
		}
		request.Close()
	}
}

func TestStopTextAndStopToken(t *testing.T) {
	engine := newEngine(t, nil)
	whole, err := engine.Generate(context.Background(), greedy(40))
	if err != nil {
		t.Fatal(err)
	}
	stop := whole[len(whole)/2 : len(whole)/2+5]
	completion := greedy(40)
	completion.Stop = []string{"no such text", stop}
	request := mustSubmit(t, engine, context.Background(), completion)
	text, err := request.Text(context.Background())
	if want := whole[:strings.Index(whole, stop)]; err != nil || text != want {
		t.Errorf("expected %q, found %q, %v", want, text, err)
	}
	if f := request.Finish(); f.Reason != infer.FinishStop || f.Stop != stop {
		t.Errorf("unexpected end %+v", f)
	}
	first := mustSubmit(t, engine, context.Background(), greedy(1))
	event, err := first.Next(context.Background())
	if err != nil || len(event.Tokens) != 1 {
		t.Fatalf("%+v, %v", event, err)
	}
	completion = greedy(40)
	completion.StopTokens = []uint32{event.Tokens[0]}
	request = mustSubmit(t, engine, context.Background(), completion)
	if _, err := request.Text(context.Background()); err != nil {
		t.Fatal(err)
	}
	if f := request.Finish(); f.Reason != infer.FinishStop || f.Stop != fmt.Sprint(event.Tokens[0]) || f.Reason.String() != "stop" {
		t.Errorf("unexpected end %+v", f)
	}
}

func TestPromptOfTokensIsThatOfText(t *testing.T) {
	engine := newEngine(t, nil)
	ids, err := engine.Model().Tokenize(prompt, infer.AddSpecial|infer.ParseSpecial)
	if err != nil {
		t.Fatal(err)
	}
	completion := greedy(20)
	want, err := engine.Generate(context.Background(), completion)
	if err != nil {
		t.Fatal(err)
	}
	completion.Prompt, completion.Tokens = "", ids
	if got, err := engine.Generate(context.Background(), completion); err != nil || got != want {
		t.Errorf("expected %q, found %q, %v", want, got, err)
	}
}

func TestStatsCountWhatWasDone(t *testing.T) {
	engine := newEngine(t, nil)
	before, err := engine.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Generate(context.Background(), greedy(20)); err != nil {
		t.Fatal(err)
	}
	request := mustSubmit(t, engine, context.Background(), endless())
	request.Cancel()
	<-request.Done()
	if err := engine.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	after, err := engine.Stats()
	if err != nil {
		t.Fatal(err)
	}
	delta, err := after.Since(before)
	if err != nil || delta.RequestsSubmitted != 2 || delta.RequestsCompleted != 1 || delta.RequestsCancelled != 1 ||
		delta.GeneratedTokens < 20 || delta.DecodeTime <= 0 || delta.DecodeTokensPerSecond <= 0 || after.Running != 0 {
		t.Errorf("unexpected counts %+v, %v", delta, err)
	}
	both, err := after.Merge(after)
	if err != nil || both.GeneratedTokens != 2*after.GeneratedTokens || both.MaxBatch != after.MaxBatch {
		t.Errorf("unexpected sum %+v, %v", both, err)
	}
	summary, err := engine.Summary()
	if err != nil || len(summary) < 100 {
		t.Errorf("unexpected summary %q, %v", summary, err)
	}
	metrics, err := engine.MetricsText()
	if err != nil || !strings.Contains(metrics, "# TYPE") {
		t.Errorf("unexpected metrics %q, %v", metrics, err)
	}
	if _, err := engine.Trim(1 << 30); err != nil {
		t.Error(err)
	}
	if err := engine.ClearCache(""); err != nil {
		t.Error(err)
	}
}

func TestStateGoesOnInAnotherEngine(t *testing.T) {
	ctx := context.Background()
	completion := greedy(16)
	completion.Prompt = strings.Repeat("The old prince said nothing. ", 8)
	ids, err := loadModel(t).Tokenize(completion.Prompt, infer.AddSpecial)
	if err != nil {
		t.Fatal(err)
	}
	engine := newEngine(t, nil)
	want, err := engine.Generate(ctx, completion)
	if err != nil {
		t.Fatal(err)
	}
	state, err := engine.SaveState(ids, "")
	if err != nil || len(state) < 1000 {
		t.Fatalf("a state of %d bytes, %v", len(state), err)
	}
	// Another engine of another copy of the model.
	other := newEngine(t, nil)
	if n, err := other.RestoreState(state, ""); err != nil || n != len(ids) {
		t.Fatalf("restored %d tokens of %d, %v", n, len(ids), err)
	}
	request := mustSubmit(t, other, ctx, completion)
	text, err := request.Text(ctx)
	if err != nil || text != want {
		t.Errorf("expected %q, found %q, %v", want, text, err)
	}
	if finish := request.Finish(); finish == nil || finish.CachedTokens != len(ids)-1 {
		t.Errorf("unexpected end %+v", finish)
	}
	for _, bad := range [][]byte{nil, state[:100], state[1:]} {
		_, err := other.RestoreState(bad, "")
		wantError(t, err, infer.ErrInvalidArgument, "state")
	}
	if empty, err := other.SaveState(nil, "someone"); err != nil || len(empty) == 0 {
		t.Errorf("a state of no tokens: %d bytes, %v", len(empty), err)
	}
	off := newEngine(t, &infer.EngineConfig{Options: infer.Options{"prefix_cache": false}})
	_, err = off.RestoreState(state, "")
	wantError(t, err, infer.ErrUnsupported, "prefix_cache")
}

func TestHistogramsCountSubtractAndAdd(t *testing.T) {
	engine := newEngine(t, nil)
	of := func(kind infer.HistogramKind) infer.Histogram {
		t.Helper()
		h, err := engine.Histogram(kind)
		if err != nil || h.Kind() != kind {
			t.Fatalf("unexpected histogram of kind %v, %v", h.Kind(), err)
		}
		return h
	}
	before := of(infer.HistogramInterTokenTime)
	for range 2 {
		if _, err := engine.Generate(context.Background(), greedy(20)); err != nil {
			t.Fatal(err)
		}
	}
	gaps, firsts := of(infer.HistogramInterTokenTime), of(infer.HistogramTimeToFirstToken)
	if before.Count() != 0 || gaps.Count() == 0 || gaps.Count() > 38 || firsts.Count() != 2 || gaps.Sum() == 0 {
		t.Errorf("unexpected counts %d, %d and %d", before.Count(), gaps.Count(), firsts.Count())
	}
	var sum uint64
	for _, n := range gaps.Counts() {
		sum += n
	}
	bounds := gaps.Bounds()
	if sum != gaps.Count() || !slices.IsSorted(bounds) || bounds[len(bounds)-1] != math.MaxUint64 {
		t.Errorf("unexpected buckets %v of %v", gaps.Counts(), bounds)
	}
	median, err := gaps.Quantile(0.5)
	if most, e := gaps.Quantile(1); err != nil || e != nil || median <= 0 || most != float64(gaps.Max()) || median > most {
		t.Errorf("unexpected quantiles %v and %v, %v, %v", median, most, err, e)
	}
	delta, err := gaps.Since(gaps)
	if err != nil || delta.Count() != 0 || delta.Kind() != gaps.Kind() {
		t.Errorf("unexpected difference %v, %v", delta.Count(), err)
	}
	both, err := gaps.Merge(gaps)
	if err != nil || both.Count() != 2*gaps.Count() {
		t.Errorf("unexpected sum %v, %v", both.Count(), err)
	}
	_, err = gaps.Merge(firsts)
	wantError(t, err, infer.ErrInvalidArgument, "same kind")
	_, err = engine.Histogram(99)
	wantError(t, err, infer.ErrInvalidArgument, "99")
}

func TestStatsHaveTheFieldsOfTheHeader(t *testing.T) {
	header, err := os.ReadFile(root + "/include/infer.h")
	if err != nil {
		t.Fatal(err)
	}
	body := regexp.MustCompile(`(?s)typedef struct \{([^}]*)\} infer_stats;`).FindSubmatch(header)
	if body == nil {
		t.Fatal("infer.h has no infer_stats")
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^  (?:uint64_t|double) (\w+);`).FindAllSubmatch(body[1], -1) {
		want = append(want, strings.ReplaceAll(strings.TrimSuffix(string(m[1]), "_ns"), "_", ""))
	}
	var got []string
	for i, kind := 1, reflect.TypeFor[infer.Stats](); i < kind.NumField(); i++ {
		got = append(got, strings.ToLower(kind.Field(i).Name))
	}
	if !slices.Equal(got, want) {
		t.Errorf("expected the fields\n%v\nfound\n%v", want, got)
	}
}

func TestEnginesShareThreads(t *testing.T) {
	threads, err := infer.NewThreads(infer.Options{"threads": 2})
	if err != nil {
		t.Fatal(err)
	}
	if threads.Count() != 2 {
		t.Errorf("expected 2 threads, found %d", threads.Count())
	}
	config := &infer.EngineConfig{Threads: threads}
	a, b := newEngine(t, config), newEngine(t, config)
	threads.Close()
	threads.Close()
	if threads.Count() != 0 {
		t.Error("a closed pool has threads")
	}
	want, err := a.Generate(context.Background(), greedy(16))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Generate(context.Background(), greedy(16)); err != nil || got != want {
		t.Errorf("expected %q, found %q, %v", want, got, err)
	}
	_, err = infer.NewEngine(loadModel(t), config)
	wantError(t, err, infer.ErrClosed, "thread pool")
}

func TestADraftModelProposes(t *testing.T) {
	draft := loadModel(t)
	config := &infer.EngineConfig{Draft: draft, Options: infer.Options{"speculation_adaptive": false}}
	drafting, plain := newEngine(t, config), newEngine(t, nil)
	want, err := plain.Generate(context.Background(), greedy(40))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := drafting.Generate(context.Background(), greedy(40)); err != nil || got != want {
		t.Errorf("expected %q, found %q, %v", want, got, err)
	}
	if summary, err := drafting.Summary(); err != nil || !strings.Contains(summary, "speculation: draft") {
		t.Errorf("the summary says %q, %v", summary, err)
	}
	stats, err := drafting.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.AcceptedTokens == 0 || stats.AcceptedTokens != stats.DraftTokens || stats.DraftAcceptance != 1 {
		t.Errorf("a model accepts what it proposes itself, found %+v", stats)
	}
	draft.Close()
	_, err = infer.NewEngine(loadModel(t), config)
	wantError(t, err, infer.ErrClosed, "model")
}

func TestManualStep(t *testing.T) {
	engine := newEngine(t, &infer.EngineConfig{Options: infer.Options{"manual_step": true}})
	request := mustSubmit(t, engine, context.Background(), greedy(10))
	for more := true; more; {
		var err error
		if more, err = engine.Step(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := request.Text(context.Background())
	want, _ := newEngine(t, nil).Generate(context.Background(), greedy(10))
	if err != nil || text != want {
		t.Errorf("expected %q, found %q, %v", want, text, err)
	}
	_, err = newEngine(t, nil).Step()
	wantError(t, err, infer.ErrInvalidArgument)
}

// lines is a writer that several goroutines may use.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func TestLogRecordsReachTheLogger(t *testing.T) {
	var out lines
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	engine := newEngine(t, &infer.EngineConfig{Logger: logger})
	if _, err := engine.Generate(context.Background(), greedy(4)); err != nil {
		t.Fatal(err)
	}
	engine.Close()
	for wait := time.Now().Add(5 * time.Second); time.Now().Before(wait); time.Sleep(10 * time.Millisecond) {
		out.mu.Lock()
		text := out.text.String()
		out.mu.Unlock()
		if strings.Contains(text, "target=") && strings.Contains(text, "msg=") {
			return
		}
	}
	t.Fatalf("no log record came: %q", out.text.String())
}
