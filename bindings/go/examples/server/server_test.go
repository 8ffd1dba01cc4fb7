package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

func serve(t *testing.T, options infer.Options) (*infer.Engine, *httptest.Server) {
	t.Helper()
	model, err := infer.LoadModel(context.Background(), "../../../../models/tolstoy-3m-Q8_0.gguf", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	engine, err := infer.NewEngine(model, &infer.EngineConfig{Options: options})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	server := httptest.NewServer(newHandler(engine))
	t.Cleanup(server.Close)
	return engine, server
}

func post(ctx context.Context, server *httptest.Server, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/generate", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return server.Client().Do(request)
}

func question(prompt string, maxTokens int) string {
	return fmt.Sprintf(`{"prompt": %q, "options": {"max_tokens": %d, "temperature": 0, "ignore_end_of_generation": true}}`,
		prompt, maxTokens)
}

// read takes a stream apart: its text and how it ended.
func read(stream io.Reader) (string, end, error) {
	var text strings.Builder
	var last end
	var name string
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			name = ""
		} else if value, ok := strings.CutPrefix(line, "event: "); ok {
			name = value
		} else if value, ok := strings.CutPrefix(line, "data: "); !ok {
			return "", last, fmt.Errorf("unexpected line %q", line)
		} else if name == "done" {
			if err := json.Unmarshal([]byte(value), &last); err != nil {
				return "", last, err
			}
		} else {
			var c chunk
			if err := json.Unmarshal([]byte(value), &c); err != nil {
				return "", last, err
			}
			text.WriteString(c.Text)
		}
	}
	return text.String(), last, lines.Err()
}

func TestFiftyClientsGetTheirOwnStreams(t *testing.T) {
	engine, server := serve(t, nil)
	prompts := []string{"The princess", "In the year 1812", "Napoleon said", "War is", "Moscow"}
	want := make([]string, len(prompts))
	for i, prompt := range prompts {
		var err error
		want[i], err = engine.Generate(context.Background(), infer.Completion{Prompt: prompt, Options: infer.Options{
			"max_tokens": 40, "temperature": 0, "ignore_end_of_generation": true,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			response, err := post(context.Background(), server, question(prompts[i%len(prompts)], 40))
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
				t.Errorf("unexpected answer %s, %s", response.Status, kind)
			}
			text, last, err := read(response.Body)
			if err != nil || text != want[i%len(prompts)] || last.Reason != "length" || last.GeneratedTokens != 40 {
				t.Errorf("client %d: expected %q, found %q, %+v, %v", i, want[i%len(prompts)], text, last, err)
			}
		}()
	}
	wait.Wait()
}

func TestClientThatGoesAwayCancelsItsCompletion(t *testing.T) {
	engine, server := serve(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	response, err := post(ctx, server, question("War", 1900))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := response.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	response.Body.Close()
	for wait := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stats, err := engine.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if stats.RequestsCancelled == 1 && stats.Running == 0 {
			return
		}
		if stats.RequestsCompleted > 0 || time.Now().After(wait) {
			t.Fatalf("the completion was not cancelled: %+v", stats)
		}
	}
}

func TestRefusals(t *testing.T) {
	engine, server := serve(t, infer.Options{"max_queued": 1, "max_running": 1})
	for body, says := range map[string]string{
		`{"prompt": `:    "body",
		`{"promt": "x"}`: "promt",
		`{"prompt": "x", "options": {"temperature": -1}}`: "temperature",
		`{"prompt": "x", "options": {"top_k": [1]}}`:      "top_k",
		`{"messages": [{"role": "user"}]}`:                "template",
	} {
		response, err := post(context.Background(), server, body)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), says) {
			t.Errorf("%s: expected 400 naming %q, found %s %q", body, says, response.Status, text)
		}
	}
	if err := engine.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 4 {
		_, err := engine.Submit(ctx, infer.Completion{Prompt: "x"})
		if err != nil {
			break
		}
	}
	response, err := post(context.Background(), server, question("x", 1))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("expected 503, found %s", response.Status)
	}
}

func TestMetrics(t *testing.T) {
	_, server := serve(t, nil)
	response, err := server.Client().Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(text), "# TYPE") {
		t.Errorf("unexpected metrics %q, %v", text, err)
	}
}
